"""The workflows of GitHub Actions that publish a release and audit the locks."""

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[3]
WORKFLOWS = PROJECT / ".github" / "workflows"
RELEASE = (WORKFLOWS / "release.yml").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(RELEASE)
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
PUBLISHING = {"publish-images", "publish-wheel"}


def scripts(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_each_action_is_at_one_commit_in_all_workflows() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS.glob("*.yml"):
        text = path.read_text()
        found = re.findall(r"uses: ([\w-]+/[\w-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)$", text, re.M)
        assert len(found) == text.count("uses:") > 0, path.name
        for action, pin in found:
            pins.setdefault(action, set()).add(pin)
    assert {action: len(found) for action, found in pins.items()} == dict.fromkeys(pins, 1)


def test_only_the_jobs_that_publish_may_write() -> None:
    assert WORKFLOW["permissions"] == {}
    writing = {job for job in JOBS if "write" in JOBS[job]["permissions"].values()}
    assert writing == PUBLISHING
    assert JOBS["publish-images"]["permissions"].keys() == {
        "packages",
        "id-token",
        "attestations",
    }
    assert JOBS["publish-wheel"]["permissions"]["contents"] == "read"


def test_the_jobs_that_publish_wait_for_the_tests_and_run_no_code_of_the_project() -> None:
    for job in PUBLISHING:
        assert set(JOBS[job]["needs"]) == {"wheel", "images"}
        assert not re.search(
            r"\b(make|crossfold (?!-)|docker run|docker build)\b", str(scripts(job))
        )
    tested = {name for job in JOBS for script in scripts(job) for name in script.split("\n")}
    assert {"make test", "make test-slow", "make test-docker", "make audit"} <= tested


def test_a_release_starts_with_a_tag_alone_and_has_no_stored_secret() -> None:
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}  # what YAML 1.1 makes of the key `on`
    assert "secrets." not in RELEASE
    assert not [script for job in JOBS for script in scripts(job) if "${{" in script]


def test_the_audit_may_only_read() -> None:
    audit: dict[Any, Any] = yaml.safe_load((WORKFLOWS / "audit.yml").read_text())
    assert audit["permissions"] == {"contents": "read"}
    assert set(audit[True]) == {"schedule", "push"}
    assert audit["jobs"]["audit"]["steps"][-1] == {"run": "make audit"}
