"""The record of a diagnosis, which `diagnose_data` writes and the report shows."""

from crossfold.records import Record, Scores

from .shortcuts import Shortcuts


class Diagnosis(Record):
    """The findings about a run's images and scores.

    `left_out` says why a part was not computed, by the part's name.
    """

    left_out: dict[str, str]
    shortcuts: Shortcuts | None = None

    @property
    def summary(self) -> Scores:
        """The figures under their names in logs."""
        return self.shortcuts.summary if self.shortcuts else {}
