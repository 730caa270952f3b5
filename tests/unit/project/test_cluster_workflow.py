"""The workflow of GitHub Actions that runs the pipeline on kind."""

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[3]
WORKFLOWS = PROJECT / ".github" / "workflows"
WORKFLOW = (WORKFLOWS / "cluster.yml").read_text()


def test_the_workflow_uses_the_same_actions_as_the_other() -> None:
    pin = re.compile(r"uses: (\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$", re.MULTILINE)
    others = set(pin.findall((WORKFLOWS / "ci.yml").read_text()))
    used = pin.findall(WORKFLOW)
    assert len(used) == WORKFLOW.count("uses:") > 0
    assert set(used) <= others


def test_the_workflow_calls_targets_that_the_makefile_has() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    called = set(re.findall(r"run: make ([a-z-]+)", WORKFLOW))
    assert {"cluster-up", "pipeline-run", "cluster-status", "cluster-down"} <= called <= targets


def test_the_workflow_may_only_read() -> None:
    workflow: dict[Any, Any] = yaml.safe_load(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow[True]) == {"push", "pull_request"}  # what YAML 1.1 makes of the key `on`
    assert "secrets." not in WORKFLOW
    assert not any("permissions" in job for job in workflow["jobs"].values())
