"""Draw the figures of a run, without pyplot and therefore without global state.

Figures have a white background, as `mlflow.log_figure` needs; `to_svg` adapts them to a page in
either colour scheme. Class and candidate names come from users, so they are shortened and never
interpreted as mathematical notation.
"""

import io
import re
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from crossfold.diagnosis.trust.records import LearningCurve
from crossfold.records import Bin, Calibration, Curves, FoldScores, Leaderboard, LeaderboardEntry

from .palette import (
    BLUE,
    INK,
    LINE_STYLES,
    MARKERS,
    MAX_CANDIDATES_DRAWN,
    MAX_CLASSES_IN_LEGEND,
    NUM_WORST_CLASSES,
    PALETTE,
    VERMILION,
)

MAX_CLASSES_NAMED = 100
WIDTH = 5.2  # inches; still legible on a phone, which shows it at about three quarters of its size
STRONGEST_SHADE = 0.7  # keeps the contrast of ink on shade above 4.5:1, on light and dark pages


def confusion_matrix(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts [K, K], a row per true class, shaded by the row's shares.

    Hits are blue. Mistakes are vermilion, shaded by the share's square root so that rare ones are
    visible. With more than MAX_CLASSES_NAMED classes, only the shades are drawn.
    """
    num_classes = len(classes)
    named = num_classes <= MAX_CLASSES_NAMED
    names = [_short(name, 18) for name in classes]
    cell = min(0.42, max(0.17, 4.2 / num_classes)) if named else 8 / num_classes
    margin = 0.6 + (0.085 * max(map(len, names)) if named else 0.3)
    side = max(3.4, margin + cell * num_classes)
    figure = _figure("confusion_matrix", side, side)
    axes = figure.subplots()
    axes.imshow(_shades(confusion), interpolation="none")
    font_size = min(9.0, 45 * cell)
    if named:
        rotation = 90 if max(map(len, names)) > 2 else 0
        axes.set_xticks(range(num_classes), names, fontsize=font_size, rotation=rotation)
        axes.set_yticks(range(num_classes), names, fontsize=font_size)
        for row, column in np.argwhere(confusion):
            count = str(confusion[row, column])
            axes.text(
                column,
                row,
                count,
                ha="center",
                va="center_baseline",
                color=INK,
                fontsize=min(font_size, 110 * cell / max(2, len(count))),
            )
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def roc_curves(curves: Curves, classes: Sequence[str]) -> Figure:
    """Draw the ROC curves by class with their areas; the diagonal is chance."""
    figure, axes = _unit_square("roc_curves", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (1, 3)))
    _draw_curves(figure, axes, curves, classes, area="AUC", drawstyle="default")
    return figure


def pr_curves(curves: Curves, classes: Sequence[str]) -> Figure:
    """Draw the precision-recall curves by class as steps, with their average precision."""
    figure, axes = _unit_square("pr_curves", "recall", "precision")
    _draw_curves(figure, axes, curves, classes, area="AP", drawstyle="steps-post")
    return figure


def reliability(calibration: Calibration) -> Figure:
    """Draw the share of right predictions by probability, with and without the temperature.

    A grey bar shows where 95 % of such shares lie if the probabilities are true. The lower axes
    show the number of images in each bin.
    """
    figure = _figure("reliability", WIDTH, WIDTH * 1.15)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    curve.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (1, 3)))
    for bin in calibration.bins:
        low, high = bin.chance
        curve.bar(bin.low, high - low, _width(bin), low, align="edge", color=INK, alpha=0.12)
        counts.bar(bin.low, bin.num_images, _width(bin), align="edge", color=BLUE, alpha=0.7)
    (after,) = _reliability_line(curve, calibration.bins, BLUE, "o-")
    (before,) = _reliability_line(curve, calibration.without.bins, VERMILION, "x--")
    bar = Rectangle((0, 0), 1, 1, color=INK, alpha=0.12)
    curve.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is right")
    # Logarithmic, so that a bin of one image stays visible next to a bin of thousands.
    counts.set(xlabel="probability of the predicted class", ylabel="images", yscale="log")
    counts.set_ylim(bottom=0.7)
    for axes in (curve, counts):
        _plain(axes)
    names = ["with the temperature", "without", "true probabilities, 95 %"]
    _legend(figure, [after, before, bar], names, num_columns=3)
    return figure


def loss_curves(leaderboard: Leaderboard) -> Figure:
    """Draw the training and validation loss by epoch; see `_learning_curves`."""
    figure = _learning_curves(
        leaderboard, "loss_curves", "loss", {"train_loss": VERMILION, "val_loss": BLUE}
    )
    for axes in figure.axes:
        axes.set_ylim(bottom=0)
    lines = [Line2D([], [], color=color) for color in (VERMILION, BLUE)]
    _legend(figure, lines, ["training", "validation"], num_columns=2)
    return figure


def score_curves(leaderboard: Leaderboard) -> Figure:
    """Draw the validation macro F1 by epoch; see `_learning_curves`."""
    figure = _learning_curves(leaderboard, "score_curves", "macro F1", {"val_macro_f1": BLUE})
    _legend(figure, [Line2D([], [], color=BLUE)], ["validation"], num_columns=1)
    return figure


def _learning_curves(
    leaderboard: Leaderboard, label: str, y_label: str, colors: dict[str, str]
) -> Figure:
    """Draw axes for each of the best MAX_CANDIDATES_DRAWN candidates, a line per score in `colors`.

    A line is the mean over the folds; its band spans their minimum and maximum.
    """
    candidates = leaderboard.with_epochs[:MAX_CANDIDATES_DRAWN]
    figure = _figure(label, WIDTH, 0.6 + 2.2 * len(candidates))
    column = figure.subplots(len(candidates), 1, squeeze=False)[:, 0]
    for axes, entry in zip(column, candidates, strict=True):
        for key, color in colors.items():
            _draw_history(axes, entry.folds, key, color)
        axes.set_title(_short(entry.candidate.name, 40), loc="left", fontsize=10)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        _plain(axes)
    column[-1].set_xlabel("epoch")
    return figure


def learning_curve(curve: LearningCurve) -> Figure:
    """Draw macro F1 by the number of training images, and the fitted curve up to more images."""
    figure = _figure("learning_curve", WIDTH, 2.8)
    axes = figure.subplots()
    sizes = np.array([point.num_images for point in curve.points])
    means, lowest, highest = (
        np.array([getattr(point, name) for point in curve.points])
        for name in ("macro_f1", "lowest", "highest")
    )
    axes.vlines(sizes, lowest, highest, color=BLUE, alpha=0.4, linewidth=3)
    axes.plot(sizes, means, "o", color=BLUE, markersize=4)
    most = sizes[-1] + curve.gains[-1].num_more
    for ends, style in (((sizes[0], sizes[-1]), "-"), ((sizes[-1], most), "--")):
        x = np.linspace(*ends, 50)
        axes.plot(x, curve.a - curve.b * x**-curve.c, style, color=VERMILION)
    axes.set_xlabel("training images")
    axes.set_ylabel("macro F1")
    _plain(axes)
    return figure


def leaderboard(leaderboard: Leaderboard) -> Figure:
    """Draw each candidate's macro F1: its folds, mean and 95 % interval, the chosen one on top."""
    candidates = leaderboard.ranked
    figure, axes = _candidate_rows("leaderboard", candidates)
    for row, entry in enumerate(candidates):
        low, high = entry.interval["macro_f1"]
        fold_scores = [fold.scores["macro_f1"] for fold in entry.folds]
        color = BLUE if row == 0 else INK
        axes.plot([max(low, 0), min(high, 1)], [row, row], color=color, linewidth=1.6)
        axes.plot(fold_scores, [row] * len(fold_scores), "|", color=color, alpha=0.6, markersize=9)
        axes.plot(entry.mean["macro_f1"], row, "o", color=color, markersize=6)
    axes.set_xlabel("macro F1 in cross-validation")
    return figure


def differences(leaderboard: Leaderboard) -> Figure:
    """Draw each candidate's macro F1 minus the chosen one's, with 95 % interval."""
    candidates = leaderboard.ranked
    figure, axes = _candidate_rows("differences", candidates)
    axes.axvline(0, color=BLUE, linewidth=1.2)
    for row, entry in enumerate(candidates):
        if compared := entry.against_chosen:
            low, high = compared.interval
            axes.plot([-low, -high], [row, row], color=INK, linewidth=1.6)
            axes.plot(-compared.difference, row, "o", color=INK, markersize=6)
    axes.set_xlabel("macro F1 minus that of the chosen one")
    return figure


def _candidate_rows(label: str, candidates: Sequence[LeaderboardEntry]) -> tuple[Figure, Axes]:
    figure = _figure(label, WIDTH, 1 + 0.36 * len(candidates))
    axes = figure.subplots()
    names = [_short(entry.candidate.name, 28) for entry in candidates]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    _plain(axes)
    return figure, axes


def to_svg(figure: Figure) -> str:
    """Convert a figure to an <svg> element for the page: transparent, in the page's text colour.

    The figure is transparent afterwards, and keeps its layout.

    The same figure always gives the same bytes. Text stays text in the page's font, so names in
    any script are shown. All figures share one page, so the remaining ids are salted with the
    figure's label.
    """
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    file = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": str(figure.get_label())}),
        warnings.catch_warnings(),
    ):
        # The page's font supplies glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        # `savefig` would draw a second time, only for the layout.
        canvas = FigureCanvasSVG(figure)
        figure.dpi = canvas.fixed_dpi
        layout = figure.get_layout_engine()
        assert layout is not None
        layout.execute(figure)
        figure.set_layout_engine("none")
        for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
            patch.set(facecolor="none", edgecolor="none")
        canvas.print_svg(file, metadata=no_metadata)  # type: ignore[no-untyped-call]
    return _fitted_to_page(file.getvalue())


def _figure(label: str, width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", label=label)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.tick_params(labelsize=9)


def _short(name: str, length: int) -> str:
    printable = "".join(letter if letter.isprintable() else "�" for letter in name)
    cut = printable if len(printable) <= length else printable[: length - 1] + "…"
    return cut.replace("$", r"\$")


def _shades(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the cells' colours, RGBA [K, K, 4]."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shades = np.full((*confusion.shape, 4), to_rgba(VERMILION))
    shades[np.diag_indices(len(confusion))] = to_rgba(BLUE)
    strengths = np.where(confusion > 0, 0.15 + 0.85 * np.sqrt(shares), 0)
    np.fill_diagonal(strengths, np.diagonal(shares) ** 2)
    shades[..., 3] = STRONGEST_SHADE * strengths
    return shades


def _unit_square(label: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = _figure(label, WIDTH, WIDTH)
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x_label, ylabel=y_label)
    _plain(axes)
    return figure, axes


def _draw_curves(
    figure: Figure, axes: Axes, curves: Curves, classes: Sequence[str], area: str, drawstyle: str
) -> None:
    shown = list(curves.per_class)
    if len(shown) > MAX_CLASSES_IN_LEGEND:
        shown = sorted(shown, key=lambda i: curves.per_class[i].area)[:NUM_WORST_CLASSES]
    lines, labels = [], []
    for number, i in enumerate(shown):
        curve = curves.per_class[i]
        lines += axes.plot(
            curve.x,
            curve.y,
            LINE_STYLES[number // len(PALETTE)],
            color=PALETTE[number % len(PALETTE)],
            marker=MARKERS[number % len(PALETTE)],
            # Markers at equal distances along the curve, shifted a little for each class.
            markevery=((number % len(PALETTE)) / 100 + 0.02, 0.2),
            markersize=5,
            drawstyle=drawstyle,
            linewidth=1.4,
        )
        labels.append(f"{_short(classes[i], 24)} ({curve.area:.3f})")
    micro = curves.micro
    lines += axes.plot(micro.x, micro.y, drawstyle=drawstyle, linewidth=2.2, color=INK)
    labels.append(f"micro average ({micro.area:.3f})")
    num_columns = 3 if max(map(len, labels)) <= 22 else 2
    _legend(figure, lines, labels, num_columns, title=f"class ({area})")


def _draw_history(axes: Axes, folds: Sequence[FoldScores], key: str, color: str) -> None:
    histories = np.array([[epoch.scores[key] for epoch in fold.history] for fold in folds])
    epochs = np.arange(1, histories.shape[1] + 1)
    low, high = histories.min(axis=0), histories.max(axis=0)
    axes.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
    marker = "." if len(epochs) == 1 else ""
    axes.plot(epochs, histories.mean(axis=0), color=color, linewidth=1.4, marker=marker)


def _width(bin: Bin) -> float:
    return bin.high - bin.low


def _reliability_line(axes: Axes, bins: Sequence[Bin], color: str, style: str) -> list[Line2D]:
    confidence, accuracy = zip(*((bin.confidence, bin.accuracy) for bin in bins), strict=True)
    return axes.plot(confidence, accuracy, style, color=color, linewidth=1.4, markersize=5)


def _legend(
    figure: Figure,
    lines: Sequence[Artist],
    labels: Sequence[str],
    num_columns: int,
    title: str = "",
) -> None:
    figure.legend(
        lines,
        labels,
        loc="outside lower center",
        ncols=num_columns,
        title=title,
        fontsize=9,
        frameon=False,
    )


def _fitted_to_page(svg: str) -> str:
    # matplotlib omits a black fill, since black is SVG's default: inherit the text colour instead.
    inherited = '<svg fill="currentColor" stroke-linejoin="round" '
    svg = svg[svg.index("<svg") :].replace("<svg ", inherited, 1)
    svg = re.sub(r'style="[^"]*"', _style_fitted_to_page, svg)
    # A style element would apply to the whole page, and group ids would repeat in every figure.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", svg)


def _style_fitted_to_page(style: re.Match[str]) -> str:
    return re.sub(r"font-family: [^;\"]*;? ?", "", style[0].replace(INK, "currentColor"))
