"""Write docs/performance.md and its picture from the figures in docs/performance.json."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from crossfold.report.figures import BLUE, INK, VERMILION

from .local_run import LocalRun
from .machine import ROOT, Machine, Record
from .scale import MAX_GB, STEPS, Scale
from .timings import BFLOAT16, Round

DOCS = ROOT / "docs"
BEGIN = "<!-- Written by `make benchmark` and `make benchmark-scale`; from here on -->"
END = "<!-- to here. -->"
FAR_BELOW = 0.6  # of its goal: a ratio under it fails the benchmark
GOALS = {  # by the row's label
    "against the naive loop, float32": 35,
    "against the naive loop, bfloat16": 95,
    "photos to features, bfloat16": 250,
    "one image, end to end, float32": 15,
    "peak memory, 100,000 images": MAX_GB,
}
NOT_REACHED = "no: [why](#what-is-not-reached)"


class Comparison(Record):
    """The rounds of `make benchmark`, and the runs of the sample."""

    machine: Machine
    rounds: tuple[Round, ...]
    local_run: LocalRun


class Results(Record):
    """All of docs/performance.json."""

    comparison: Comparison
    scale: Scale


class Row(NamedTuple):
    """A figure, and its value in each round."""

    label: str
    unit: str
    values: NDArray[np.float64]
    is_path: bool = False  # a bar of the picture

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def far_below(self) -> bool:
        """Whether something must have broken: seconds depend on the machine, ratios do not."""
        return self.unit == "×" and self.median < FAR_BELOW * GOALS.get(self.label, 0)

    def cells(self) -> list[str]:
        minimum = f" [{shown(min(self.values), self.unit)}]" if len(self.values) > 1 else ""
        cells = [self.label, shown(self.median, self.unit) + minimum]
        if self.label not in GOALS:
            return [*cells, "", ""]
        goal, sign = GOALS[self.label], "≥" if self.unit in ("×", "images/s") else "≤"
        reached = self.median >= goal if sign == "≥" else self.median <= goal
        return [*cells, f"{sign} {shown(goal, self.unit)}", "yes" if reached else NOT_REACHED]


def shown(value: float, unit: str) -> str:
    """Format a value with its unit."""
    number = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{number}{unit}" if unit == "×" else f"{number} {unit}"


def rows(results: Results) -> Iterator[Row]:
    """Compute every row of the page's first table: to add a figure, add it here."""
    comparison, run = results.comparison, results.comparison.local_run
    naive, once = (_of(comparison.rounds, name) for name in ("naive_seconds", "once_seconds"))
    yield Row("naive loop", "s", naive, is_path=True)
    yield Row("each image once, in torch", "s", once, is_path=True)
    yield Row("each image once, against the naive loop", "×", naive / once)
    for precision in comparison.rounds[0].pipeline:
        taken = [one.pipeline[precision] for one in comparison.rounds]
        seconds, evaluation = (_of(taken, name) for name in ("seconds", "evaluation_seconds"))
        name = precision
        if precision == BFLOAT16 and "amx_bf16" not in comparison.machine.flags:
            name = f"{precision} without matrix units"  # no goal is set for it
        with_evaluation = naive / (seconds + evaluation)
        yield Row(f"pipeline, {name}", "s", seconds, is_path=True)
        yield Row(f"against the naive loop, {name}", "×", naive / seconds)
        yield Row(f"against each image once, in torch, {name}", "×", once / seconds)
        yield Row(
            f"with all of `evaluate_test`, against the naive loop, {name}", "×", with_evaluation
        )
        yield Row(f"photos to features, {name}", "images/s", _of(taken, "photos_per_second"))
        yield Row(f"full fine-tuning, {name}", "images/s", _of(taken, "fine_tuning_per_second"))
        if all(at.one_image_ms for at in taken):
            yield Row(f"one image, end to end, {name}", "ms", _of(taken, "one_image_ms"))
    yield Row("`crossfold run` on the digits, the first of a project", "s", np.array([run.first]))
    yield Row("`crossfold run` on the digits, nothing changed", "s", np.array([run.unchanged]))
    yield Row(
        "`crossfold run` on the digits, a head's setting changed", "s", np.array([run.changed])
    )
    yield Row("`crossfold run --no-cache` on the digits", "s", np.array([run.uncached]))
    yield Row("peak memory, 100,000 images", "GB", np.array([results.scale.peak_gb]))


def _of(records: Sequence[Record], name: str) -> NDArray[np.float64]:
    return np.array([getattr(record, name) for record in records])


def update(docs: Path = DOCS, **parts: Comparison | Scale) -> Results:
    """Put the figures of one benchmark beside those of the other, and write all files."""
    figures, page = docs / "performance.json", docs / "performance.md"
    kept = Results.model_validate_json(figures.read_text())
    results = kept.model_copy(update=parts)
    figures.write_text(results.model_dump_json(indent=1) + "\n")
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{render(results)}\n{END}{rest.partition(END)[2]}")
    (docs / "pictures" / "performance.svg").write_text(plot(results))
    return results


def failures(results: Results) -> list[str]:
    """List the ratios that are far below their goals."""
    return [" ".join(row.cells()) for row in rows(results) if row.far_below]


def render(results: Results) -> str:
    """Render the generated part of the page."""
    comparison, machine, scale = results.comparison, results.comparison.machine, results.scale
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    different = comparison.rounds[0].num_different
    sizes = [f"{size.num_images:,}" for size in scale.sizes]
    costs = [[f"`{step}`", *(str(size.steps[step]) for size in scale.sizes)] for step in STEPS]
    return f"""\
Measured on {machine.date}: {machine.processor}, {machine.threads} threads, with \
{", ".join(machine.flags)}. {versions}. Rounds: {len(comparison.rounds)}; other processes used at \
most {max(taken.others for taken in comparison.rounds)} of a core in one. Predictions that differ \
from the naive loop's: none in float32{"" if different is None else f", {different} in bfloat16"}.

![Seconds of each path](pictures/performance.svg)

{_table(["measure", "median [minimum]", "goal", "reached"], (row.cells() for row in rows(results)))}
Time and peak memory of each step for more and more images, of 64×64 and scaled to 32×32, on \
{scale.machine.date} ({scale.machine.processor}, {scale.machine.threads} threads). Memory includes \
the pages of mapped files, which the system takes back when it needs them.

{_table(["images", *sizes], costs)}"""


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every) + "\n"


def plot(results: Results) -> str:
    """Draw the median seconds of each path as a bar, its rounds as dots; an SVG file."""
    bars = [row for row in rows(results) if row.is_path]
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(bars):
        color = VERMILION if row.label.startswith("naive") else BLUE
        axes.barh(place, row.median, color=color, alpha=0.8, height=0.62)
        axes.plot(row.values, [place] * len(row.values), ".", color=INK, markersize=4)
        text = shown(row.median, row.unit)
        axes.text(1.15 * max(row.values), place, text, va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [row.label for row in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=0.5, right=4 * max(max(row.values) for row in bars))
    axes.set_xlabel("seconds for 5 folds of 5 epochs, the final fit and the test")
    axes.spines[["top", "right"]].set_visible(False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
