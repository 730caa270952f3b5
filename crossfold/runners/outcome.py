"""The outcome of a finished run, on any runner."""

from dataclasses import dataclass
from pathlib import Path

from crossfold.diagnosis.findings import Diagnosis
from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.report import dvc_files

REPORTS = "reports"


@dataclass(frozen=True)
class Outcome:
    """The content of a run's artifacts, its counts of steps, and places to look closer.

    `notes` are lines for the user; see `pre_run_checks.check_model`.
    """

    leaderboard: Leaderboard
    evaluation: Evaluation
    diagnosis: Diagnosis
    registration: Registration
    report_html: str
    num_steps: int
    num_reused: int
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def write_reports(self, root: Path, *, record: bool) -> None:
        """Write the project's reports; with `record`, also the files that git and DVC compare."""
        dvc_files.write_reports(
            root / REPORTS,
            evaluation=self.evaluation,
            leaderboard=self.leaderboard,
            diagnosis=self.diagnosis,
            report_html=self.report_html,
            record=record,
        )
