"""The record of a diagnosis, which `diagnose_data` writes and the report shows."""

from crossfold.records import Record, Scores

from .labels.confused_classes import ConfusedClasses
from .labels.label_errors import LabelErrors
from .labels.outliers import Outliers
from .shortcuts.shortcut_test import Shortcuts
from .trust.records import LearningCurve, NestedCV, PermutationTest, Power, RepeatedCV


class Diagnosis(Record):
    """The findings about a run's images and scores.

    `left_out` says why a part was not computed, by the part's name.
    """

    left_out: dict[str, str]
    label_errors: LabelErrors | None = None
    outliers: Outliers | None = None
    confused_classes: ConfusedClasses | None = None
    shortcuts: Shortcuts | None = None
    repeated_cv: RepeatedCV | None = None
    nested_cv: NestedCV | None = None
    permutation_test: PermutationTest | None = None
    learning_curve: LearningCurve | None = None
    power: Power | None = None

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
        if self.repeated_cv:
            best = max(head.macro_f1 for head in self.repeated_cv.heads)
            figures["repeated_cv_macro_f1"] = best
        if self.nested_cv:
            figures["nested_cv_macro_f1"] = self.nested_cv.macro_f1
        if self.permutation_test:
            figures["permutation_p"] = self.permutation_test.p_value
        if self.learning_curve:
            figures["gain_by_half_more_images"] = self.learning_curve.gains[0].gain
        if self.power:
            figures["smallest_difference"] = self.power.smallest_difference
        return figures
