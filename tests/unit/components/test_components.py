"""Every step's file: Kubeflow at the top, the work inside one function of the same name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

COMPONENTS = sorted((Path(__file__).parents[3] / "components").glob("[a-z]*.py"))


def imported(node: ast.AST) -> Iterator[str]:
    """The top-level packages that are imported anywhere under a node."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0 and part.module, "kfp takes a function's source alone"
            yield part.module.partition(".")[0]


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_a_component_imports_kubeflow_at_the_top_and_the_domain_inside(path: Path) -> None:
    tree = ast.parse(path.read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert function.name == path.stem
    top = {name for node in tree.body if node is not function for name in imported(node)}
    assert top <= {"kfp"}
    assert "crossfold" in set(imported(function)) <= {"crossfold", "pathlib"}
