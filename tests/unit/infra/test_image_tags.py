"""The names of the images, and what they are made of."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import grimp
import pytest

from crossfold.errors import UserError
from crossfold.infra import image_tags
from crossfold.infra.image_tags import (
    DATA,
    MLFLOW,
    ROLES,
    TRAIN,
    BuildArguments,
    Torch,
    build_arguments,
    image_name,
    record_build_arguments,
)

PROJECT = Path(__file__).parents[3]
ALL = set(ROLES)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's code that has built no image."""
    for name in ("crossfold", "requirements", "components", "pipelines", "images"):
        shutil.copytree(
            PROJECT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__", "build.json"),
        )
    shutil.copy(PROJECT / ".dockerignore", tmp_path)
    monkeypatch.setattr(image_tags, "ROOT", tmp_path)
    return tmp_path


def names(arguments: BuildArguments | None = None) -> dict[str, str]:
    return {role: image_name(role, arguments) for role in ROLES}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {role for role in before if before[role] != after[role]}


@pytest.mark.parametrize("role", ROLES)
def test_a_name_has_its_role_and_a_tag(tree: Path, role: str) -> None:
    repository, _, tag = image_name(role).partition(":")
    assert repository == f"crossfold-{role}"
    assert re.fullmatch("[0-9a-f]{16}", tag)


def test_an_unchanged_tree_has_the_same_names_wherever_it_lies(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = names(BuildArguments())
    monkeypatch.setattr(image_tags, "ROOT", PROJECT)
    assert names(BuildArguments()) == copied


def test_what_no_image_holds_is_in_no_name(tree: Path) -> None:
    before = names()
    (tree / "crossfold" / "__pycache__").mkdir()
    (tree / "crossfold" / "__pycache__" / "data.cpython-311.pyc").write_bytes(b"compiled")
    (tree / "crossfold" / "__pycache__" / "data.py").write_text("")
    (tree / "crossfold" / "mlflow.db").write_bytes(b"")
    (tree / "README.md").write_text("for people")
    assert names() == before


def test_a_commit_changes_no_name(tree: Path) -> None:
    before = names()
    author = ("-c", "user.name=Tester", "-c", "user.email=tester@example.org")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*author, "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=tree, check=True)
    assert names() == before


@pytest.mark.parametrize(
    ("path", "roles"),
    [
        ("crossfold/data/fetch.py", {DATA, TRAIN}),
        ("crossfold/html/templates/page.css", {DATA, TRAIN}),
        ("crossfold/training/loop.py", {TRAIN}),
        ("crossfold/report/figures.py", {TRAIN}),
        ("crossfold/report/templates/report.html", {TRAIN}),
        ("images/trim.py", {DATA, TRAIN}),
        ("images/data/Dockerfile", {DATA}),
        ("images/train/Dockerfile", {TRAIN}),
        ("images/mlflow/Dockerfile", {MLFLOW}),
        ("images/mlflow/start.py", {MLFLOW}),
        ("images/mlflow/auth.ini", {MLFLOW}),
        (".dockerignore", ALL),
        ("requirements/uv.txt", ALL),
        ("requirements/sbom.txt", ALL),
        ("requirements/data.txt", {DATA}),
        ("requirements/train.txt", {TRAIN}),
        ("requirements/torch.txt", {TRAIN}),
        ("requirements/torch.in", {TRAIN}),
        ("requirements/train.without", {TRAIN}),
        ("requirements/mlflow.txt", {MLFLOW}),
        ("requirements/base.txt", set()),
        ("requirements/dev.txt", set()),
        ("pipelines/classification.py", set()),
        ("components/train_fold.py", set()),  # Kubeflow's cache looks at a component's code itself
    ],
)
def test_a_changed_line_changes_the_names_of_the_images_it_is_in(
    tree: Path, path: str, roles: set[str]
) -> None:
    before = names()
    (tree / path).write_text((tree / path).read_text() + "# a comment\n")
    assert changed(before, names()) == roles


@pytest.mark.parametrize(
    ("role", "steps"),
    [
        (DATA, {"fetch_data", "fetch_weights"}),
        (
            TRAIN,
            {path.stem for path in PROJECT.glob("components/[a-z]*.py")}
            - {"fetch_data", "fetch_weights"},
        ),
    ],
)
def test_an_image_holds_every_module_that_its_steps_may_import(role: str, steps: set[str]) -> None:
    graph = grimp.build_graph("crossfold", "components", include_external_packages=False)
    files = (path.relative_to(PROJECT).with_suffix("") for path in image_tags.files_in_image(role))
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    importers = {f"components.{step}" for step in steps} | (modules & graph.modules)
    for importer in importers:
        assert graph.find_modules_directly_imported_by(importer) <= modules, importer


def test_a_new_and_a_renamed_module_change_the_names(tree: Path) -> None:
    seen = [names()[TRAIN]]
    (tree / "crossfold" / "new.py").touch()
    seen.append(names()[TRAIN])
    (tree / "crossfold" / "new.py").rename(tree / "crossfold" / "newer.py")
    seen.append(names()[TRAIN])
    (tree / "crossfold" / "newer.py").unlink()
    seen.append(names()[TRAIN])
    assert len(set(seen)) == 3 and seen[3] == seen[0]


def test_build_arguments_change_the_names_of_the_images_that_take_them(tree: Path) -> None:
    default = names(BuildArguments())
    assert changed(default, names(BuildArguments(torch=Torch.DEFAULT))) == {TRAIN}
    assert changed(default, names(BuildArguments("python:3.12-slim-bookworm"))) == ALL


def test_the_names_are_those_of_the_last_build(tree: Path) -> None:
    assert build_arguments() is None
    assert names() == names(BuildArguments())
    last = BuildArguments("python:3.12-slim-bookworm", Torch.DEFAULT)
    record_build_arguments(last)
    assert build_arguments() == last
    assert names() == names(last) != names(BuildArguments())
    assert [path.name for path in (tree / "images").glob("build*")] == ["build.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"python_image": "python:3.12", "torch": "gpu"})]
)
def test_a_damaged_record_of_the_last_build_is_refused(tree: Path, text: str) -> None:
    (tree / "images" / "build.json").write_text(text)
    with pytest.raises(UserError, match=r"images/build.json is damaged: delete it"):
        image_name(DATA)


# The Dockerfiles


def dockerfile(role: str) -> str:
    return (PROJECT / "images" / role / "Dockerfile").read_text().replace("\\\n", "")


@pytest.mark.parametrize("role", ROLES)
def test_all_that_a_dockerfile_takes_is_in_the_name(role: str) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile(role), re.MULTILINE)
    mounted = re.findall(r"--mount=source=([^,]+),", dockerfile(role))
    taken = {source for sources in copied for source in sources.split()} | set(mounted)
    assert len(taken) >= 3
    named = {path.relative_to(PROJECT) for path in image_tags.files_in_image(role)}
    for source in taken:
        found = {path.relative_to(PROJECT) for path in PROJECT.glob(source)}
        assert found, source
        assert all(path in named or path in {p.parent for p in named} for path in found), source


@pytest.mark.parametrize("role", ROLES)
def test_a_dockerfile_has_the_default_arguments_and_a_fixed_numeric_user(role: str) -> None:
    for name, value in BuildArguments().of(role).items():
        assert f"\nARG {name}={value}\n" in f"\n{dockerfile(role)}"
    assert "\nUSER 65532:65532\n" in dockerfile(role)
    assert "# syntax=" not in dockerfile(role)  # a frontend would have to be pulled


# The locks


def locked(name: str) -> dict[str, set[str]]:
    """Each package's versions: some have one for each Python."""
    found: dict[str, set[str]] = {}
    text = (PROJECT / "requirements" / name).read_text()
    for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;]+)", text, re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_an_image_has_the_versions_of_the_project(role: str) -> None:
    project = locked("base.txt") | locked("torch.txt")
    in_image = locked(f"{role}.txt")
    shared = in_image.keys() & project.keys()
    assert len(shared) > 50
    assert {name: in_image[name] for name in shared} == {name: project[name] for name in shared}
    assert not {"torch", "torchvision", "triton"} & in_image.keys()


@pytest.mark.parametrize("role", [DATA, TRAIN])
def test_what_is_left_out_of_an_image_is_in_the_project_and_not_in_its_lock(role: str) -> None:
    lines = (PROJECT / "requirements" / f"{role}.without").read_text().splitlines()
    left_out = {line for line in lines if not line.startswith("#")}
    assert left_out <= locked("base.txt").keys() | locked("torch.txt").keys()
    assert not left_out & locked(f"{role}.txt").keys()
