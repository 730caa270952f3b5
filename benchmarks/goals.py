"""What should be reached, in one place."""

from dataclasses import dataclass

FAR_BELOW = 0.6  # of its goal: a ratio under it fails the benchmark
RATIO, SHARE = "×", "%"


@dataclass(frozen=True)
class Goal:
    """One row of the table.

    `figure` names what `figures`, `startup` or `scale` measured; a SHARE is given as a fraction;
    `needs` is a flag of the processor without which the goal cannot be reached.
    """

    figure: str
    measure: str
    target: float
    unit: str
    at_least: bool = True
    needs: str = ""

    def reachable(self, flags: tuple[str, ...]) -> bool:
        """Tell whether a processor with these flags has what the goal needs."""
        return not self.needs or self.needs in flags

    def reached(self, value: float) -> bool:
        """Tell whether a value is on the right side of the target."""
        return value >= self.target if self.at_least else value <= self.target

    def far_below(self, value: float, flags: tuple[str, ...]) -> bool:
        """Tell whether a ratio is so far from its goal that something must have broken.

        Seconds and milliseconds are the machine's own affair; a ratio compares paths of one round.
        """
        is_ratio = self.unit in (RATIO, SHARE)
        return is_ratio and self.reachable(flags) and value < FAR_BELOW * self.target


MATRIX_UNITS = "amx_bf16"

GOALS = (
    Goal("ratio_float32", "cross-validation, final fit and test, against the naive loop", 35, "×"),
    Goal("ratio_bfloat16", "the same in bfloat16", 95, "×", needs=MATRIX_UNITS),
    Goal("share_float32", "feature extraction, share of the matrix-multiply peak", 0.90, "%"),
    Goal("share_bfloat16", "the same in bfloat16, of its own peak", 0.75, "%", needs=MATRIX_UNITS),
    Goal(
        "photos_bfloat16",
        "photos (640×480 JPEG) to features, bfloat16",
        250,
        "images/s",
        needs=MATRIX_UNITS,
    ),
    Goal("startup", "start-up of a step's process, mean over a run", 2, "s", at_least=False),
    Goal("overhead", "local run beyond its steps and its imports", 2, "s", at_least=False),
    Goal("one_image_p50", "one image, end to end, p50", 15, "ms", at_least=False),
    Goal("fine_tuning_share", "full fine-tuning step, share of the peak", 0.70, "%"),
    Goal("fine_tuning_gain", "the same in bfloat16, against float32", 2.5, "×", needs=MATRIX_UNITS),
    Goal("memory", "peak memory at 100,000 images", 1.5, "GB", at_least=False),
    Goal(
        "decoded_again",
        "training images decoded again when only a head's settings change",
        0,
        "images",
        at_least=False,
    ),
)
