"""The workflow of the public CI, where actionlint does not look (`make lint-workflows` is that)."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).parents[3]
TEXT = (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]


def steps() -> Iterator[dict[str, Any]]:
    for job in JOBS.values():
        yield from job["steps"]


SCRIPTS = [step["run"] for step in steps() if "run" in step]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))


def test_it_calls_targets_that_the_makefile_has() -> None:
    called = {name for script in SCRIPTS for name in re.findall(r"\bmake ([a-z-]+)", script)}
    assert called >= {"lint", "test", "images", "test-docker"}
    assert called <= make_targets()
    assert any("crossfold compile" in script for script in SCRIPTS)


def test_it_covers_each_supported_python() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    supported = SpecifierSet(project["requires-python"])
    expected = [f"3.{minor}" for minor in range(30) if supported.contains(f"3.{minor}")]
    assert JOBS["test"]["strategy"]["matrix"]["python"] == expected


def test_each_action_is_pinned_by_commit_and_names_its_release() -> None:
    lines = [line for line in TEXT.splitlines() if "uses:" in line]
    assert len(lines) == sum("uses" in step for step in steps()) > 0
    for line in lines:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_one_action_is_at_one_commit() -> None:
    pins = dict(re.findall(r"uses: (\S+)@(\S+ # \S+)", TEXT))
    for action, pin in re.findall(r"uses: (\S+)@(\S+ # \S+)", TEXT):
        assert pins[action] == pin


def test_it_may_only_read() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in JOBS.values())
    for step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_a_fork_can_run_it() -> None:
    triggers = WORKFLOW[True]  # what YAML 1.1 makes of the key `on`
    assert set(triggers) == {"push", "pull_request"}  # never pull_request_target
    assert "secrets." not in TEXT


def test_no_expression_becomes_part_of_a_script() -> None:
    assert not [script for script in SCRIPTS if "${{" in script]


@pytest.mark.parametrize("job", JOBS)
def test_each_job_ends(job: str) -> None:
    assert 0 < JOBS[job]["timeout-minutes"] <= 90
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True
