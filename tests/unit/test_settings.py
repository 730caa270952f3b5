import functools
import pkgutil
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import components
from crossfold.cli.data import digits_options
from crossfold.data.layouts.listing import escaped
from crossfold.errors import UserError
from crossfold.settings import Candidate, load_settings

SHIPPED = Path(__file__).parents[2] / "params.yaml"
STEPS = {module.name for module in pkgutil.iter_modules(components.__path__)}


def mistakes(*changes: str) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(SHIPPED, changes)
    return str(caught.value)


def test_what_is_shipped_is_loaded_as_it_stands() -> None:
    settings = load_settings(SHIPPED)
    dumped = settings.model_dump(mode="json")
    shipped = yaml.safe_load(SHIPPED.read_text())
    assert len(dumped["candidates"]) == len(shipped["candidates"])
    for found, written in zip(dumped.pop("candidates"), shipped.pop("candidates"), strict=True):
        assert written.items() <= found.items()
    assert not shipped.pop("resources")
    assert {*dumped.pop("resources")} == STEPS
    dumped["model"] = {k: v for k, v in dumped["model"].items() if v is not None}
    assert dumped == shipped
    assert [c.train_from for c in settings.candidates] == ["head", "head", "blocks.6"]
    (backbone,) = settings.backbones
    assert (backbone.name, backbone.image_size) == ("tf_efficientnet_lite0", None)
    assert settings.cuts(backbone) == ["head", "blocks.6"]
    assert [c.model_dump() for c in settings.compared] == [
        c.model_dump() for c in settings.candidates
    ]


def test_settings_are_frozen() -> None:
    settings = load_settings(SHIPPED)
    with pytest.raises(ValueError, match="frozen"):
        settings.data.seed = 3


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_every_way_to_write_a_small_number_is_taken(text: str) -> None:
    changed = load_settings(SHIPPED, [f"candidates.2.learning_rate={text}"])
    assert changed.candidates[2].learning_rate == 0.001


@pytest.mark.parametrize(
    ("values", "frozen", "stage"),
    [
        ({"freeze_backbone": True}, True, "head"),
        ({"freeze_backbone": False}, False, "pixels"),
        ({"train_from": "head"}, True, "head"),
        ({"train_from": "pixels"}, False, "pixels"),
        ({"train_from": "layer4"}, False, "layer4"),
        ({"freeze_backbone": False, "train_from": "layer4"}, False, "layer4"),
        ({"freeze_backbone": True, "train_from": "head"}, True, "head"),
        ({"freeze_backbone": None, "train_from": "layer4"}, False, "layer4"),
    ],
)
def test_freezing_and_the_stage_imply_each_other(
    values: dict[str, Any], frozen: bool, stage: str
) -> None:
    rate: dict[str, Any] = {} if stage == "head" else {"learning_rate": 0.1}
    found = Candidate(**values, **rate, weight_decay=0.1)
    assert (found.freeze_backbone, found.train_from) == (frozen, stage)
    assert Candidate(**found.model_dump()) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{freeze_backbone: true, train_from: layer4}", "True contradicts train_from: layer4"),
        ("{freeze_backbone: true, train_from: pixels}", "True contradicts train_from: pixels"),
        ("{freeze_backbone: false, train_from: head}", "False contradicts train_from: head"),
        ("{}", "give freeze_backbone or train_from"),
    ],
)
def test_contradictions_name_the_candidate(text: str, said: str) -> None:
    common = "learning_rate: 0.1, weight_decay: 0"
    message = mistakes(f"candidates.1={text[:-1]}{', ' if text != '{}' else ''}{common}}}")
    assert "candidates.1" in message and said in message


def two_backbones(one: str = "", other: str = "", model: str = "") -> str:
    """A change of params.yaml to the backbones `big` and `small`."""
    common = "architecture: resnet18, weights: w.pth, image_size: 32"
    return (
        f"model={{precision: float32, {model}backbones: "
        f"[{{name: big, {common}{one}}}, {{name: small, {common}{other}}}]}}"
    )


def test_a_candidate_is_compared_on_the_backbone_that_it_names_or_on_each() -> None:
    settings = load_settings(SHIPPED, [two_backbones(), "candidates.2.backbone=small"])
    assert [candidate.name for candidate in settings.compared] == [
        "big head wd=0.01",
        "big head wd=0.1",
        "small head wd=0.01",
        "small head wd=0.1",
        "small blocks.6 lr=0.001 wd=0.05",
    ]
    big, small = settings.backbones
    assert (settings.cuts(big), settings.cuts(small)) == (["head"], ["head", "blocks.6"])
    assert (big.name, settings.model.precision) == ("big", "float32")


def test_one_backbone_needs_no_name_in_its_candidates() -> None:
    one = "model={precision: float32, backbones: [{name: a, architecture: vgg11, weights: w}]}"
    for name in ("null", "a"):
        settings = load_settings(SHIPPED, [one, f"candidates.0.backbone={name}"])
        assert settings.compared[0].name == "head wd=0.01"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((two_backbones(), "candidates.0.backbone=smal"), "candidates.0.backbone: .*small"),
        ((two_backbones(other=", name: big"),), "duplicate names: big"),
        ((two_backbones(model="weights: w.pth, "),), "model: weights: .*not both"),
        ((two_backbones(one=", crop: 2"),), r"model\.backbones\.0\.crop: 2"),
        ((two_backbones(other=", name: Small"),), r"model\.backbones\.1\.name: 'Small'"),
        (("model={precision: float32, backbones: []}",), "model.backbones: .* at least 1"),
        (
            (two_backbones(), *(f"candidates.{n}.backbone=big" for n in range(3))),
            "no candidate uses small",
        ),
        (("candidates.0.backbone=resnet50",), "candidates.0.backbone: .*efficientnet"),
        (("choice=largest",), "choice: 'largest' .*'best' or 'smallest'"),
    ],
)
def test_backbones_and_candidates_must_fit(changes: tuple[str, ...], said: str) -> None:
    assert re.search(said, mistakes(*changes))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            ["candidates=[{freeze_backbone: true, weight_decay: {from: 1e-3, to: 1, num: 7}}]"],
            [f"head wd={wd:g}" for wd in (0.001, 0.0032, 0.01, 0.032, 0.1, 0.32, 1)],
        ),
        (
            ["candidates.0.weight_decay={from: 0.104, to: 0.106, num: 3}"],
            [*(f"head wd={wd}" for wd in (0.104, 0.105, 0.106, 0.1)), "blocks.6 lr=0.001 wd=0.05"],
        ),
        (
            [
                "candidates.0={freeze_backbone: true, weight_decay: 1.0}",
                "candidates.2.learning_rate={from: 3e-4, to: 0.003, num: 3}",
                "candidates.2.weight_decay={from: 0.01, to: 0.1, num: 2}",
            ],
            [
                *("head wd=1", "head wd=0.1"),
                *("blocks.6 lr=0.0003 wd=0.01", "blocks.6 lr=0.0003 wd=0.1"),
                *("blocks.6 lr=0.00095 wd=0.01", "blocks.6 lr=0.00095 wd=0.1"),
                *("blocks.6 lr=0.003 wd=0.01", "blocks.6 lr=0.003 wd=0.1"),
            ],
        ),
    ],
)
def test_a_range_stands_for_candidates_at_equal_ratios(
    changes: list[str], names: list[str]
) -> None:
    settings = load_settings(SHIPPED, changes)
    assert [candidate.name for candidate in settings.compared] == names
    assert all(type(candidate) is Candidate for candidate in settings.compared)


def test_each_backbone_gets_every_value_of_a_range() -> None:
    wide = "candidates.0.weight_decay={from: 0.001, to: 0.004, num: 3}"
    compared = load_settings(SHIPPED, [two_backbones(), wide]).compared
    decays = [c.weight_decay for c in compared if c.backbone == "small"]
    assert decays == [0.001, 0.002, 0.004, 0.1, 0.05] and len(compared) == 10


def test_a_range_that_repeats_another_candidate_is_refused() -> None:
    message = mistakes("candidates.0.weight_decay={from: 0.01, to: 1, num: 3}")
    assert "candidates: " in message and "head wd=0.1" in message


def test_one_mistaken_item_is_one_mistake() -> None:
    model = "model={precision: float32, backbones: [{name: a, architecture: vgg11, weights: 1}]}"
    _, *lines = mistakes(model).splitlines()
    assert len(lines) == 1 and "model.backbones.0.weights: 1" in lines[0]


def test_the_same_candidate_twice_is_refused_however_it_is_written() -> None:
    message = mistakes(
        "candidates.0={freeze_backbone: true, weight_decay: 1e-3}",
        "candidates.1={train_from: head, weight_decay: 0.001}",
    )
    assert "candidates: " in message and "head wd=0.001" in message


@pytest.mark.parametrize(
    "other", ["relabel=c.csv", "labels=c.csv", "groups={file: c.csv}"], ids=str
)
def test_each_correction_has_a_file_for_itself(other: str) -> None:
    message = mistakes("data.exclude=c.csv", f"data.{other}")
    assert "data: exclude and relabel: each needs a file for itself" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.num_epochs=many", ["training.num_epochs", "'many'", "integer"]),
        ("training.num_epochs=0", ["training.num_epochs", "0 is not allowed", "equal to 1"]),
        ("training.num_epochs=1001", ["training.num_epochs", "1001", "equal to 1000"]),
        ("training.patience=3", ["training: patience"]),
        ("data.image_size=32", ["data: image_size", "model.image_size"]),
        ("model.mean=[0.5, 0.5]", ["model.mean.2", "missing"]),
        ("model.std=[0, 0.5, 0.5]", ["model.std.0", "greater than 0"]),
        ("model.crop=1.5", ["model.crop", "1.5", "equal to 1"]),
        ("model.interpolation=lanczos", ["model.interpolation", "'bicubic'"]),
        ("training.num_epochs=2.5", ["training.num_epochs", "2.5", "integer"]),
        ("training.num_epochs=true", ["training.num_epochs", "True", "integer"]),
        ("training.batch_size=1", ["training.batch_size", "1 is not allowed", "equal to 2"]),
        ("training.seed=-1", ["training.seed", "-1", "equal to 0"]),
        ("training.seed=4294967296", ["training.seed", "4294967296", "less than 4294967296"]),
        ("data.test_fraction=0", ["data.test_fraction", "0 is not allowed", "greater than 0"]),
        ("data.test_fraction=1", ["data.test_fraction", "1 is not allowed", "less than 1"]),
        ("data.test_fraction=.nan", ["data.test_fraction", "nan is not allowed"]),
        ("data.num_folds=1", ["data.num_folds", "1 is not allowed", "equal to 2"]),
        ("model.image_size=4", ["model.image_size", "4 is not allowed", "equal to 8"]),
        ("data.max_skipped_fraction=1", ["data.max_skipped_fraction", "less than 1"]),
        ("data.groups=patient", ["data.groups: 'patient'", "folder, {pattern: '...'} or {file: "]),
        ("data.groups={pattern: a, file: b}", ["data.groups", "write folder, {pattern: "]),
        ("data.groups={pattern: '(a'}", ["data.groups.pattern: '(a' is not a regular expression"]),
        ("data.groups={pattern: '(a)'}", ["has 0 named groups", "'(?P<group>[^_]+)_'"]),
        ("data.groups={pattern: '(?P<a>.)(?P<b>.)'}", ["data.groups.pattern", "has 2 named"]),
        ("data.groups={file: ../g.csv}", ["data.groups.file: '../g.csv'", "directly in data/"]),
        ("data.groups={file: 7}", ["data.groups.file: 7 is not allowed", "string"]),
        ("data.exclude=sub/e.csv", ["data.exclude: 'sub/e.csv'", "directly in data/"]),
        ("data.tie_near_duplicates=1", ["data.tie_near_duplicates", "boolean"]),
        ("data.remote=7", ["data.remote", "7 is not allowed", "string"]),
        (
            "model.precision=float16",
            ["model.precision", "'float16'", "'float32', 'bfloat16', 'int8' or 'auto'"],
        ),
        ("model.architecture=", ["model.architecture", "None", "string"]),
        ("model.architecture=resnet19", ["model.architecture", "'resnet19'", "resnet18"]),
        ("model.architecture=VIT-B-16", ["model.architecture", "'VIT-B-16'", "vit_b_16"]),
        ("model.architecture=fcn_resnet50", ["model.architecture", "resnet50"]),
        ("model.weights=/tmp/w.pth", ["model.weights", "'/tmp/w.pth'", "below models/"]),
        ("model.weights=../w.pth", ["model.weights", "'../w.pth'", "below models/"]),
        ("model.weights=sub//w.pth", ["model.weights", "'sub//w.pth'", "below models/"]),
        ("model.weights='.'", ["model.weights", "'.'", "below models/"]),
        ("gate.min_macro_f1=1.1", ["gate.min_macro_f1", "1.1", "equal to 1"]),
        ("gate.margin=-0.1", ["gate.margin", "-0.1", "equal to 0"]),
        ("candidates.2.learning_rate=0", ["candidates.2.learning_rate", "greater than 0"]),
        ("candidates.2.learning_rate=.inf", ["candidates.2.learning_rate", "inf", "finite"]),
        ("candidates.0.learning_rate=0.1", ["candidates.0", "learning_rate", "convergence"]),
        ("candidates.2.learning_rate=null", ["candidates.2", "learning_rate: is missing"]),
        ("candidates.0.weight_decay=0", ["candidates.0", "weight_decay", "above 0"]),
        ("candidates.0.weight_decay=-1", ["candidates.0.weight_decay", "-1", "equal to 0"]),
        ("candidates.0.weight_decay=true", ["candidates.0.weight_decay", "True", "number"]),
        ("candidates.0.weight_decay=[1, 2]", ["candidates.0.weight_decay: [1, 2]", "number"]),
        ("candidates.0.weight_decay={from: 1, to: 1, num: 2}", ["0.weight_decay: from: 1 must"]),
        ("candidates.0.weight_decay={from: 0, to: 1, num: 2}", ["weight_decay.from: 0", "than 0"]),
        ("candidates.0.weight_decay={from: 1, to: 2, num: 1}", ["weight_decay.num: 1", "to 2"]),
        ("candidates.0.weight_decay={from: 1, to: 2, num: 51}", ["weight_decay.num: 51", "to 50"]),
        ("candidates.0.weight_decay={from: 1, to: 2}", ["candidates.0.weight_decay.num: is miss"]),
        ("candidates.0.weight_decay={step: 1}", ["candidates.0.weight_decay.step: there is no"]),
        ("candidates.0.learning_rate={from: 1, to: 2, num: 2}", ["candidates.0", "convergence"]),
        ("candidates.2.freeze_backbone=maybe", ["candidates.2.freeze_backbone", "'maybe'"]),
        ("candidates=[]", ["candidates", "at least 1"]),
        ("candidates=layer4", ["candidates", "'layer4'"]),
        ("candidates.0=head", ["candidates.0", "'head'"]),
        ("candidates.0.momentum=0.9", ["candidates.0.momentum", "no such setting"]),
        ("augmentation.views=[blurred]", ["augmentation.views.0", "'mirrored' or 'cropped'"]),
        ("augmentation.views=[cropped, cropped]", ["augmentation: views", "duplicate"]),
        ("augmentation.test_time=true", ["augmentation: test_time", "augmentation.views"]),
        ("resources={train_folds: {cpu: 2}}", ["resources.train_folds", "no such setting"]),
        ("resources={train_fold: {cores: 2}}", ["resources.train_fold.cores", "no such setting"]),
        ("resources={train_fold: {cpu: 0}}", ["resources.train_fold.cpu", "0.001"]),
        ("resources={train_fold: {memory: 4}}", ["resources.train_fold.memory: 4", "4Gi"]),
        ("resources={train_fold: {memory: 4GB}}", ["train_fold.memory: '4GB'", "4Gi"]),
        ("resources={train_fold: {storage: 0Gi}}", ["train_fold.storage: '0Gi'", "4Gi"]),
        ("training.epochs=5", ["training.epochs", "no such setting"]),
        ("trainings={}", ["trainings", "no such setting"]),
        ("nothing.here=1", ["nothing", "no such setting"]),
        ("resources.train_folds.cpu=2", ["resources.train_folds", "no such setting"]),
        ("resources.train_fold.cpu=0", ["resources.train_fold.cpu", "0.001"]),
        ("data=5", ["data", "5 is not allowed"]),
        ("data={remote: sample}", ["data.num_folds: is missing", "data.seed: is missing"]),
    ],
)
def test_a_mistake_names_the_key_the_value_and_what_is_allowed(
    change: str, said: list[str]
) -> None:
    message = mistakes(change)
    assert "params.yaml" in message
    assert [part for part in said if part not in message] == [], message


def test_weights_may_lie_in_a_folder_below_models() -> None:
    changed = load_settings(SHIPPED, ["model.weights=sub/v1@best.safetensors"])
    assert changed.backbones[0].weights == "sub/v1@best.safetensors"


def test_without_the_section_there_are_no_views(tmp_path: Path) -> None:
    older = yaml.safe_load(SHIPPED.read_text())
    del older["augmentation"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(older))
    found = load_settings(tmp_path / "params.yaml").augmentation
    assert (found.views, found.test_time, found.predicted_views) == ((), False, ())


def test_every_mistake_is_named_at_once() -> None:
    message = mistakes("data.num_folds=1", "training.batch_size=0", "gate.floor=1")
    named = ("data.num_folds", "training.batch_size", "gate.floor")
    assert all(key in message for key in named)


def test_changes_reach_nested_keys_and_list_items() -> None:
    changed = load_settings(
        SHIPPED,
        [
            "training.num_epochs=5",
            "candidates.2.train_from=layer3",
            "candidates.-3={freeze_backbone: false, learning_rate: 1e-4, weight_decay: 0}",
            "tracking.uri=http://localhost:5000",
        ],
    )
    assert changed.training.num_epochs == 5
    assert [c.train_from for c in changed.candidates] == ["pixels", "head", "layer3"]
    assert changed.tracking.uri == "http://localhost:5000"
    assert changed.data == load_settings(SHIPPED).data


def test_a_change_adds_the_sections_that_the_file_lacks() -> None:
    assert not yaml.safe_load(SHIPPED.read_text())["resources"]
    changes = ["resources.train_fold.cpu=2", "resources.train_fold.memory=5Gi"]
    whole = "resources={train_fold: {cpu: 2, memory: 5Gi}}"
    assert load_settings(SHIPPED, changes) == load_settings(SHIPPED, [whole])
    assert load_settings(SHIPPED, ["resources=null", *changes]) == load_settings(SHIPPED, [whole])


@pytest.mark.parametrize(
    "key",
    [
        "training.num_epochs.more",
        "data.remote.0",
        "candidates.3",
        "candidates.-4",
        "candidates.3.train_from",
        "candidates.-4.train_from",
        "candidates.first.train_from",
        "candidates.first",
    ],
)
def test_a_change_of_an_unknown_key_is_refused(key: str) -> None:
    message = mistakes(f"{key}=1")
    assert f"--set {key}=1" in message and f"no key '{key}'" in message


def test_a_change_without_a_value_says_how_to_write_it() -> None:
    assert "KEY=VALUE" in mistakes("training.num_epochs")


@pytest.mark.parametrize("value", ["[1", "2026-99-99"])
def test_a_change_to_what_is_not_yaml_is_refused(value: str) -> None:
    assert f"{value!r} is not a YAML value" in mistakes(f"data.seed={value}")


def test_a_missing_file_says_where_to_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/params\.yaml "):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content",
    [b"data: [", b"a: b: c", b"when: 2026-99-99", b"\xff\xfe\xffdata", b"", b"- data"],
    ids=repr,
)
def test_a_file_that_is_not_a_mapping_in_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"/params\.yaml .*(YAML|no settings)"):
        load_settings(path)


def test_the_options_for_the_digits_name_known_settings() -> None:
    settings = load_settings(SHIPPED, digits_options()[1::2])
    (backbone,) = settings.backbones
    assert (backbone.name, backbone.image_size) == ("resnet18", 32)
    assert settings.cuts(backbone) == ["head", "layer4"]


KEYS = [
    f"{section}.{key}"
    for section, values in yaml.safe_load(SHIPPED.read_text()).items()
    if isinstance(values, dict)
    for key in values
]


@hypothesis.settings(deadline=None, max_examples=50)
@given(st.sampled_from(KEYS), st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_value_is_a_setting_or_a_mistake_that_names_its_key(key: str, value: str) -> None:
    try:
        load_settings(SHIPPED, [f"{key}={value}"])
    except UserError as error:
        assert key in str(error)


HOSTILE_TEXT = st.text(max_size=8) | st.sampled_from(["\n", "\x1b[2J", "\u2028", "<<", "a.b", "~"])
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.dates() | HOSTILE_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(HOSTILE_TEXT | st.integers(), inner)
    ),
    max_leaves=5,
)


@hypothesis.settings(deadline=None, derandomize=True, max_examples=25)
@given(st.sampled_from(KEYS), HOSTILE, HOSTILE_TEXT)
def test_any_tree_is_settings_or_one_line_for_each_mistake(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object, name: str
) -> None:
    tree = yaml.safe_load(SHIPPED.read_text())
    known = set(tree)
    section, _, last = key.rpartition(".")
    place = functools.reduce(
        lambda inside, part: inside[int(part) if part.isdecimal() else part],
        section.split(".") if section else [],
        tree,
    )
    place[int(last) if last.isdecimal() else last] = value
    tree[name] = value
    path = tmp_path_factory.getbasetemp() / "hostile.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as refused:
        load_settings(path)
    _, *problems = str(refused.value).split("\n")
    assert all(line.startswith("  ") and line.isprintable() for line in problems)
    assert any(line.startswith(f"  {escaped(name)}: ") for line in problems) or name in known


@pytest.mark.parametrize(
    "text",
    [
        "[" * 600,
        "{a: " * 600,
        "data: !!timestamp tomorrow",
        "data: !!bool perhaps",
        "data: 0x" + "f" * 5000,
        "data: " + "9" * 5000,
        "\n".join(
            [
                "a: &a0 [x, x]",
                *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 12)),
                "data: *a11",
            ]
        ),
    ],
    ids=["lists", "sections", "no time", "no truth", "hexadecimal", "digits", "aliases"],
)
def test_yaml_that_breaks_the_parser_or_its_printing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_settings(path)
    assert len(str(refused.value)) < 10_000
