"""Each test that docs/reliability.md names for a fault is there."""

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[3]
PAGE = (PROJECT / "docs" / "reliability.md").read_text()


def rows() -> list[list[str]]:
    """Read the table's rows: fault, moment, runner, what is seen, what is kept, tests."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == 6 and row[0] != "fault" and "---" not in row[0]]


def functions(path: str) -> set[str]:
    tree = ast.parse((PROJECT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_row_names_tests_that_are_there() -> None:
    assert len(rows()) > 20
    for row in rows():
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[-1])
        assert named, f"no test proves: {row[0]}"
        for path, name in named:
            assert name in functions(path), f"{path} has no {name}"
