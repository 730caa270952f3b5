"""The figures as a page: docs/performance.md's generated part, its plot, and the figures as JSON.

Both benchmarks write into one file of figures, docs/performance.json, and the page shows what is
in it.
"""

import datetime
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.adapter import BFLOAT16, FLOAT32
from benchmarks.figures import median_and_minimum
from benchmarks.goals import FAR_BELOW, GOALS, MATRIX_UNITS, Goal
from benchmarks.rounds import ROOT
from crossfold.report.figures import BLUE, INK, VERMILION

PAGE = ROOT / "docs" / "performance.md"
FIGURES = PAGE.with_suffix(".json")
PICTURE = ROOT / "docs" / "pictures" / "performance.svg"
BEGIN = "<!-- Written by `make benchmark` and `make benchmark-scale`; from here on -->"
END = "<!-- to here. -->"
_WHY = "[why](#what-is-not-reached)"

Results = dict[str, Any]


def environment(threads: int) -> Results:
    """Return what the figures depend on."""
    model, flags = machine.processor()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model,
        "flags": flags,
        "cores": machine.num_cores(),
        "threads": threads,
        "versions": machine.versions(),
    }


def save(results: Results) -> Results:
    """Put results beside those of the other benchmark, write page and plot; return them all."""
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    everything = json.loads(json.dumps({**kept, **_rounded(results)}))
    FIGURES.write_text(json.dumps(everything, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(everything)}\n{END}{after}")
    if "figures" in everything:
        PICTURE.write_text(plot(everything["figures"]))
    return dict(everything)


def _rounded(value: Any) -> Any:
    """Cut numbers to four digits: the rest is noise, and would change in each run."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.4g}")
    return value


def value_of(goal: Goal, results: Results) -> tuple[float, float | None] | None:
    """Return a goal's figure and, of several rounds, the least; None if it was not measured."""
    values = results.get("figures", {}).get(goal.figure)
    if values:
        return median_and_minimum(values)
    for part in ("startup", "scale"):
        if goal.figure in results.get(part, {}):
            return results[part][goal.figure], None
    return None


def failures(results: Results) -> list[str]:
    """Return a line for each ratio that is far below its goal."""
    flags = tuple(results["environment"]["flags"])
    found = []
    for goal in GOALS:
        measured = value_of(goal, results)
        if measured and goal.far_below(measured[0], flags):
            found.append(
                f"{goal.measure}: {shown(measured[0], goal.unit)} is less than {FAR_BELOW:.0%} "
                f"of the goal of {shown(goal.target, goal.unit)}"
            )
    return found


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, as the page has it."""
    if unit == "%":
        return f"{100 * value:.0f} %"
    number = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{number}×" if unit == "×" else f"{number} {unit}"


def render(results: Results) -> str:
    """Return the generated part of the page."""
    parts = [_goals(results)]
    if "figures" in results:
        parts += [_how(results), _paths(results), _check(results), _startup(results["startup"])]
    if "scale" in results:
        parts.append(_scale(results))
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _goals(results: Results) -> str:
    about = results.get("environment") or results["scale"]
    flags = tuple(about["flags"])
    rows = [_goal_row(goal, results, flags) for goal in GOALS]
    if stored := results.get("check", {}).get("bytes_per_image"):
        sizes = ", ".join(f"`{cut}` {size:,} bytes" for cut, size in sorted(stored.items()))
        rows.append(
            [
                "space of stored cuts, an image at 224×224",
                "stated; refused before writing",
                sizes,
                "yes (`tests/unit/network/test_features.py`)",
            ]
        )
    return _table(("measure", "goal", "median [minimum]", "reached"), rows)


def _goal_row(goal: Goal, results: Results, flags: tuple[str, ...]) -> list[str]:
    sign = "≥" if goal.at_least else "≤"
    row = [goal.measure, f"{sign} {shown(goal.target, goal.unit)}"]
    absent = f"this processor has no matrix units for bfloat16 (`{MATRIX_UNITS}`)"
    measured = value_of(goal, results)
    if measured is None:
        return [*row, "not measured", "—" if goal.reachable(flags) else f"no: {absent}"]
    value, least = measured
    text = shown(value, goal.unit) + (f" [{shown(least, goal.unit)}]" if least is not None else "")
    if goal.reached(value):
        return [*row, text, "yes"]
    return [*row, text, f"no: {_WHY}" if goal.reachable(flags) else f"no: {absent}"]


def _how(results: Results) -> str:
    about, rounds = results["environment"], results["rounds"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    short = "" if rounds["kept"] >= rounds["wanted"] else f" of the {rounds['wanted']} wanted"
    return (
        f"Measured on {about['date']}: {about['processor']}, {about['cores']} cores, "
        f"{about['threads']} threads, with {', '.join(about['flags'])}. {versions}. "
        f"Rounds: {rounds['kept']}{short}, and {rounds['dropped']} dropped since others used more "
        f"than {rounds['max_others']:g} of a core; in those kept they used {max(rounds['others'])} "
        f"at the most, and {results['startup']['others']} while start-up was measured.\n\n"
        "![Seconds of each path](pictures/performance.svg)\n"
    )


_MORE = "what evaluate_test does beside: torch's predictions, latency, intervals"
_PATHS = (
    ("seconds_naive_files", "naive loop, from the files", "s"),
    ("seconds_naive", "naive loop, decoded once", "s"),
    ("seconds_plain", "each image once, the naive loop's engine", "s"),
    ("seconds_float32", "the pipeline, float32", "s"),
    ("seconds_bfloat16", "the pipeline, bfloat16", "s"),
    ("counting", "what counting gives: naive, decoded once, against each image once", "×"),
    ("engine_ratio_float32", "what the pipeline's engine gives beside, float32", "×"),
    ("engine_ratio_bfloat16", "the same, bfloat16", "×"),
    ("evaluating_more_float32", f"{_MORE}, float32", "s"),
    ("evaluating_more_bfloat16", f"{_MORE}, bfloat16", "s"),
    ("ratio_whole_float32", "the pipeline with that, float32, against the naive loop", "×"),
    ("ratio_whole_bfloat16", "the same, bfloat16", "×"),
    ("ratio_files_float32", "the pipeline, float32, against the naive loop from the files", "×"),
    ("ratio_files_bfloat16", "the same, bfloat16", "×"),
    ("peak_float32", "matrix product, float32", "GFLOP/s"),
    ("peak_bfloat16", "matrix product, bfloat16", "GFLOP/s"),
    ("images_float32", "features of decoded images, float32", "images/s"),
    ("images_bfloat16", "features of decoded images, bfloat16", "images/s"),
    ("photos_float32", "photos (640×480 JPEG) to features, float32", "images/s"),
    ("build_float32", "building the engine, float32", "s"),
    ("build_bfloat16", "building the engine, bfloat16", "s"),
    ("first_batch_float32", "its first batch, float32", "s"),
    ("first_batch_bfloat16", "its first batch, bfloat16", "s"),
    ("one_image_p99", "one image, end to end, p99", "ms"),
    ("one_image_first", "one image, the first of a process", "ms"),
    ("fine_tuning_images_float32", "full fine-tuning, float32", "images/s"),
    ("fine_tuning_images_bfloat16", "full fine-tuning, bfloat16", "images/s"),
)


def _paths(results: Results) -> str:
    figures = results["figures"]
    rows = [
        [name, *(shown(value, unit) for value in median_and_minimum(figures[key]))]
        for key, name, unit in _PATHS
        if key in figures
    ]
    return _table(("path", "median", "minimum"), rows)


def _check(results: Results) -> str:
    check = results["check"]
    text = (
        f"Forward passes: the naive loop takes {check['naive_passes']:,} for "
        f"{check['num_train']} + {check['num_test']} images, the pipeline "
        f"{check['pipeline_passes']:,}, and torch {check['num_test']} more, to compare the export "
        f"with it. Run whole on {check['small_images']} images at "
        f"{check['small_size']} pixels, the naive loop took {check['small_passes']:,} passes, "
        "counted by a hook, and gave the pipeline's predictions, accuracies and macro F1 exactly. "
    )
    if check["bfloat16_different"] is not None:
        different, total = check["bfloat16_different"]
        text += f"In bfloat16, {different} of {total} predictions differ. "
    return f"{text.rstrip()}\n"


def _startup(startup: Results) -> str:
    imports = [[name, f"{seconds:.2f} s"] for name, seconds in startup["libraries"].items()]
    imports += [
        [f"`{name}`: what its body imports, after Kubeflow's launcher", f"{seconds:.2f} s"]
        for name, seconds in startup["body_imports"].items()
    ]
    imports.append(["`crossfold run`", f"{startup['command_imports']:.2f} s"])
    return (
        f"In a local run, which forks its steps, a step's start-up is "
        f"{startup['startup_to_body']:.2f} s to its first line and "
        f"{startup['startup_body_imports']:.2f} s of imports, both means over the "
        f"{startup['num_steps']} steps of a run of the sample with two heads. That run took "
        f"{startup['run_seconds']:.0f} s without the cache, and {startup['first_seconds']:.0f} s "
        "as the project's first run, which pushes the data and makes MLflow's store. With nothing "
        f"changed, it took "
        f"{startup['again_seconds']:.0f} s ({len(startup['again_reused'])} steps from the cache); "
        f"with another learning rate {startup['changed_seconds']:.0f} s "
        f"({', '.join(startup['changed_reused']) or 'nothing'} from the cache). In a container, "
        "a step pays for its imports itself:\n\n"
        + _table(("imports in a fresh process", "better of two"), imports)
    )


def _scale(results: Results) -> str:
    scale = results["scale"]
    rows = []
    for size in scale["sizes"]:
        for step, figures in size["steps"].items():
            per_image = 1000 * figures["seconds"] / size["num_images"]
            rows.append(
                [
                    f"{size['num_images']:,}",
                    step,
                    f"{figures['seconds']:.1f} s",
                    f"{per_image:.2f} ms",
                    f"{figures['peak'] / 1e9:.2f} GB",
                    f"{figures['anonymous'] / 1e9:.2f} GB",
                ]
            )
    header = ("images", "step", "time", "an image", "peak, resident", "peak, anonymous")
    return (
        f"More images, of 64×64 and scaled to {scale['image_size']}×{scale['image_size']}, on "
        f"{scale['date']} ({scale['processor']}, {scale['threads']} threads). Resident memory has "
        "the pages of mapped files in it, which the system takes back when it needs them; "
        "anonymous memory has not.\n\n" + _table(header, rows)
    )


_BARS = (
    ("seconds_naive_files", "naive loop, from files", VERMILION),
    ("seconds_naive", "naive loop, decoded once", VERMILION),
    ("seconds_plain", "each image once, same engine", BLUE),
    (f"seconds_{FLOAT32}", "pipeline, float32", BLUE),
    (f"seconds_{BFLOAT16}", "pipeline, bfloat16", BLUE),
)


def plot(figures: dict[str, list[float]]) -> str:
    """Return an SVG page: the median seconds of each path as a bar, its rounds as dots."""
    bars = [(figures[key], name, color) for key, name, color in _BARS if key in figures]
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for row, (values, _, color) in enumerate(bars):
        median, _ = median_and_minimum(values)
        axes.barh(row, median, color=color, alpha=0.8, height=0.62)
        axes.plot(values, [row] * len(values), ".", color=INK, markersize=4)
        axes.text(1.15 * max(values), row, shown(median, "s"), va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=0.5, right=4 * max(max(values) for values, _, _ in bars))
    axes.set_xlabel("seconds for 5 folds of 5 epochs, the final fit and the test")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
