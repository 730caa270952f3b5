import base64
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.diagnosis.findings import Diagnosis
from crossfold.errors import UserError
from crossfold.evaluation import calibration, metrics
from crossfold.evaluation.curves import compute_curves
from crossfold.evaluation.test_split import score, split_hash
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, normalization, safetensors_file, trained_network
from crossfold.network.openvino_engine import Classifier, export
from crossfold.predict import file_hashes, signatures
from crossfold.predict.model import find_version, load_model
from crossfold.records import ChampionComparison, Evaluation, Leaderboard, Registration, Verdict
from crossfold.registry import gate, manual_promotion, register
from crossfold.step.files import hash_file
from crossfold.tracking import run_tree, store
from tests.unit.networks import FACTS, IMAGENET
from tests.unit.references import write_reference

from .test_signing import write_key

ARCHITECTURE = "shufflenet_v2_x0_5"
CLASSES = ("blue", "red")
SIZE = 32
DATA_HASH = "d" * 32 + ".dir"
MODELS_POINTER = json.dumps({"outs": [{"md5": "e" * 32 + ".dir", "hash": "md5", "path": "models"}]})
COMPUTED = {"num_threads": "1", "processor_kernels": "AVX2", "torch": "2.0"}

pytestmark = pytest.mark.usefixtures("undrawn")


def _image(color: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 20, (40, 48, 3), np.uint8)
    noise[..., 0 if color == "red" else 2] += 190
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    rows = [_example(n, split) for n, split in enumerate([TEST] * 12 + [TRAIN] * 4)]
    return _write_table(tmp_path / "examples", rows)


def _example(n: int, split: str) -> Example:
    color, content_hash = CLASSES[n % 2], hashlib.sha256(str(n).encode()).hexdigest()
    return Example(f"{color}/{n:02}.png", _image(color, n), n % 2, content_hash, split, 0)


def _write_table(path: Path, rows: list[Example], data_hash: str = DATA_HASH) -> Path:
    write_examples(path, rows, classes=CLASSES, data_hash=data_hash)
    return path


def _save_network(path: Path, examples: Path, *, right: float, classes: Any = CLASSES) -> Path:
    """Write a network that tells red from blue if `right` is positive, else is always wrong."""
    network = backbone.build_network(ARCHITECTURE, len(classes), seed=0)
    assert isinstance(network.fc, torch.nn.Linear)
    seen: list[torch.Tensor] = []
    network.fc.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.inference_mode():
        for _, pixels, _ in Examples(examples).decoded_batches(
            TRAIN, Preprocessing(SIZE), num_threads=1
        ):
            network(normalization.normalize(torch.from_numpy(pixels), IMAGENET))
    blue, red = torch.cat(seen)[0::2].mean(0), torch.cat(seen)[1::2].mean(0)
    direction = right * (red - blue) / (red - blue).square().sum()
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.weight[classes.index("red")] = 20 * direction
        network.fc.bias.zero_()
        network.fc.bias[classes.index("red")] = -20 * direction @ (red + blue) / 2
    network.fc._forward_hooks.clear()
    trained_network.save_network(
        path,
        network,
        architecture=ARCHITECTURE,
        classes=classes,
        preprocessing=Preprocessing(SIZE),
        precision="float32",
    )
    return path


LEADERBOARD = Leaderboard.model_validate(
    {
        "choice": "best",
        "classes": list(CLASSES),
        "num_folds": 2,
        "candidates": [
            {
                "candidate": {
                    "name": "head lr=0.1 wd=0",
                    "freeze_backbone": True,
                    "train_from": "head",
                    "learning_rate": 0.1,
                    "weight_decay": 0.0,
                },
                "backbone": FACTS.model_copy(update={"architecture": ARCHITECTURE}),
                "mean": {"macro_f1": 0.9, "accuracy": 0.9, "loss": 0.2, "mcc": 0.8},
                "std": {"macro_f1": 0.01, "accuracy": 0.01, "loss": 0.02, "mcc": 0.02},
                "interval": {
                    "macro_f1": [0.8, 1],
                    "accuracy": [0.8, 1],
                    "loss": [0.1, 0.3],
                    "mcc": [0.6, 1],
                },
                "against_chosen": None,
                "folds": [
                    {
                        "fold": fold,
                        "num_epochs": 2,
                        "macro_f1": 0.9,
                        "accuracy": 0.9,
                        "loss": 0.2,
                        "mcc": 0.8,
                        "history": [
                            {
                                "epoch": epoch,
                                "train_loss": 0.3,
                                "train_accuracy": 0.9,
                                "train_macro_f1": 0.9,
                                "train_mcc": 0.8,
                                "val_loss": 0.2,
                                "val_accuracy": 0.9,
                                "val_macro_f1": 0.9,
                                "val_mcc": 0.8,
                            }
                            for epoch in (1, 2)
                        ],
                    }
                    for fold in (0, 1)
                ],
            }
        ],
        "chosen_index": 0,
        "num_epochs": 1,
        "diverged": [],
        "temperature": 1,
    }
)


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    (tmp_path / "store").mkdir()
    shutil.copy(empty_store, tmp_path / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "colours")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return store.connect()


def _register(
    monkeypatch: pytest.MonkeyPatch,
    examples: Path,
    model: Path,
    *,
    run_id: str = "run-1",
    floor: float = 0.5,
    margin: float = 0.02,
    signature_key: str | None = None,
) -> Registration:
    monkeypatch.setenv("CROSSFOLD_RUN_ID", run_id)
    folder = model.parent
    LEADERBOARD.write(folder / "leaderboard")
    Diagnosis(left_out={}).write(folder / "diagnosis")
    if not (folder / f"{model.name}.evaluation").exists():
        _evaluate(examples, model).write(folder / f"{model.name}.evaluation")
    with run_tree.step_run("register_model") as run:
        return register.register_model(
            examples=examples,
            model=model,
            exported=_exported(model),
            sets=_sets(folder),
            leaderboard=folder / "leaderboard",
            evaluation=folder / f"{model.name}.evaluation",
            diagnosis=folder / "diagnosis",
            model_name="colours",
            rule=gate.Rule(floor, margin, signature_key),
            lineage={
                "git_commit": "abc",
                "image_train": "crossfold-train:abc",
                "settings": '{"data": {"remote": "disk", "seed": 3}}',
            },
            models_pointer=MODELS_POINTER,
            computed={**COMPUTED, "store_session_info": "Kubeflow's"},
            num_threads=1,
            registration=folder / "registration",
            report_page=folder / "report",
            summary=folder / "summary",
            run=run,
        )


def _sets(folder: Path) -> Path:
    write_reference(folder / "sets", CLASSES)
    return folder / "sets"


def _exported(model: Path) -> Path:
    path = model.with_name(f"{model.name}.exported")
    if not path.exists():
        path.write_bytes(_graph(model.read_bytes()))
    return path


@cache
def _graph(network: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        model, graph = Path(folder) / "model", Path(folder) / "graph"
        model.write_bytes(network)
        export(model, graph)
        return graph.read_bytes()


EVALUATIONS: dict[tuple[bytes, bytes], Evaluation] = {}  # what was evaluated before, by content


def _evaluate(examples: Path, model: Path) -> Evaluation:
    content = examples.read_bytes(), model.read_bytes()
    if content not in EVALUATIONS:
        EVALUATIONS[content] = _evaluate_anew(examples, model)
    return EVALUATIONS[content]


def _evaluate_anew(examples: Path, model: Path) -> Evaluation:
    table = Examples(examples)
    paths, labels, probabilities = score(Classifier(_exported(model)), table, num_threads=1)
    return Evaluation.model_validate(
        {
            "classes": list(table.classes),
            "paths": paths,
            "labels": labels.tolist(),
            "probabilities": probabilities.tolist(),
            "metrics": metrics.scores(labels, probabilities),
            "confusion_matrix": metrics.confusion_matrix(
                labels, probabilities.argmax(axis=1), len(table.classes)
            ).tolist(),
            "curves": compute_curves(labels, probabilities),
            "weights_hash": hashlib.sha256(model.read_bytes()).hexdigest(),
            "data_hash": table.data_hash,
            "intervals": metrics.bootstrap_intervals(labels, probabilities),
            "class_f1_intervals": metrics.class_f1_intervals(
                labels, probabilities.argmax(axis=1), len(table.classes)
            ).tolist(),
            "calibration": calibration.assess(labels, probabilities, temperature=1.0),
            "activation_maps": [],
            "latency": {"median_ms": 1.0, "p99_ms": 2.0, "num_images": 9, "num_threads": 1},
            "split_hash": split_hash(table),
            "export": {
                "by": "openvino 1",
                "num_compared": 12,
                "max_difference": 0.0,
                "num_different": 0,
            },
        }
    )


def test_a_first_version_that_passes_the_floor_becomes_champion(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _save_network(tmp_path / "model", examples, right=1)
    registered = _register(monkeypatch, examples, model)
    assert registered.aliases == ("challenger", "champion")
    assert registered.gate == "passed"
    assert registered.created
    assert Registration.read(tmp_path / "registration") == registered
    page = (tmp_path / "report").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "d" * 32 + ".dir" in page and "<code>abc</code>" in page
    assert page.count("<img src=") == 4, "each image of the train split"
    version = client.get_model_version("colours", "1")
    assert version.tags["git_commit"] == "abc"
    assert version.tags["gate_reason"] == registered.reason
    assert version.tags["data_hash"] == "d" * 32 + ".dir"
    parent = client.search_runs(["1"], "tags.crossfold.kind = 'pipeline'")[0]
    assert parent.data.metrics["test_macro_f1"] == 1.0
    assert parent.data.metrics["cv_macro_f1"] == 0.9
    plots = {file.path for file in client.list_artifacts(parent.info.run_id, "plots")}
    assert plots == {
        f"plots/{name}.png"
        for name in ("confusion_matrix", "pr_curves", "roc_curves", "loss_curves", "score_curves")
    }


def test_a_retry_and_an_unchanged_run_make_no_second_version(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _save_network(tmp_path / "model", examples, right=1)
    _register(monkeypatch, examples, model)
    for run_id in ("run-1", "run-2"):
        again = _register(monkeypatch, examples, model, run_id=run_id)
        assert again.version == "1"
        assert not again.created
        assert again.aliases == ("challenger", "champion")
    assert len(client.search_model_versions("name = 'colours'")) == 1


def test_a_worse_model_is_refused_and_a_better_one_takes_over(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    good = _save_network(tmp_path / "good", examples, right=1)
    assert _register(monkeypatch, examples, wrong, floor=0).aliases == ("challenger", "champion")

    better = _register(monkeypatch, examples, good, floor=0)
    assert better.gate == "passed"
    assert better.comparison
    assert better.comparison.champion_macro_f1 == 0.0
    aliases = client.get_registered_model("colours").aliases
    assert {k: int(v) for k, v in aliases.items()} == {
        "challenger": 2,
        "champion": 2,
        "former-champion": 1,
    }

    worse = _register(monkeypatch, examples, wrong, floor=0)
    assert worse.gate == "refused"
    assert worse.verdict == Verdict.WORSE and "version 2" in worse.reason
    assert worse.comparison
    assert worse.comparison.champion_macro_f1 == 1.0
    assert worse.aliases == ("challenger", "former-champion")
    assert not worse.created


def test_the_decision_is_kept_with_its_evidence_wherever_people_look(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    good = _save_network(tmp_path / "good", examples, right=1)
    first = _register(monkeypatch, examples, wrong, floor=0)
    assert (first.verdict, first.comparison, first.num_judged_before) == ("first", None, 0)
    better = _register(monkeypatch, examples, good, run_id="run-2", floor=0)
    assert (better.verdict, better.num_judged_before) == ("better", 1)
    found = better.comparison
    assert found
    assert found.champion_version == "1"
    assert (found.num_images, found.num_left_out) == (12, 0)
    assert found.difference == 1.0
    low, high = found.interval
    assert 0 < low < high == 1.0
    assert found.mcnemar.only_challenger_right == 12
    assert found.mcnemar.p_value == pytest.approx(2 / 2**12)
    version = client.get_model_version("colours", "2")
    assert version.tags["gate_verdict"] == "better"
    assert ChampionComparison.model_validate_json(version.tags["gate_comparison"]) == found
    assert version.tags["num_judged_before"] == "1"
    parent = client.get_run(version.tags["mlflow_parent_run"])
    assert parent.data.tags["crossfold.gate"] == "passed"
    assert parent.data.tags["crossfold.gate_reason"] == better.reason
    assert parent.data.tags["crossfold.version"] == "colours/2"
    logged = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert logged >= set(run_tree.OUTCOME)
    figures = register.gate_metrics(better)
    assert figures.items() >= {"gate_passed": 1, "macro_f1_difference": 1.0}.items()
    again = _register(monkeypatch, examples, good, run_id="run-3", floor=0)
    assert (again.verdict, again.comparison) == ("same", None)
    kept = client.get_model_version("colours", "2").tags
    assert kept["gate_verdict"] == "better"  # what made it champion is not forgotten


def test_a_version_says_where_it_comes_from(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, examples, _save_network(tmp_path / "model", examples, right=1))
    version = client.get_model_version("colours", "1")
    tested = [_example(n, TEST) for n in range(12)]
    lines = sorted(f"{row.content_hash} {CLASSES[row.label]}\n" for row in tested)
    expected = {
        **COMPUTED,
        "models_hash": "e" * 32 + ".dir",
        "split_hash": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "seed_split": "3",
        "num_train_images": "4",
        "num_test_images": "12",
        "pipeline_run": "run-1",
        "training_images": "training_images.safetensors",
        "cv_loss_std": "0.02",
    }
    assert expected.items() <= version.tags.items()
    assert "store_session_info" not in version.tags
    libraries = json.loads(version.tags["libraries"])
    assert libraries.keys() >= {"python", "mlflow", "torch", "torchvision", "numpy", "scikit-learn"}
    assert version.tags["started"].endswith("+00:00")
    card = str(version.description)
    assert card.startswith("# colours version 1\n")
    assert "crossfold predict IMAGE --model colours/1" in card
    assert "| macro F1 | 1.0000 | 1.0000 to 1.0000 | 0.9000 ± 0.0100 |" in card
    assert "Passed, first: " in card
    assert "| git commit | abc |" in card


def test_test_images_that_the_champion_was_trained_on_are_left_out(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = _save_network(tmp_path / "good", examples, right=1)
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    _register(monkeypatch, examples, good)  # trained on the images 12 to 15

    def judged(name: str, numbers: Sequence[int]) -> Registration:
        rows = [_example(n, TEST) for n in numbers] + [_example(n, TRAIN) for n in range(100, 104)]
        table = _write_table(tmp_path / name, rows, data_hash="f" * 32 + ".dir")
        (tmp_path / "wrong.evaluation").unlink(missing_ok=True)
        return _register(monkeypatch, table, wrong, floor=0)

    found = judged("some", [*range(16, 46), 12, 13])
    assert found.verdict == "worse"
    assert found.comparison
    assert (found.comparison.num_images, found.comparison.num_left_out) == (30, 2)
    assert "without 2" in found.reason
    gone = judged("gone", [*range(16, 100, 2), 13])
    assert (gone.verdict, gone.gate) == ("undecided", "refused")
    assert gone.comparison is None
    assert "1 of the 43 test images" in gone.reason and "red" in gone.reason


def test_a_champion_that_does_not_tell_its_training_images_is_doubted(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, examples, _save_network(tmp_path / "model", examples, right=-1), floor=0)
    client.delete_model_version_tag("colours", "1", "training_images")
    client.set_model_version_tag("colours", "1", "data_hash", "f" * 32 + ".dir")
    good = _save_network(tmp_path / "good", examples, right=1)
    registered = _register(monkeypatch, examples, good)
    assert registered.gate == "passed"
    assert "trained on other data" in registered.reason


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "(?s)colours version 1 cannot be loaded from .* Its files are gone"),
        (
            lambda path: safetensors_file.write(path, {"other": np.zeros(3, np.float32)}, {}),
            "colours version 1: training_images.safetensors is damaged or has been modified",
        ),
    ],
    ids=["gone", "others"],
)
def test_a_champion_whose_training_images_are_gone_or_others_is_a_clear_error(
    tmp_path: Path,
    examples: Path,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    _register(monkeypatch, examples, _save_network(tmp_path / "model", examples, right=-1), floor=0)
    (file,) = (tmp_path / "store/mlartifacts").rglob("training_images.safetensors")
    damage(file)
    good = _save_network(tmp_path / "good", examples, right=1)
    with pytest.raises(UserError, match=message):
        _register(monkeypatch, examples, good)


# Registers a network in a process of its own; it goes on from its judgement when both have judged.
REGISTER = """
import os, sys, time
from pathlib import Path
import pytest
from matplotlib.figure import Figure
from crossfold.registry import register
from tests.unit.conftest import save_empty
from tests.unit.registry import test_register

examples, model, other = map(Path, sys.argv[1:4])
judge = register._judge

def judge_together(*arguments):
    decision = judge(*arguments)
    model.with_suffix(".judged").touch()
    while not other.with_suffix(".judged").exists():
        time.sleep(0.05)
    return decision

register._judge = judge_together
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Figure, "savefig", save_empty)
    test_register._register(patch, examples, model, run_id=model.name, floor=0)
"""


@pytest.mark.slow
def test_of_two_registrations_at_once_one_is_judged_against_the_other(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    _register(monkeypatch, examples, wrong, floor=0)
    _register_at_once(tmp_path, examples, {"one": 1, "two": 2})
    aliases = client.get_registered_model("colours").aliases
    champion = int(aliases["champion"])
    assert champion in (2, 3)
    assert int(aliases["former-champion"]) == 1
    tags = client.get_model_version("colours", str(champion)).tags
    assert (tags["gate_verdict"], json.loads(tags["gate_comparison"])["champion_version"]) == (
        "better",
        "1",
    )
    tags = client.get_model_version("colours", str(5 - champion)).tags
    assert tags["gate"] == "refused"
    assert json.loads(tags["gate_comparison"])["champion_version"] == str(champion)


@pytest.mark.slow
def test_two_registrations_of_one_model_at_once_make_one_version(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    _register(monkeypatch, examples, wrong, floor=0)
    registered = _register_at_once(tmp_path, examples, {"one": 1, "two": 1})
    (version,) = {one.version for one in registered}
    assert sorted(one.created for one in registered) == [False, True]
    numbers = {int(one.version) for one in client.search_model_versions("name = 'colours'")}
    assert numbers == {1, int(version)}
    aliases = client.get_registered_model("colours").aliases
    assert (int(aliases["champion"]), int(aliases["former-champion"])) == (int(version), 1)
    assert client.get_model_version("colours", version).tags["gate"] == "passed"


def _register_at_once(tmp_path: Path, examples: Path, models: dict[str, int]) -> list[Registration]:
    """Register a network for each name, from a checkout of its own, by what it has right."""
    paths = []
    for name, right in models.items():
        (tmp_path / name).mkdir()
        paths.append(_save_network(tmp_path / name / name, examples, right=right))
        _evaluate(examples, paths[-1]).write(tmp_path / name / f"{name}.evaluation")
    processes = [
        subprocess.Popen([sys.executable, "-c", REGISTER, examples, mine, other])
        for mine, other in (paths, paths[::-1])
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return [Registration.read(path.parent / "registration") for path in paths]


class _KilledError(BaseException):
    pass


@pytest.mark.slow
def test_a_step_killed_anywhere_is_finished_by_a_retry(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try is killed right after a write that the one before did not reach; the last is not."""
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    _register(monkeypatch, examples, wrong, floor=0)
    good = _save_network(tmp_path / "good", examples, right=1)
    for method, argument in (
        ("log_model_artifacts", ""),
        ("create_model_version", ""),
        ("set_model_version_tag", "gate_verdict"),
        ("set_model_version_tag", "gate_run"),
        ("set_registered_model_alias", "challenger"),
        ("set_registered_model_alias", "former-champion"),
        ("set_registered_model_alias", "champion"),
        ("update_model_version", ""),
    ):
        with monkeypatch.context() as patched, pytest.raises(_KilledError):
            _kill_after(patched, method, argument)
            _register(monkeypatch, examples, good, run_id="run-2", floor=0)
    registered = _register(monkeypatch, examples, good, run_id="run-2", floor=0)
    assert registered.version == "2"
    assert registered.comparison
    assert (registered.verdict, registered.comparison.difference) == ("better", 1.0)
    aliases = client.get_registered_model("colours").aliases
    assert {k: int(v) for k, v in aliases.items()} == {
        "challenger": 2,
        "champion": 2,
        "former-champion": 1,
    }
    tags = client.get_model_version("colours", "2").tags
    assert (tags["gate"], tags["gate_verdict"]) == ("passed", "better")


def _kill_after(monkeypatch: pytest.MonkeyPatch, method: str, argument: str) -> None:
    """Let the process end, as far as the code can see, once a call with an argument is done."""
    real = getattr(MlflowClient, method)

    def write(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
        done = real(client, *arguments, **options)
        if not argument or argument in arguments:
            raise _KilledError
        return done

    monkeypatch.setattr(MlflowClient, method, write)


@pytest.mark.slow
def test_a_version_that_was_taken_back_is_not_promoted_by_the_gate(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    good = _save_network(tmp_path / "good", examples, right=1)
    for model in (wrong, good):
        _register(monkeypatch, examples, model, run_id=model.name, floor=0)
    rule = gate.Rule(0, 0.02)
    former, champion = (client.get_model_version("colours", number) for number in ("1", "2"))
    decision = manual_promotion.judge_recorded(client, former, champion, rule)
    assert decision.verdict == "worse"  # a rollback needs no better figures
    manual_promotion.rollback(client, former, champion, decision, reason="odd on Mondays")
    again = _register(monkeypatch, examples, good, run_id="run-2", floor=0)
    assert (again.gate, again.verdict) == ("refused", "better")
    assert "odd on Mondays" in again.reason
    assert again.aliases == ("challenger", "former-champion")
    client.delete_registered_model_alias("colours", "champion")
    alone = _register(monkeypatch, examples, good, run_id="run-2", floor=0)
    assert (alone.gate, alone.verdict) == ("refused", "first")
    assert "odd on Mondays" in alone.reason
    assert alone.aliases == ("challenger", "former-champion")
    client.set_registered_model_alias("colours", "champion", "1")
    version = client.get_model_version("colours", "2")
    champion = client.get_model_version("colours", "1")
    decision = manual_promotion.judge_recorded(client, version, champion, rule)
    assert decision.passed
    manual_promotion.promote(client, version, champion, decision, reason="mended", forced=False)
    third = _register(monkeypatch, examples, good, run_id="run-3", floor=0)
    assert (third.gate, third.aliases) == ("passed", ("challenger", "champion"))


def test_a_version_is_signed_before_the_gate_decides(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = write_key(tmp_path / "signing.pem")
    key = signatures.public_key_of(private)
    good = _save_network(tmp_path / "good", examples, right=1)
    unsigned = _register(monkeypatch, examples, good, signature_key=key)
    assert (unsigned.gate, unsigned.verdict) == ("refused", "first")
    assert "colours version 1 is not signed" in unsigned.reason
    assert unsigned.aliases == ("challenger",)
    monkeypatch.setenv(signatures.SIGNING_KEY, str(private))
    signed = _register(monkeypatch, examples, good, run_id="run-2", signature_key=key)
    assert (signed.gate, signed.version) == ("passed", "1") and "champion" in signed.aliases
    signatures.verify_version(client.get_model_version("colours", "1"), key)
    secret = private.read_text().splitlines()[1]
    logged = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for content in logged)


def test_a_model_below_the_floor_is_refused_though_there_is_no_champion(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _save_network(tmp_path / "model", examples, right=-1)
    registered = _register(monkeypatch, examples, model, floor=0.9)
    assert registered.gate == "refused"
    assert registered.verdict == Verdict.BELOW_FLOOR and "0.9" in registered.reason
    assert registered.aliases == ("challenger",)


def test_a_champion_with_its_classes_in_another_order_is_matched_by_name(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _save_network(tmp_path / "other", examples, right=1, classes=("red", "blue"))
    network = Classifier(_exported(other))
    labels, predicted = gate._predict(network, Examples(examples), num_threads=1)
    assert predicted.tolist() == labels.tolist()


def test_a_champion_with_other_classes_gives_no_figures(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ("azure", "red")
    good = _save_network(tmp_path / "good", examples, right=1)
    _register(monkeypatch, examples, good)
    rows = [_example(n, split) for n, split in enumerate([TEST] * 12 + [TRAIN] * 4)]
    table = tmp_path / "renamed"
    write_examples(table, rows, classes=classes, data_hash="f" * 32 + ".dir")
    other = _save_network(tmp_path / "other", examples, right=1, classes=classes)
    found = _register(monkeypatch, table, other, run_id="run-2")
    assert (found.gate, found.verdict) == ("refused", "other classes")
    assert found.comparison is None
    assert found.aliases == ("challenger",)
    version, champion = (client.get_model_version("colours", number) for number in ("2", "1"))
    by_hand = manual_promotion.judge_recorded(client, version, champion, gate.Rule(0.5, 0.02))
    assert (by_hand.verdict, by_hand.reason) == (Verdict.OTHER_CLASSES, found.reason)


def test_a_champion_that_cannot_be_loaded_leaves_no_version_behind(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    _register(monkeypatch, examples, wrong, floor=0)
    shutil.rmtree(tmp_path / "store/mlartifacts")
    good = _save_network(tmp_path / "good", examples, right=1)
    with pytest.raises(UserError, match="colours version 1 cannot be loaded"):
        _register(monkeypatch, examples, good, run_id="run-2", floor=0)
    assert len(client.search_model_versions("name = 'colours'")) == 1


@pytest.mark.slow
def test_no_loader_takes_another_file_than_the_one_that_was_registered(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = _save_network(tmp_path / "good", examples, right=1)
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    _register(monkeypatch, examples, good)
    (folder,) = (path.parent for path in (tmp_path / "store/mlartifacts").rglob("MLmodel"))
    registered = client.get_model_version("colours", "1").tags[file_hashes.TAG]
    assert json.loads(registered) == file_hashes.hash_folder(folder)

    graph = folder / "artifacts/graph.safetensors"
    shutil.copyfile(_exported(wrong), graph)  # a valid one
    about = (folder / "MLmodel").read_text()
    (hash_before, hash_after) = map(hash_file, (_exported(good), graph))
    assert hash_before in about
    (folder / "MLmodel").write_text(about.replace(hash_before, hash_after))
    refused = "colours version 1: graph.safetensors "
    with pytest.raises(UserError, match=refused):
        load_model("colours@champion")
    with pytest.raises(UserError, match=refused):
        _register(monkeypatch, examples, wrong, run_id="run-2", floor=0)
    assert len(client.search_model_versions("name = 'colours'")) == 1
    load = "import mlflow.pyfunc; mlflow.pyfunc.load_model('models:/colours@champion')"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
    assert refused in done.stderr


def test_a_version_without_hashes_predicts_with_its_verified_weights(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, examples, _save_network(tmp_path / "good", examples, right=1))
    client.delete_model_version_tag("colours", "1", file_hashes.TAG)
    wrong = _save_network(tmp_path / "wrong", examples, right=-1)
    (graph,) = (tmp_path / "store/mlartifacts").rglob("graph.safetensors")
    shutil.copyfile(_exported(wrong), graph)
    _, labels, probabilities = score(load_model("colours/1"), Examples(examples), 1)
    assert probabilities.argmax(axis=1).tolist() == labels.tolist()
    shutil.copyfile(wrong, graph.with_name("network.safetensors"))
    with pytest.raises(UserError, match="colours version 1: network"):
        load_model("colours/1")


@pytest.mark.slow
def test_a_fresh_process_loads_the_champion_as_pyfunc(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, examples, _save_network(tmp_path / "model", examples, right=1))
    red, blue = _image("red", 100), tmp_path / "blue.png"
    blue.write_bytes(_image("blue", 101))
    code = f"""
import base64, json, mlflow.pyfunc, pandas, sys
model = mlflow.pyfunc.load_model("models:/colours@champion")
image = [{red!r}, base64.b64encode({red!r}).decode(), {str(blue)!r}, b"junk", "no/such.png", None]
print(sys.modules["crossfold"].__file__)
rows = model.predict(pandas.DataFrame({{"image": image}})).to_dict("records")
print(json.dumps(rows, allow_nan=False))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    code_file, answer = done.stdout.splitlines()
    assert code_file.endswith("/code/crossfold/__init__.py"), "the code comes with the model"
    rows = json.loads(answer)
    assert [row["label"] for row in rows] == ["red", "red", "blue", None, None, None]
    assert rows[0]["probabilities"].keys() == {"red", "blue"}
    assert rows[3]["error"] == "corrupt, or not an image in a known format"
    assert "neither a file" in rows[4]["error"]
    assert "not NoneType" in rows[5]["error"]


def test_the_version_has_signature_input_example_and_pinned_requirements(
    tmp_path: Path, examples: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(monkeypatch, examples, _save_network(tmp_path / "model", examples, right=1))
    (folder,) = (p.parent for p in (tmp_path / "store/mlartifacts").rglob("MLmodel"))
    example = json.loads((folder / "input_example.json").read_text())
    image = base64.b64decode(example["data"][0][0])
    assert Image.open(io.BytesIO(image)).size == (48, 40)
    requirements = (folder / "requirements.txt").read_text().split()
    assert f"openvino=={version('openvino')}" in requirements
    assert not any(line.startswith("torch") for line in requirements)  # several GB to serve with
    assert all("==" in line for line in requirements)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("colours", "write NAME@ALIAS or NAME/VERSION"),
        ("colours/champion", "write NAME@ALIAS or NAME/VERSION"),
        ("colours@gone", r"versions 1 and the aliases .*champion \(version 1\)"),
        ("colours/7", "versions 1 and the aliases"),
        ("colours/99999999999999999999", "versions 1 and the aliases"),
        ("colours/²", "write NAME@ALIAS or NAME/VERSION"),
        ("shapes@champion", "it holds colours"),
        ("it's/3", "it holds colours"),
    ],
)
def test_a_name_that_is_not_in_the_registry_says_what_is(
    client: MlflowClient, name: str, message: str
) -> None:
    client.create_registered_model("colours")
    client.create_model_version("colours", "file:///nowhere")
    client.set_registered_model_alias("colours", "champion", "1")
    with pytest.raises(UserError, match=message):
        find_version(client, name)


def test_an_empty_registry_says_how_to_fill_it(client: MlflowClient) -> None:
    with pytest.raises(UserError, match="`crossfold run` registers a model"):
        load_model("colours@champion")


def test_the_page_with_the_outcome_links_to_mlflow_where_it_has_pages(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = run_tree.parent_run("run-1", name="colours")
    registered = Registration(
        name="colours",
        version="2",
        aliases=(),
        gate="refused",
        verdict=Verdict.WORSE,
        reason="x",
        created=True,
        comparison=None,
        num_judged_before=1,
    )
    assert "In MLflow" not in register._summary(registered, parent)
    monkeypatch.setenv("CROSSFOLD_MLFLOW_PAGES", "http://localhost:5001/")
    said = register._summary(registered, parent)
    run = f"http://localhost:5001/#/experiments/{parent.experiment_id}/runs/{parent.id}"
    assert f"[the run]({run}?workflowType=machine_learning)" in said
    assert "[the version](http://localhost:5001/#/models/colours/versions/2)" in said
