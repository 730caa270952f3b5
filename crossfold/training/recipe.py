"""The hyper-parameters of a fit: the settings of the run, and a candidate."""

from dataclasses import dataclass

from crossfold.settings import AugmentationSettings, Candidate, TrainingSettings


class FitSettings(TrainingSettings, AugmentationSettings):
    """The settings that all fits of a run share: training, augmentation, and the precision."""

    precision: str


@dataclass(frozen=True)
class Recipe:
    """A candidate, and the settings that it is trained with.

    A head is trained to convergence on all images at once, so it ignores `num_epochs` and
    `batch_size`.
    """

    candidate: Candidate
    settings: FitSettings

    @property
    def num_epochs(self) -> int | None:
        """Number of epochs; None for a head."""
        return None if self.candidate.is_head else self.settings.num_epochs

    @property
    def precision(self) -> str:
        """Number format of the fit; a head gains nothing from fewer digits."""
        return "float32" if self.candidate.is_head else self.settings.precision
