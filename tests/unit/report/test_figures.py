import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crossfold.evaluation import calibration, metrics
from crossfold.evaluation.curves import pr_curves, roc_curves
from crossfold.records import Leaderboard
from crossfold.report import figures, palette
from tests.unit.networks import FACTS


def board(names: list[str], num_epochs: int = 2, chosen: int = 0) -> Leaderboard:
    """Candidates whose later ones are worse; the fold's number is the loss; "head" has no epoch."""
    candidates = []
    for rank, name in enumerate(names):
        scores = {"macro_f1": 0.9 - rank / 100, "accuracy": 0.9, "loss": 0.1}
        folds = [
            {
                "fold": fold,
                "num_epochs": num_epochs,
                **scores,
                "history": [
                    {
                        "epoch": epoch,
                        "train_loss": float(fold),
                        "val_loss": fold + 0.5,
                        "val_macro_f1": 0.9 - rank / 100,
                    }
                    for epoch in range(1, num_epochs + 1)
                    if name != "head"
                ],
            }
            for fold in range(2)
        ]
        candidates.append(
            {
                "candidate": {
                    "name": name,
                    "freeze_backbone": False,
                    "train_from": "layer4",
                    "weight_decay": 0.1,
                },
                "backbone": FACTS,
                "mean": scores,
                "std": dict.fromkeys(scores, 0.1),
                "interval": dict.fromkeys(scores, (0.8, 1.02)),
                "against_chosen": {
                    "difference": rank / 100,
                    "interval": [-0.01, 0.03],
                    "only_chosen_right": 3,
                    "only_this_right": 1,
                    "p_value": 0.6,
                }
                if rank
                else None,
                "folds": folds,
            }
        )
    return Leaderboard.model_validate(
        {
            "choice": "best",
            "classes": ["a", "b"],
            "num_folds": 2,
            "candidates": candidates,
            "diverged": [],
            "chosen_index": chosen,
            "num_epochs": num_epochs,
            "temperature": 1,
        }
    )


def predictions(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(10 * num_classes) % num_classes
    odds = np.exp(rng.normal(size=(len(labels), num_classes)) + 3 * np.eye(num_classes)[labels])
    return labels, odds / odds.sum(axis=1, keepdims=True)


def all_figures(classes: list[str]) -> dict[str, Figure]:
    labels, probabilities = predictions(len(classes))
    confusion = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    ranking = board(["frozen", "layer4"])
    return {
        "confusion_matrix": figures.confusion_matrix(confusion, classes),
        "pr_curves": figures.pr_curves(pr_curves(labels, probabilities), classes),
        "roc_curves": figures.roc_curves(roc_curves(labels, probabilities), classes),
        "loss_curves": figures.loss_curves(ranking),
        "score_curves": figures.score_curves(ranking),
        "differences": figures.differences(ranking),
        "leaderboard": figures.leaderboard(ranking),
        "reliability": figures.reliability(calibration.assess(labels, probabilities, 1.5)),
    }


def texts(svg: str) -> list[str]:
    return [
        element.text or ""
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_svg_is_the_same_every_time() -> None:
    first, second = all_figures(["a", "b", "c"]), all_figures(["a", "b", "c"])
    for name in first:
        assert figures.to_svg(first[name]) == figures.to_svg(second[name]), name


@pytest.mark.parametrize("num_classes", [12, 100])
def test_svgs_share_a_page_and_take_its_colour(num_classes: int) -> None:
    svgs = [
        figures.to_svg(figure)
        for figure in all_figures([f"class {i}" for i in range(num_classes)]).values()
    ]
    ids = [found for svg in svgs for found in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in svgs:
        assert svg.startswith('<svg fill="currentColor"')
        assert "<style" not in svg
        assert "#000000" not in svg
        assert "font-family" not in svg
        assert "stroke: currentColor" in svg
        for reference in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg):
            assert f'id="{"".join(reference)}"' in svg


def test_names_are_shown_as_they_are() -> None:
    names = ["$x_{", "_猫", "<img src=x>", "#000000", "bell\x07"]
    for name, figure in all_figures(names).items():
        shown = " ".join(texts(figures.to_svg(figure)))
        if name in ("confusion_matrix", "pr_curves", "roc_curves"):
            for expected in (*names[:4], "bell\N{REPLACEMENT CHARACTER}"):
                assert expected in shown, name


def test_many_classes_leave_the_worst_five_and_the_micro_average_in_the_legend() -> None:
    classes = [f"class-{i}" for i in range(40)]
    labels, probabilities = predictions(40)
    curves = roc_curves(labels, probabilities)
    legend = figures.roc_curves(curves, classes).legends[0]
    areas = sorted((curve.area, classes[i]) for i, curve in curves.per_class.items())
    assert [text.get_text() for text in legend.get_texts()] == [
        *(f"{name} ({area:.3f})" for area, name in areas[:5]),
        f"micro average ({curves.micro.area:.3f})",
    ]


def test_a_learning_curve_is_the_mean_over_the_folds() -> None:
    loss = figures.loss_curves(board(["layer4"])).axes[0]
    (validation,) = [line for line in loss.lines if line.get_color() == palette.BLUE]
    assert np.array(validation.get_xydata()).tolist() == [[1, 1.0], [2, 1.0]]


def test_learning_curves_of_many_candidates_show_the_best() -> None:
    names = [f"candidate {i}" for i in range(palette.MAX_CANDIDATES_DRAWN + 3)]
    drawn = figures.loss_curves(board(names)).axes
    titles = [axes.get_title(loc="left") for axes in drawn]
    assert titles == names[: palette.MAX_CANDIDATES_DRAWN]


def test_a_candidate_without_epochs_has_no_learning_curve() -> None:
    ranking = board(["head", "layer4"])
    for figure in (figures.loss_curves(ranking), figures.score_curves(ranking)):
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer4"]


@pytest.mark.parametrize("num_classes", [10, palette.MAX_CLASSES_IN_LEGEND])
def test_no_two_classes_are_drawn_alike(num_classes: int) -> None:
    labels, probabilities = predictions(num_classes)
    classes = [f"class {i}" for i in range(num_classes)]
    for figure in (
        figures.roc_curves(roc_curves(labels, probabilities), classes),
        figures.pr_curves(pr_curves(labels, probabilities), classes),
    ):
        drawn = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
        assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == num_classes
        assert len({(line.get_marker(), line.get_linestyle()) for line in drawn}) == num_classes


@pytest.mark.parametrize("page", [(255, 255, 255), (0x0D, 0x11, 0x17)])
def test_colours_stand_out_from_either_page(page: tuple[int, int, int]) -> None:
    """By the contrast ratio of WCAG 2.1; 3 is its least for graphics."""

    def luminance(color: Sequence[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    background = luminance([value / 255 for value in page])
    for color in palette.PALETTE:
        lighter, darker = sorted((luminance(to_rgb(color)), background), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, color


def test_shades_of_the_confusion_matrix_tell_half_from_nearly_all() -> None:
    confusion = np.array([[52, 48, 0], [8, 92, 0], [0, 1, 99]])
    figure = figures.confusion_matrix(confusion, ["a", "b", "c"])
    strengths = np.asarray(figure.axes[0].images[0].get_array())[..., 3]
    assert strengths[1, 1] - strengths[0, 0] > 0.35
    assert strengths[2, 1] > 0.05  # one of a hundred is seen
    assert strengths.max() <= figures.STRONGEST_SHADE


def test_reliability_shows_each_bin_with_what_chance_allows() -> None:
    labels, probabilities = predictions(4)
    assessed = calibration.assess(labels, probabilities, 1.5)
    curve, counts = figures.reliability(assessed).axes
    after, before = curve.lines[1:]
    for line, bins in ((after, assessed.bins), (before, assessed.without.bins)):
        assert np.array(line.get_xydata()).tolist() == [
            [bin.confidence, bin.accuracy] for bin in bins
        ]
    bars = [bar for bar in curve.patches if isinstance(bar, Rectangle)]
    spans = [[bar.get_y(), bar.get_y() + bar.get_height()] for bar in bars]
    assert spans == [pytest.approx(bin.chance) for bin in assessed.bins]
    heights = [bar.get_height() for bar in counts.patches if isinstance(bar, Rectangle)]
    assert heights == [bin.num_images for bin in assessed.bins]


def test_leaderboard_bars_stop_at_one() -> None:
    axes = figures.leaderboard(board(["frozen", "layer4"])).axes[0]
    assert max(np.max(line.get_xdata()) for line in axes.lines) == 1


def test_ranked_puts_the_chosen_first() -> None:
    ranking = board(["a", "b", "c"], chosen=2).ranked
    assert [entry.candidate.name for entry in ranking] == ["c", "a", "b"]
