"""The record of a diagnosis, which `diagnose_data` writes and the report shows."""

from crossfold.records import Record, Scores

from .confused_classes import ConfusedClasses
from .label_errors import LabelErrors
from .outliers import Outliers
from .shortcuts import Shortcuts


class Diagnosis(Record):
    """The findings about a run's images and scores.

    `left_out` says why a part was not computed, by the part's name.
    """

    left_out: dict[str, str]
    label_errors: LabelErrors | None = None
    outliers: Outliers | None = None
    confused_classes: ConfusedClasses | None = None
    shortcuts: Shortcuts | None = None

    @property
    def summary(self) -> Scores:
        """The figures under their names in logs."""
        figures: Scores = {}
        if self.label_errors:
            figures["num_label_issues"] = self.label_errors.num_issues
        if self.outliers:
            figures["num_outliers"] = self.outliers.num_outliers
        if self.shortcuts:
            figures |= self.shortcuts.summary
        return figures
