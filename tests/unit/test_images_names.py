"""Of pipelines/images.py; crossfold/images.py has tests/unit/test_images.py."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import images
from pipelines.images import DATA, TRAIN, image_name

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what goes into the images."""
    for name in ("crossfold", "requirements", "components", "pipelines"):
        shutil.copytree(
            PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(images, "ROOT", tmp_path)
    return tmp_path


def names() -> dict[str, str]:
    return {role: image_name(role) for role in (DATA, TRAIN)}


def test_a_name_has_its_role_and_a_tag(tree: Path) -> None:
    assert names()[DATA].partition(":")[0] == "crossfold-data"
    repository, _, tag = names()[TRAIN].partition(":")
    assert repository == "crossfold-train"
    assert len(tag) == 16 and int(tag, 16) > 0


def test_an_unchanged_tree_has_the_same_names_wherever_it_lies(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = names()
    (tree / "crossfold" / "__pycache__").mkdir()
    (tree / "crossfold" / "__pycache__" / "data.cpython-311.pyc").write_bytes(b"compiled")
    (tree / "README.md").write_text("for people")
    assert names() == copied
    monkeypatch.setattr(images, "ROOT", PROJECT)
    assert names() == copied


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("crossfold/training.py", {DATA, TRAIN}),
        ("crossfold/data.py", {DATA, TRAIN}),
        ("requirements/base.txt", {DATA, TRAIN}),
        ("requirements/torch.txt", {TRAIN}),
        ("requirements/dev.txt", set()),
        ("pipelines/pipeline.py", set()),
        ("components/train_fold.py", set()),  # Kubeflow's cache looks at a component's code itself
    ],
)
def test_a_changed_line_changes_the_names_of_the_images_it_is_in(
    tree: Path, path: str, changed: set[str]
) -> None:
    before = names()
    (tree / path).write_text((tree / path).read_text() + "# a comment\n")
    after = names()
    assert {role for role in before if before[role] != after[role]} == changed


def test_a_template_a_new_and_a_renamed_module_change_the_names(tree: Path) -> None:
    seen = [names()[TRAIN]]
    template = next((tree / "crossfold" / "templates").iterdir())
    template.write_text(template.read_text() + " ")
    seen.append(names()[TRAIN])
    (tree / "crossfold" / "new.py").touch()
    seen.append(names()[TRAIN])
    (tree / "crossfold" / "new.py").rename(tree / "crossfold" / "newer.py")
    seen.append(names()[TRAIN])
    (tree / "crossfold" / "newer.py").unlink()
    seen.append(names()[TRAIN])
    assert len(set(seen)) == 4 and seen[4] == seen[1]


# The rooms of the design: who may import whom


def imported(node: ast.AST) -> Iterator[str]:
    """The top-level packages that are imported anywhere under a node."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0 and part.module, "imports are absolute"
            yield part.module.partition(".")[0]


def modules(package: str) -> list[Path]:
    found = sorted((PROJECT / package).rglob("*.py"))
    assert len(found) > 5
    return found


@pytest.mark.parametrize("path", modules("crossfold"), ids=lambda path: path.name)
def test_the_domain_knows_nothing_of_kubeflow(path: Path) -> None:
    forbidden = {"kfp", "kfp_kubernetes", "kubernetes", "components", "pipelines"}
    assert not forbidden & set(imported(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", modules("components"), ids=lambda path: path.name)
def test_a_component_imports_kubeflow_at_the_top_and_the_domain_inside(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    top = {name for node in tree.body if node not in functions for name in imported(node)}
    assert top <= {"kfp"}
    inside = {name for function in functions for name in imported(function)}
    assert inside <= {"crossfold", "pathlib", "datetime"}
    if path.name != "__init__.py":
        assert [function.name for function in functions] == [path.stem]
        assert "crossfold" in inside
