"""What a finished run has found, wherever its steps ran."""

from dataclasses import dataclass
from pathlib import Path

from crossfold.records import Evaluation, Leaderboard, Registration
from crossfold.report import dvc_files

REPORTS = "reports"


@dataclass(frozen=True)
class Outcome:
    """The artifacts' content, how many steps were reused, and where to look closer.

    `notes` are lines that the user should know of the weights, see `model_check.check_model`.
    """

    leaderboard: Leaderboard
    evaluation: Evaluation
    registration: Registration
    report_html: str
    num_steps: int
    num_reused: int
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def write_reports(self, root: Path, *, record: bool) -> None:
        """Write the reports folder of a project; with `record` also what git and DVC compare."""
        dvc_files.write_reports(
            root / REPORTS,
            evaluation=self.evaluation,
            leaderboard=self.leaderboard,
            report_html=self.report_html,
            record=record,
        )
