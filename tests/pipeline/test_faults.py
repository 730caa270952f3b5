"""Runs on a disk that is too small, with read-only data.

The disk is a small tmpfs over runs/, in a mount namespace of the commands' own, without root. After
each failure it gets larger, so that each run gets further than the one before.
"""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from .projects import STEPS, Project, titles

pytestmark = pytest.mark.slow

SIZES = ("300k", "1500k", "45m", "105m", "150m", "1g")
READ_ONLY = "read-only"
OPEN_RUNS = """
import sqlite3
query = "SELECT name FROM runs WHERE status = \\"RUNNING\\""
for name, in sqlite3.connect("runs/mlflow.db").execute(query):
    print("# left open:", name)
"""
RUNS = f"""
mkdir runs
for folder in data models; do
    mount --bind $folder $folder && mount -o remount,bind,ro $folder || exit 9
    touch $folder/new 2>/dev/null && exit 9
done
mount -t tmpfs -o ro tmpfs runs
echo "# {READ_ONLY}"; crossfold run 2>&1; echo "# status $?"
umount runs
mount -t tmpfs tmpfs runs
for size in {" ".join(SIZES)}; do
    mount -o remount,size=$size runs
    echo "# $size"; crossfold run 2>&1; echo "# status $?"
    find . -name '*.part' -not -path './.dvc/*' | sed "s/^/# left /"
    [ ! -e runs/mlflow.db ] || python -c '{OPEN_RUNS}'
done
"""


@dataclass(frozen=True)
class Tried:
    """What a run printed, and its exit status."""

    output: str
    status: int


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    return new_project()


@pytest.fixture(scope="module")
def printed(project: Project) -> str:
    return project.call("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", RUNS)


@pytest.fixture(scope="module")
def tried(printed: str) -> dict[str, Tried]:
    """Each run by the size of its disk."""
    runs = re.findall(r"^# (\S+)\n(.*?)^# status (\d+)$", printed, re.MULTILINE | re.DOTALL)
    return {size: Tried(output, int(status)) for size, output, status in runs}


def test_a_read_only_folder_of_runs_is_named(project: Project, tried: dict[str, Tried]) -> None:
    run = tried[READ_ONLY]
    assert (run.output.splitlines(), run.status) == (
        [f"error: {project.root}/runs/lock: {os.strerror(errno.EROFS)}"],
        2,
    )


def test_a_full_disk_is_one_clear_error_that_names_the_path(
    project: Project, tried: dict[str, Tried]
) -> None:
    for size in SIZES[:-1]:
        output = tried[size].output
        assert tried[size].status in (1, 2), (size, output)
        assert "Traceback" not in output, (size, output)
        (error,) = re.findall(r"^error: .*", output, re.MULTILINE)
        assert f"{project.root}/runs/" in error, (size, error)
        assert re.search("disk is full|no space is left|GB free", error), (size, error)


def test_the_next_run_repeats_no_step_that_finished_on_a_full_disk(
    tried: dict[str, Tried],
) -> None:
    finished: set[str] = set()
    for size in SIZES:
        done = set(titles(tried[size].output, "✓"))
        assert not done & finished, size
        finished |= done
    assert finished == set(STEPS)
    assert len({size for size in SIZES if titles(tried[size].output, "✓")}) > 2


def test_read_only_data_are_enough_for_a_run(tried: dict[str, Tried]) -> None:
    assert tried[SIZES[-1]].status == 0


def test_a_full_disk_leaves_nothing_half_written_and_no_run_open(printed: str) -> None:
    assert "# left" not in printed
