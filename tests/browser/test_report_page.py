"""The report in a real browser. Needs Debian's package `chromium`."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from crossfold.data.examination.findings import DataFacts, Pair, PairCounts
from crossfold.diagnosis.findings import Diagnosis
from crossfold.evaluation import calibration, metrics
from crossfold.evaluation.curves import compute_curves
from crossfold.evaluation.prediction_sets.class_scores import ClassScores
from crossfold.evaluation.prediction_sets.measured_coverage import measure
from crossfold.evaluation.prediction_sets.reference import Reference
from crossfold.evaluation.shown_images import (
    NUM_MISTAKES,
    NUM_RIGHT,
    confident_mistakes,
    typical_right,
)
from crossfold.imaging.decoding import square
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.imaging.thumbnails import as_data_uri, data_uri
from crossfold.records import ActivationMap, Evaluation, Leaderboard, Registration
from crossfold.report.drawings import draw
from crossfold.report.overlay import overlay
from crossfold.report.page import render
from crossfold.report.pictures import DataSummary
from tests.unit.networks import FACTS

from .chromium import DESKTOP, PHONE, measured, screenshot, visit

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = [*map(str, range(9)), HOSTILE]
SECTIONS = [
    "headline",
    "gate",
    "data",
    "shortcuts",
    "leaderboard",
    "trust",
    "learning-curves",
    "confusion-matrix",
    "pr-curves",
    "roc-curves",
    "calibration",
    "prediction-sets",
    "per-class",
    "mistakes",
    "label-errors",
    "latency",
    "lineage",
    "reading",
]
NUM_FOLDS = 3
NUM_LEAKS = 4
AGAINST_CHOSEN = {
    "difference": 0.0123,
    "interval": [0.0021, 0.0241],
    "only_chosen_right": 31,
    "only_this_right": 12,
    "p_value": 0.0054,
}
REGISTRATION = {
    "name": "crossfold",
    "version": "7",
    "aliases": ["challenger", "champion"],
    "gate": "passed",
    "verdict": "not worse",
    "reason": f"macro F1 0.9410 is not worse than that of version 3 (margin 0.01), {HOSTILE}",
    "created": True,
    "comparison": {
        "champion_version": "3",
        "num_images": 352,
        "num_left_out": 8,
        "macro_f1": 0.941,
        "champion_macro_f1": 0.9395,
        "difference": 0.0015,
        "interval": [-0.0082, 0.0111],
        "margin": 0.01,
        "mcnemar": {"only_challenger_right": 6, "only_champion_right": 5, "p_value": 1.0},
    },
    "num_judged_before": 6,
}
LINEAGE = {
    "git_commit": "0123456789" * 4,
    "git_dirty": "true",
    "data_hash": "cd" * 16,
    "weights_hash": "ab" * 32,
    "split_hash": "ef" * 32,
    "image_train": "crossfold-train:0123456789abcdef",
    "pipeline_run": "2026-01-31-12-00-00-123456",
    "processor_kernels": "AVX2",
    "num_threads": "2",
    "torch": "2.10.0+cpu",
    "settings": json.dumps({"data": {"seed": 0}, "candidates": [{"name": HOSTILE}]}),
    "libraries": json.dumps({"numpy": "2.3.5", "pillow": "12.0.0"}),
}


def train(seed: int, pixels: np.ndarray, labels: np.ndarray) -> SGDClassifier:
    return SGDClassifier(loss="log_loss", random_state=seed, max_iter=200).fit(pixels, labels)


def candidate(name: str, pixels: np.ndarray, labels: np.ndarray, num_epochs: int) -> dict[str, Any]:
    folds: list[dict[str, Any]] = []
    for fold in range(NUM_FOLDS):
        held_out = np.arange(len(labels)) % NUM_FOLDS == fold
        model = SGDClassifier(loss="log_loss", random_state=fold)
        history = []
        for epoch in range(1, num_epochs + 1):
            model.partial_fit(pixels[~held_out], labels[~held_out], classes=range(10))
            trained, validated = (
                metrics.scores(labels[rows], model.predict_proba(pixels[rows]))
                for rows in (~held_out, held_out)
            )
            history.append(
                {
                    "epoch": epoch,
                    **{f"train_{key}": value for key, value in trained.items()},
                    **{f"val_{key}": value for key, value in validated.items()},
                }
            )
        folds.append({"fold": fold, "num_epochs": num_epochs, "history": history, **validated})
    spread = {
        key: metrics.mean_std_interval([fold[key] for fold in folds], NUM_FOLDS)
        for key in (metric.name for metric in metrics.fold_metrics())
    }
    return {
        "candidate": {
            "name": name,
            "freeze_backbone": True,
            "train_from": "head",
            "learning_rate": 0.001,
            "weight_decay": 0.0001,
        },
        "backbone": FACTS,
        "mean": {key: value.mean for key, value in spread.items()},
        "against_chosen": None,
        "std": {key: value.std for key, value in spread.items()},
        "interval": {key: value.interval for key, value in spread.items()},
        "folds": folds,
    }


@pytest.fixture(scope="module")
def page() -> str:
    """The report of a linear classifier on real digits, one class with a hostile name."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels / 16
    test = np.arange(len(labels)) % 5 == 0
    classifier = train(0, pixels[~test], labels[~test])
    probabilities = classifier.predict_proba(pixels[test])
    scores = ClassScores.of(labels[~test], classifier.predict_proba(pixels[~test]))
    known = Reference(tuple(CLASSES), scores, novelty=None)
    confusion = metrics.confusion_matrix(labels[test], probabilities.argmax(axis=1), 10)
    paths = [f"data/{CLASSES[label]}/{i}.bmp" for i, label in enumerate(labels)]
    tested = [path for path, is_test in zip(paths, test, strict=True) if is_test]
    files = [encoded(image) for image in pixels]
    temperature = 1.5
    evaluation = Evaluation.model_validate(
        {
            "classes": CLASSES,
            "paths": tested,
            "labels": labels[test].tolist(),
            "probabilities": probabilities.tolist(),
            "metrics": metrics.scores(labels[test], probabilities),
            "intervals": metrics.bootstrap_intervals(labels[test], probabilities),
            "class_f1_intervals": metrics.class_f1_intervals(
                labels[test], probabilities.argmax(axis=1), 10
            ).tolist(),
            "confusion_matrix": confusion.tolist(),
            "curves": compute_curves(labels[test], probabilities),
            "calibration": calibration.assess(labels[test], probabilities, temperature),
            "activation_maps": [],
            "latency": {"median_ms": 2.5, "p99_ms": 4.25, "num_images": 100, "num_threads": 2},
            "weights_hash": "ab" * 32,
            "data_hash": "cd" * 16,
            "split_hash": "ef" * 32,
            "export": {
                "by": "openvino 1",
                "num_compared": 12,
                "max_difference": 0.0,
                "num_different": 0,
            },
            "prediction_sets": measure(known, labels[test], probabilities, num_novel=3),
        }
    )
    leaderboard: dict[str, Any] = {
        "choice": "best",
        "classes": CLASSES,
        "num_folds": NUM_FOLDS,
        "num_epochs": 4,
        "chosen_index": 0,
        "temperature": temperature,
        "diverged": [],
        "candidates": [
            candidate(name, pixels[~test], labels[~test], num_epochs)
            for name, num_epochs in (
                ("frozen, many epochs", 6),
                ("layer4 with a long name, learning rate 0.0003", 4),
                (HOSTILE, 3),
            )
        ],
    }
    for entry in leaderboard["candidates"][1:]:
        entry["against_chosen"] = AGAINST_CHOSEN
    counts = {
        split: dict(zip(CLASSES, np.bincount(labels[rows]).tolist(), strict=True))
        for split, rows in (("train", ~test), ("test", test))
    }
    explained = confident_mistakes(evaluation) + typical_right(evaluation)
    values = ((0.0, 1.0), (0.5, 0.25))
    maps = tuple(ActivationMap(position=i, crop=1.0, values=values) for i in explained)
    evaluation = evaluation.model_copy(update={"activation_maps": maps})
    pictures = {i: files[np.flatnonzero(test)[i]] for i in explained}
    activation = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    shown = [np.flatnonzero(~test)[labels[~test] == label][:5] for label in range(10)]
    board = Leaderboard.model_validate(leaderboard)
    return render(
        evaluation,
        board,
        Diagnosis(left_out={}),
        DataSummary(
            counts=counts,
            data_hash="cd" * 16,
            skipped=(f"data/{HOSTILE}/broken.bmp",),
            facts=facts(paths, test),
            samples={
                name: {paths[i]: data_uri(files[i], 64) for i in rows}
                for name, rows in zip(CLASSES, shown, strict=True)
            },
            tested={tested[i]: data_uri(picture, 128) for i, picture in pictures.items()},
            overlays={
                tested[i]: as_data_uri(overlay(square(picture, SquareGeometry(128)), activation))
                for i, picture in pictures.items()
            },
            leaks={paths[i]: data_uri(files[i], 128) for i in range(2 * NUM_LEAKS)},
        ),
        draw(evaluation, board, Diagnosis(left_out={})),
        registration=Registration.model_validate(REGISTRATION),
        lineage=LINEAGE,
    )


def facts(paths: list[str], test: np.ndarray) -> DataFacts:
    """Pairs of a test image with the image after it."""
    places = ["test" if is_test else "fold 1" for is_test in test]
    leaks = [
        Pair(
            paths=(paths[i], paths[i + 1]),
            correlation=0.99,
            other_class=i % 4 == 0,
            places=(places[i], places[i + 1]),
        )
        for i in range(0, 2 * NUM_LEAKS, 2)
    ]
    return DataFacts(
        num_images=len(paths),
        num_test=int(test.sum()),
        notes=("every class folder has the same folders: a, b",),
        remarks={"grey": len(paths), "small": 3},
        num_copies=2,
        pair_counts=PairCounts(pairs=9, images=18, other_class=2, leaks=6, leaked=6, folds=1),
        leaked=tuple(path for path, is_test in zip(paths[:30], test, strict=False) if is_test),
        leaks=tuple(leaks),
    )


def encoded(digit: np.ndarray) -> bytes:
    """An image file of the digit's 64 pixels, which go from 0 to 1."""
    file = io.BytesIO()
    Image.fromarray((255 * digit.reshape(8, 8)).astype(np.uint8)).save(file, "BMP")
    return file.getvalue()


def test_the_checks_see_an_error_and_a_request(tmp_path: Path) -> None:
    bad = "<img src='http://127.0.0.1:9/x.png'><script>console.error('broken')</script>"
    seen = visit(bad, tmp_path)
    assert any("broken" in line for line in seen.console)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]


def test_page_is_whole_silent_and_loads_nothing(page: str, tmp_path: Path) -> None:
    seen = visit(page, tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert [a["id"] for tag, a in seen.dom.elements if tag == "section"] == SECTIONS
    links = [a["href"] for tag, a in seen.dom.elements if tag == "a"]
    assert {str(link).removeprefix("#") for link in links} == {
        *SECTIONS,
        "near-duplicates",
    } - {"headline"}


def test_every_figure_says_in_words_what_it_shows(page: str, tmp_path: Path) -> None:
    elements = visit(page, tmp_path).dom.elements
    figures = [attributes for _, attributes in elements if attributes.get("role") == "img"]
    assert len(figures) == sum(tag == "svg" for tag, _ in elements) == 8
    assert len({figure["aria-label"] for figure in figures}) == 8


def test_every_picture_says_in_words_what_it_shows(page: str, tmp_path: Path) -> None:
    elements = visit(page, tmp_path).dom.elements
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    words = [str(picture["alt"]) for picture in pictures]
    mistakes = [text for text in words if " taken for " in text]
    right = [text for text in words if text.endswith(", right")]
    assert 10 < len(mistakes) <= NUM_MISTAKES and len(right) == NUM_RIGHT
    assert len(mistakes + right) == page.count("<figure>") - NUM_LEAKS
    assert len(words) == 5 * len(CLASSES) + 2 * len(mistakes + right) + 2 * NUM_LEAKS
    assert all(str(picture["src"]).startswith("data:image/") for picture in pictures)


def test_every_picture_is_drawn(page: str, tmp_path: Path) -> None:
    counting = "[...page.images].filter(i => i.naturalWidth > 0 && i.width > 0).length"
    drawn = measured(page, tmp_path, (1000, 9000), f"document.title = {counting}")
    assert int(drawn) == page.count("<img ")


def test_gate_and_lineage_are_filled(page: str, tmp_path: Path) -> None:
    text = " ".join(visit(page, tmp_path).dom.text.split())
    for expected in (
        "Passed crossfold version 7",
        "challenger, champion",
        f"(margin 0.01), {HOSTILE}.",
        "-0.0082 to +0.0111",
        "6 other registered versions",
        LINEAGE["git_commit"],
        '"numpy": "2.3.5"',
    ):
        assert expected in text, expected


def test_a_hostile_class_name_stays_text(page: str, tmp_path: Path) -> None:
    dom = visit(page, tmp_path).dom
    assert not [tag for tag, _ in dom.elements if tag == "script"]
    assert not [a for _, a in dom.elements if "onerror" in a or a.get("src") == "x"]
    assert dom.text.count(HOSTILE) >= 3
    assert f"data/{HOSTILE}/broken.bmp" in dom.text


@pytest.mark.parametrize("size", [(380, 2000), DESKTOP], ids=["phone", "desktop"])
def test_nothing_of_a_candidate_is_cut_off(
    page: str, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Its cells, the last one too, end within the page; no figure is much narrower than it."""
    script = (
        "const right = q => Math.max(...[...page.querySelectorAll(q)]"
        ".map(e => e.getBoundingClientRect().right));"
        "document.title = [right('#leaderboard td'), right('#leaderboard svg'),"
        "page.querySelector('main').getBoundingClientRect().right].map(Math.round)"
    )
    cells, figures, column = map(int, measured(page, tmp_path, size, script).split(","))
    assert cells <= column
    assert column - 20 <= figures <= column


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_is_no_wider_than_the_screen(page: str, tmp_path: Path, size: tuple[int, int]) -> None:
    width = measured(page, tmp_path, size, "document.title = page.documentElement.scrollWidth")
    assert size[0] - 20 <= int(width) <= size[0]


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_page_follows_the_colour_scheme(page: str, tmp_path: Path, size: tuple[int, int]) -> None:
    light = screenshot(page, tmp_path, size)
    dark = screenshot(page, tmp_path, size, "--force-dark-mode")
    assert light.shape == dark.shape == (size[1], size[0], 3)
    assert tuple(light[1, 1]) == (0xFF, 0xFF, 0xFF)
    assert tuple(dark[1, 1]) == (0x0D, 0x11, 0x17)
    assert light.min() < 0x40  # ink on either page
    assert dark.max() > 0xD0
