"""Find the outputs of the last finished run on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crossfold.errors import UserError

from .run_folders import FINISHED, HOME, Run, all_runs


@dataclass(frozen=True)
class LastRun:
    """The artifacts of a run that the diagnosis reads."""

    id: str
    examples: Path
    features: Path
    predictions: tuple[Path, ...]
    leaderboard: Path


def find_last_run(root: Path) -> LastRun:
    """Find the last finished run on this machine, of processes or containers.

    Raises:
        UserError: there is none, or its files are gone.
    """
    finished = [run for run in all_runs(root / HOME) if run.status == FINISHED]
    if not finished:
        raise UserError(
            "no run has finished on this machine, so there are no stored features. Run "
            "`crossfold run` or `crossfold run --on docker` here; a cluster keeps the features of "
            "its runs to itself"
        )
    last = finished[-1]
    found = LastRun(
        id=last.id,
        examples=last.outputs("fetch_data") / "examples",
        features=_features(last),
        predictions=tuple(path / "predictions" for path in _outputs(last, "train_fold ")),
        leaderboard=last.outputs("aggregate_cv") / "leaderboard",
    )
    for path in (found.examples, found.features, *found.predictions, found.leaderboard):
        if not path.exists():
            raise UserError(f"{path} of the last run is gone. Run again: crossfold run")
    return found


def _features(run: Run) -> Path:
    """Locate the features, of the only extraction or joined from several."""
    if "join_features" in run.steps:
        return run.outputs("join_features") / "features"
    return next(_outputs(run, "extract_features")) / "features"


def _outputs(run: Run, start: str) -> Iterator[Path]:
    """Yield the output folders of the steps whose titles start so."""
    yield from (run.outputs(title) for title in run.steps if title.startswith(start))
