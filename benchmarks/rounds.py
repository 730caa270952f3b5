"""Rounds: every path once, each in its own process; a round that others disturbed is dropped."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dataset import Workspace
from benchmarks.machine import Watch

ROOT = Path(__file__).parents[1]
MAX_TRIES = 3  # rounds tried for each that is wanted


@dataclass(frozen=True)
class Round:
    """The figures of each path, the cores that others used meanwhile, and what it took."""

    results: dict[str, Any]
    others: float
    seconds: float


def run_path(name: str, workspace: Workspace) -> dict[str, Any]:
    """Run a path in a process of its own and return its figures."""
    arguments = [name, str(workspace.folder), str(workspace.threads)]
    return run_module("benchmarks.paths", arguments)


def run_module(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a module of ours in a fresh interpreter; its last line is JSON.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_round(names: Sequence[str], workspace: Workspace) -> Round:
    """Run every path once."""
    watch = Watch()
    results = {name: run_path(name, workspace) for name in names}
    return Round(results, watch.others(), watch.seconds)


def collect(
    one_round: Callable[[], Round], wanted: int, max_others: float, say: Callable[[str], None]
) -> tuple[list[Round], list[Round]]:
    """Run rounds until enough were undisturbed, or MAX_TRIES times as many were tried.

    Returns:
        The undisturbed rounds and the dropped ones.

    Raises:
        SystemExit: not one was undisturbed.
    """
    clean: list[Round] = []
    dropped: list[Round] = []
    while len(clean) < wanted and len(clean) + len(dropped) < MAX_TRIES * wanted:
        done = one_round()
        (clean if done.others <= max_others else dropped).append(done)
        kept = "kept" if done.others <= max_others else "dropped"
        say(f"round of {done.seconds:.0f} s, others used {done.others:.2f} of a core: {kept}")
    if not clean:
        raise SystemExit(
            f"in none of {len(dropped)} rounds did others use less than {max_others} of a core: "
            "end what else is running, or allow more by --max-noise"
        )
    if len(clean) < wanted:
        say(f"only {len(clean)} of {wanted} rounds were undisturbed")
    return clean, dropped
