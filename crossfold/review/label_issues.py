"""Read the label issues of a run."""

import csv
from pathlib import Path

from pydantic import ValidationError

from crossfold.diagnosis.labels.label_errors import LabelIssue
from crossfold.errors import UserError


def read_issues(path: Path) -> tuple[LabelIssue, ...]:
    """Read a run's `label_issues.csv`, most suspicious first.

    Raises:
        UserError: it is missing, or is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(LabelIssue.model_validate(row) for row in csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: `crossfold run` writes it") from None
    except (UnicodeDecodeError, csv.Error, ValidationError):
        raise UserError(
            f"{path} is damaged or has been modified: `crossfold run` writes it again"
        ) from None
