"""Write docs/performance.md and its picture from the figures in docs/performance.json."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from crossfold.report.palette import BLUE, INK, VERMILION

from .engine import TRAINED, Engine
from .local_run import LocalRun
from .machine import ROOT, Machine, Record
from .scale import MAX_GB, Cost, Scale, Size
from .timings import EPOCHS, AtPrecision, Comparison

DOCS = ROOT / "docs"
BEGIN = "<!-- Written by `make benchmark` and `make benchmark-scale`; from here on -->"
END = "<!-- to here. -->"
FAR_BELOW = 0.6  # of its goal: a ratio under it fails the benchmark
NOT_REACHED = "no: [why](#what-is-not-reached)"
_AT_LEAST = ("×", "images/s", "%")  # of these units, more is better
FEWEST = EPOCHS[0]


class Results(Record):
    """All of docs/performance.json; None: not measured."""

    small: Comparison | None = None  # photos of 640×480
    large: Comparison | None = None  # of 12 megapixels
    engine: Engine | None = None
    largest: Size | None = None  # 24 megapixels, 20 threads
    photographs: Size | None = None
    local_run: LocalRun | None = None
    scale: Scale | None = None


class Row(NamedTuple):
    """A figure, its value in each round, and its goal."""

    label: str
    unit: str
    values: NDArray[np.float64]
    goal: float | None = None
    is_path: bool = False  # a bar of the picture

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def far_below(self) -> bool:
        """Whether something must have broken: seconds depend on the machine, ratios do not."""
        return self.unit == "×" and self.median < FAR_BELOW * (self.goal or 0)

    def cells(self) -> list[str]:
        cells = [self.label, spread(self.values, self.unit)]
        if self.goal is None:
            return [*cells, "", ""]
        at_least = self.unit in _AT_LEAST
        reached = self.median >= self.goal if at_least else self.median <= self.goal
        sign = "≥" if at_least else "≤"
        return [*cells, f"{sign} {shown(self.goal, self.unit)}", "yes" if reached else NOT_REACHED]


def shown(value: float, unit: str) -> str:
    """Format a value with its unit."""
    number = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{number}{unit}" if unit == "×" else f"{number} {unit}"


def spread(values: NDArray[np.float64], unit: str) -> str:
    """Format the median, and the smallest of several values."""
    smallest = f" [{shown(min(values), unit)}]" if len(values) > 1 else ""
    return shown(float(np.median(values)), unit) + smallest


def rows(results: Results) -> Iterator[Row]:
    """Compute every row of the page's first table: to add a figure, add it here."""
    if results.small:
        yield from _rows_of_small(results.small)
    if results.large:
        yield from _rows_of_large(results.large)
    if results.engine:
        yield from _rows_of_engine(results.engine)
    if results.largest:
        peak = np.array([results.largest.peak_gb])
        yield Row("peak memory of every step, 24-megapixel photos, 20 threads", "GB", peak, MAX_GB)
    if run := results.local_run:
        for label, seconds in (
            ("`crossfold run` on the digits, the first of a project", run.first),
            ("`crossfold run` on the digits, nothing changed", run.unchanged),
            ("`crossfold run` on the digits, a head's setting changed", run.changed),
            ("`crossfold run --no-cache` on the digits", run.uncached),
        ):
            yield Row(label, "s", np.array([seconds]))
        if run.outside_steps is not None:
            outside = np.array([run.outside_steps])
            yield Row("of it, no step at work", "s", outside, goal=2)
    if results.scale:
        peak = np.array([results.scale.sizes[-1].peak_gb])
        yield Row("peak memory of every step, 100,000 images", "GB", peak, MAX_GB)


def _rows_of_small(small: Comparison) -> Iterator[Row]:
    naive = _of(small, lambda one: one.naive_seconds[FEWEST])
    yield Row("naive loop", "s", naive, is_path=True)
    yield Row("each image once, in torch", "s", np.array([small.once_seconds]), is_path=True)
    has_matrix_units = "amx_int8" in small.machine.flags
    goals = {
        ("float32", 5): 30,
        ("int8", 5): 80 if has_matrix_units else 60,
        ("int8", 20): 300 if has_matrix_units else 250,
    }
    for precision in _precisions(small):
        seconds = _measured(small, precision, lambda taken: taken.seconds[FEWEST])
        yield Row(f"whole pipeline, {precision}", "s", seconds, is_path=True)
        for epochs in EPOCHS:
            yield Row(
                f"whole pipeline against the naive loop, {precision}, E = {epochs}",
                "×",
                ratios(small, precision, epochs),
                goals.get((precision, epochs)),
            )
    one_image = {
        p: _measured(small, p, lambda taken: taken.one_image_ms) for p in _precisions(small)
    }
    for precision, milliseconds in one_image.items():
        goal = 7 if precision == "int8" else None
        yield Row(f"one image of 640×480, bytes to label, {precision}", "ms", milliseconds, goal)
    network = {p: _measured(small, p, lambda taken: taken.network_ms) for p in _precisions(small)}
    yield from _faster("one image", one_image, 2)
    yield from _faster("extraction, ResNet18", network, 3)


def _faster(what: str, milliseconds: dict[str, NDArray[np.float64]], goal: float) -> Iterator[Row]:
    if {"float32", "int8"} <= milliseconds.keys():
        label = f"{what}, int8 against float32"
        yield Row(label, "×", milliseconds["float32"] / milliseconds["int8"], goal)


def _rows_of_large(large: Comparison) -> Iterator[Row]:
    number, cores = sum(large.num_images), large.machine.threads
    for precision in _precisions(large):
        label = f"12 megapixels: whole pipeline against the naive loop, {precision}, E = {FEWEST}"
        yield Row(label, "×", ratios(large, precision, FEWEST))
        decoding = _measured(large, precision, lambda taken: taken.steps["write_examples"]) / number
        network = _measured(large, precision, lambda taken: taken.network_ms) / 1000 / cores
        label = f"12 megapixels: photographs to features, {precision}"
        goal = 40 if precision == "int8" else None
        yield Row(label, "images/s", 1 / (decoding + network), goal)
    bytes_left = np.array([large.table_mb_at(4)])  # MB of one are GB of 1,000
    yield Row("bytes that leave fetch_data for 1,000 photos of 4 MB", "GB", bytes_left, 1)


def _rows_of_engine(engine: Engine) -> Iterator[Row]:
    first, rounds = engine.rounds[0], engine.rounds
    for precision in first.peak_gflops:
        peak = np.array([one.peak_gflops[precision] for one in rounds])
        yield Row(f"peak: product of two matrices, {precision}", "GFLOP/s", peak)
        tuned = np.array([one.fine_tuning_per_second[precision] for one in rounds])
        yield Row(f"full fine-tuning, {precision}", "images/s", tuned)
    share = np.array([one.share_of_peak("float32") for one in rounds])
    yield Row("full fine-tuning, float32, of the peak", "%", share, 70)
    if "bfloat16" in first.fine_tuning_per_second:
        float32, bfloat16 = (
            np.array([one.fine_tuning_per_second[p] for one in rounds]) for p in TRAINED
        )
        goal = 2.5 if "amx_bf16" in engine.machine.flags else None
        yield Row("full fine-tuning, bfloat16 against float32", "×", bfloat16 / float32, goal)
    lite0 = {p: np.array([one.lite0_ms[p] for one in rounds]) for p in first.lite0_ms}
    for precision, milliseconds in lite0.items():
        yield Row(f"extraction, EfficientNet-Lite0, {precision}, of all cores", "ms", milliseconds)
    yield from _faster("extraction, EfficientNet-Lite0", lite0, 2.5)


def _precisions(comparison: Comparison) -> list[str]:
    """List the precisions that every round has."""
    first, *others = (one.pipeline for one in comparison.rounds)
    return [name for name in first if all(name in other for other in others)]


def _of(comparison: Comparison, value: Callable[..., float]) -> NDArray[np.float64]:
    return np.array([value(one) for one in comparison.rounds])


def _measured(
    comparison: Comparison, precision: str, value: Callable[[AtPrecision], float]
) -> NDArray[np.float64]:
    return _of(comparison, lambda one: value(one.pipeline[precision]))


def ratios(comparison: Comparison, precision: str, epochs: int) -> NDArray[np.float64]:
    """Compute by round how many times as long as the pipeline the naive loop takes."""
    return _of(
        comparison,
        lambda one: one.naive_seconds[epochs] / one.pipeline[precision].seconds[epochs],
    )


def read(docs: Path = DOCS) -> Results:
    """Read the figures of all benchmarks."""
    return Results.model_validate_json((docs / "performance.json").read_text())


def update(measured: Results, docs: Path = DOCS) -> None:
    """Put new figures beside the others, and write all files, that of the figures first."""
    page = docs / "performance.md"
    new = {name: part for name, part in measured if part is not None}
    results = read(docs).model_copy(update=new)
    (docs / "performance.json").write_text(results.model_dump_json(indent=1) + "\n")
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{render(results)}\n{END}{rest.partition(END)[2]}")
    (docs / "pictures" / "performance.svg").write_text(plot(results))


def failures(results: Results) -> list[str]:
    """List the paths that failed, ratios far below their goals, and too much memory or time."""
    compared = [one for one in (results.small, results.large) if one]
    far_below = [" ".join(row.cells()) for row in rows(results) if row.far_below]
    costs = [one for one in (results.largest, results.scale) if one]
    problems = [problem for one in (*compared, *costs) for problem in one.problems]
    return [*problems, *far_below]


def render(results: Results) -> str:
    """Render the generated part of the page."""
    sections = [
        _table(
            ["measure", "median [minimum]", "goal", "reached"], (r.cells() for r in rows(results))
        )
    ]
    if results.small:
        sections = [
            _conditions(results.small),
            "![Seconds of each path](pictures/performance.svg)\n",
            *sections,
            _curve("photos of 640×480", results.small),
        ]
    if results.large:
        sections.append(_curve("photos of 12 megapixels", results.large))
    if results.small:
        sections.append(_step_seconds(results.small))
    if results.largest:
        sections.append(
            _costs("Photos of 24 megapixels, turned by EXIF, 20 threads.", results.largest)
        )
    if results.photographs:
        sections.append(_costs("Photos of 12 megapixels.", results.photographs))
    if results.scale:
        sections.append(_scale(results.scale))
    return "\n".join(sections)


def _conditions(small: Comparison) -> str:
    different = {
        precision: max(_measured(small, precision, lambda taken: taken.num_different))
        for precision in _precisions(small)
    }
    counts = ", ".join(f"{number:.0f} in {name}" for name, number in different.items())
    return (
        f"{_machine(small.machine)} Rounds: {len(small.rounds)}; other processes used at most "
        f"{max(taken.others for taken in small.rounds)} of a core in one. Predictions that differ "
        f"from the naive loop's, of {sum(small.num_images)}: {counts}.\n"
    )


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"Measured on {machine.date}: {machine.processor}, {machine.threads} threads, with "
        f"{', '.join(machine.flags)}. {versions}."
    )


def _curve(files: str, comparison: Comparison) -> str:
    """Tabulate the ratio to the naive loop by the number of epochs."""
    header = [f"against the naive loop, {files}", *(f"E = {epochs}" for epochs in EPOCHS)]
    lines = [["counting alone", *(shown(comparison.counting(e), "×") for e in EPOCHS)]]
    for precision in _precisions(comparison):
        by_epochs = (spread(ratios(comparison, precision, epochs), "×") for epochs in EPOCHS)
        lines.append([f"whole pipeline, {precision}", *by_epochs])
    return _table(header, lines)


def _median_seconds(small: Comparison, precision: str, step: str) -> float:
    return float(np.median(_measured(small, precision, lambda one: one.steps[step])))


def _step_seconds(small: Comparison) -> str:
    """Tabulate the median seconds of each step, with the fewest epochs."""
    precisions = _precisions(small)
    lines = []
    for step in small.rounds[0].pipeline[precisions[0]].steps if precisions else ():
        taken = (_median_seconds(small, precision, step) for precision in precisions)
        lines.append([f"`{step}`", *(f"{seconds:.2f} s" for seconds in taken)])
    number = f"{sum(small.num_images):,}"
    return _table([f"{number} photos of 640×480, E = {FEWEST}", *precisions], lines)


def _costs(title: str, size: Size) -> str:
    """Tabulate time, memory and bytes of each step."""
    lines = [[f"`{step}`", *_cells(cost)] for step, cost in size.steps.items()]
    header = [f"{size.num_images:,} photos", "seconds", "peak memory", "written"]
    return f"{title} Their files: {size.photos_mb:,.0f} MB.\n\n{_table(header, lines)}"


def _cells(cost: Cost) -> list[str]:
    return [f"{cost.seconds:.1f} s", f"{cost.gb:.2f} GB", f"{cost.written_mb:,.1f} MB"]


def _scale(scale: Scale) -> str:
    sizes = [f"{size.num_images:,}" for size in scale.sizes]
    costs = [
        [f"`{step}`", *(str(size.steps[step]) for size in scale.sizes)]
        for step in scale.sizes[0].steps
    ]
    return f"""\
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
    highest = max((max(row.values) for row in bars), default=1.0)
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
    axes.set_xlim(left=0.5, right=4 * highest)
    axes.set_xlabel("seconds for 5 folds of 5 epochs, the final fit, the test and the report")
    axes.spines[["top", "right"]].set_visible(False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
