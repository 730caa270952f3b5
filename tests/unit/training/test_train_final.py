from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from crossfold.errors import UserError
from crossfold.evaluation import calibration, metrics
from crossfold.evaluation.prediction_sets.class_scores import UNITS
from crossfold.evaluation.prediction_sets.reference import Reference
from crossfold.features.features_file import Features
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import cutting, openvino_engine, safetensors_file, trained_network
from crossfold.records import (
    Choice,
    DivergedResult,
    FoldResults,
    Leaderboard,
    LeaderboardEntry,
    NamedCandidate,
    Scores,
)
from crossfold.settings import Candidate, View
from crossfold.training import train_final as step
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import fit, trainable_suffix
from crossfold.training.loop import evaluate
from crossfold.training.recipe import Recipe
from crossfold.weights.pretrained_network import pretrained_network
from tests.unit.networks import FACTS

from .recipes import ARCHITECTURE, FULL, HEAD, PARTIAL, SETTINGS, WILD, fit_settings, stored_as


def _board(candidates: list[Candidate], chosen: int) -> Leaderboard:
    entries = tuple(
        LeaderboardEntry(
            candidate=NamedCandidate(name=candidate.name, **candidate.model_dump()),
            backbone=FACTS,
            mean={},
            std={},
            interval={},
            folds=(),
            against_chosen=None,
        )
        for candidate in candidates
    )
    return Leaderboard(
        choice=Choice.BEST,
        classes=(),
        num_folds=2,
        candidates=entries,
        diverged=(),
        chosen_index=chosen,
        num_epochs=None,
        temperature=1.5,
    )


def _predictions(features: Path, candidates: list[Candidate], folder: Path) -> Path:
    """Write made-up out-of-fold predictions of all images, as if there were one fold."""
    stored = Features(features)
    num_images, num_classes = len(stored.labels), len(stored.classes)
    drawn = np.random.default_rng(0).dirichlet(np.ones(num_classes), num_images)
    results = tuple(
        DivergedResult(
            candidate=NamedCandidate(name=candidate.name, **candidate.model_dump()),
            diverged=None,
            fold=0,
            num_epochs=None,
        )
        for candidate in candidates
    )
    safetensors_file.write(
        folder / "predictions",
        {"row": np.arange(num_images)}
        | {f"probabilities_{n}": drawn.astype(np.float32) for n in range(len(candidates))},
        FoldResults(classes=stored.classes, backbones=(), results=results).model_dump(),
    )
    return folder / "predictions"


def train_final(
    features: Path, tmp_path: Path, candidate: Candidate, **changes: Any
) -> tuple[trained_network.Network, Scores]:
    _board([FULL, candidate], chosen=1).write(tmp_path / "leaderboard")
    scores = step.train_final(
        features=features,
        predictions=[_predictions(features, [FULL, candidate], tmp_path)],
        leaderboard=tmp_path / "leaderboard",
        settings=fit_settings(**changes),
        num_threads=1,
        model=tmp_path / "model",
        exported=tmp_path / "exported",
        sets=tmp_path / "sets",
    )
    return trained_network.Network(tmp_path / "model"), scores


@pytest.mark.parametrize("candidate", [HEAD, PARTIAL, FULL], ids=["head", "partial", "full"])
@pytest.mark.parametrize("views", [(), ("mirrored", "cropped")], ids=["", "views"])
def test_the_final_network_says_of_pixels_what_the_suffix_says_of_features(
    features: Path,
    features_of_views: Path,
    weights: Path,
    tmp_path: Path,
    candidate: Candidate,
    views: tuple[View, ...],
) -> None:
    path = features_of_views if views else features
    changes = {"views": views, "test_time": bool(views)}
    network, figures = train_final(path, tmp_path, candidate, **changes)
    # The same by hand, from the pieces that are tested above.
    stored, recipe = Features(path), Recipe(candidate, fit_settings(**changes))
    values = stored.values(stored.backbones[0], candidate.train_from)
    rows = FeatureRows.of_images(values, stored.labels, np.arange(42))
    untrained = pretrained_network(ARCHITECTURE, weights, 3, SETTINGS.seed)
    suffix = trainable_suffix(untrained, recipe, Preprocessing(32))
    _, probabilities = fit(suffix, rows, None, recipe, lambda share: None)
    scored = metrics.scores(stored.labels, probabilities)
    assert figures == {name: scored[name] for name in ("loss", "accuracy", "macro_f1", "mcc")}

    pixels, _ = safetensors_file.read(path)
    found = network.predict(np.array(pixels[stored_as("pixels")]))
    wanted = calibration.tempered(probabilities, 1.5)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.ptp(found) > 0.2, "every image gets the same answer"


@pytest.mark.parametrize(("candidate", "test_time"), [(HEAD, True), (PARTIAL, False)])
def test_in_int8_the_export_says_of_pixels_what_the_suffix_says_of_features(
    features_in_int8: Path, tmp_path: Path, candidate: Candidate, test_time: bool
) -> None:
    changes = {"views": ("mirrored",), "test_time": test_time, "precision": "int8"}
    network, _ = train_final(features_in_int8, tmp_path, candidate, **changes)
    stored = Features(features_in_int8)
    values = stored.values(stored.backbones[0], candidate.train_from)
    rows = FeatureRows.of_images(values, stored.labels, np.arange(42))
    suffix = cutting.suffix(network.traced, candidate.train_from)
    probabilities = evaluate(suffix, rows, Recipe(candidate, fit_settings(**changes)))
    wanted = calibration.tempered(probabilities, 1.5)
    exported = openvino_engine.Classifier(tmp_path / "exported", num_threads=1)
    pixels = np.array(stored.values(stored.backbones[0], "pixels")[:, 0])
    np.testing.assert_allclose(exported.predict(pixels), wanted, atol=1e-4)
    # torch computes the prefix in float32
    assert not np.allclose(network.predict(pixels), wanted, atol=1e-4)


def test_in_int8_a_network_without_a_frozen_part_stays_in_float32(
    features_in_int8: Path, tmp_path: Path
) -> None:
    network, _ = train_final(features_in_int8, tmp_path, FULL, precision="int8", num_epochs=1)
    assert network.precision == "float32"


def test_the_final_network_carries_what_is_needed_to_use_it(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    network, _ = train_final(features, tmp_path, HEAD, num_epochs=8)
    assert network.classes == ("red", "green", "blue")
    assert (network.architecture, network.preprocessing.image_size) == (ARCHITECTURE, 32)
    assert network.temperature == 1.5
    stored, _ = safetensors_file.read(features)
    predicted = network.predict(np.array(stored[stored_as("pixels")])).argmax(axis=1)
    assert predicted.tolist() == stored["label"].tolist()
    kept = safetensors.torch.load_file(weights)
    final = safetensors.torch.load_file(tmp_path / "model")
    assert all(
        torch.equal(final[name], kept[name])
        for name in final
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    )


def test_a_final_fit_that_diverges_writes_no_network(features: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"conv5 lr=1e\+30 wd=0\.05 diverges in epoch 1"):
        train_final(features, tmp_path, WILD, num_epochs=2)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("candidate", "is_told"), [(HEAD, True), (PARTIAL, False)])
def test_scores_are_kept_calibrated_and_novelty_is_told_of_a_frozen_network(
    features: Path, tmp_path: Path, candidate: Candidate, is_told: bool
) -> None:
    train_final(features, tmp_path, candidate, num_epochs=1)
    found, stored = Reference.read(tmp_path / "sets"), Features(features)
    drawn = safetensors_file.read(tmp_path / "predictions")[0]["probabilities_1"]
    calibrated = calibration.tempered(drawn, 1.5)  # the board's temperature
    for label, scores in enumerate(found.scores.by_class):
        wanted = 1 - calibrated[stored.labels == label, label]
        assert scores / UNITS == pytest.approx(np.sort(wanted), abs=1e-6)
    assert found.classes == stored.classes
    assert (found.novelty is not None) == is_told
