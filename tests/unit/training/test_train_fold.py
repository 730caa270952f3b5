import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfold.evaluation import metrics
from crossfold.features.features_file import Features
from crossfold.network import normalization, safetensors_file
from crossfold.records import DivergedResult, FoldResult, FoldResults
from crossfold.settings import Candidate
from crossfold.step import progress
from crossfold.training import train_fold as step
from crossfold.weights.pretrained_network import pretrained_network
from tests.unit.networks import IMAGENET

from .recipes import ARCHITECTURE, FULL, HEAD, PARTIAL, WILD, fit_settings, stored_as


def train_fold(
    features: Path,
    predictions: Path,
    *,
    fold: int = 1,
    candidates: tuple[Candidate, ...] = (HEAD, PARTIAL),
    **changes: Any,
) -> list[FoldResult]:
    found = step.train_fold(
        features=features,
        fold=fold,
        candidates=candidates,
        settings=fit_settings(**changes),
        num_threads=1,
        predictions=predictions,
    )
    return [result for result in found.results if isinstance(result, FoldResult)]


def naive_loop(
    weights: Path,
    pixels: Any,
    labels: Any,
    folds: Any,
    candidate: Candidate,
    *,
    fold: int,
    num_epochs: int,
    seed: int,
) -> list[tuple[float, float]]:
    """Transfer learning as it is usually written: the whole network on every image, every epoch.

    Returns the training and validation loss of each epoch.
    """
    network = pretrained_network(ARCHITECTURE, weights, 3, seed)
    assert isinstance(network.fc, nn.Linear) and isinstance(network.conv5, nn.Module)
    images = normalization.normalize(torch.from_numpy(np.array(pixels)), IMAGENET)
    targets = torch.from_numpy(np.array(labels))
    train, validation = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    body = [getattr(network, n) for n in ("conv1", "maxpool", "stage2", "stage3", "stage4")]
    network.requires_grad_(False)
    network.fc.requires_grad_(True)
    network.conv5.requires_grad_(True)

    def frozen(x: Tensor) -> Tensor:
        for stage in body:
            x = stage(x)
        return x

    def predict(x: Tensor) -> Tensor:
        features = network.get_submodule("conv5")(frozen(x)).mean([2, 3])
        logits: Tensor = network.get_submodule("fc")(features)
        return logits

    assert candidate.learning_rate is not None
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        moving, lr=candidate.learning_rate, weight_decay=candidate.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)
    losses = []
    for epoch in range(1, num_epochs + 1):
        network.conv5.train()
        order_seed = np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint64)[0]
        order = train[np.random.default_rng(order_seed).permutation(len(train))]
        total = 0.0
        for batch in (order[:9], order[9:18], order[18:]):
            loss = functional.cross_entropy(predict(images[batch]), targets[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        network.conv5.eval()
        with torch.no_grad():
            val = functional.cross_entropy(predict(images[validation]), targets[validation])
        losses.append((total / len(train), val.item()))
    return losses


def test_training_on_stored_features_is_the_usual_loop(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    (result,) = train_fold(features, tmp_path / "predictions", candidates=(PARTIAL,))
    arrays, _ = safetensors_file.read(features)
    usual = naive_loop(
        weights,
        arrays[stored_as("pixels")],
        arrays["label"],
        arrays["fold"],
        PARTIAL,
        fold=1,
        num_epochs=3,
        seed=4,
    )
    found = [(epoch.scores["train_loss"], epoch.scores["val_loss"]) for epoch in result.history]
    np.testing.assert_allclose(found, usual, rtol=5e-3)
    assert usual[0][0] > 1.2 * usual[-1][0], "nothing was learnt, which any loop would repeat"


def test_the_same_seed_gives_the_same_file_and_another_does_not(
    features: Path, tmp_path: Path
) -> None:
    candidates = (HEAD, PARTIAL, FULL)
    first = train_fold(features, tmp_path / "a", candidates=candidates)
    torch.manual_seed(99)  # what came before must not matter
    again = train_fold(features, tmp_path / "b", candidates=candidates)
    assert first == again
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = train_fold(features, tmp_path / "c", candidates=candidates, seed=5)
    assert [r.scores["loss"] for r in other] != [r.scores["loss"] for r in first]


def test_a_candidate_does_not_depend_on_the_others(features: Path, tmp_path: Path) -> None:
    together = train_fold(features, tmp_path / "a", candidates=(FULL, HEAD, PARTIAL))
    (alone,) = train_fold(features, tmp_path / "b", candidates=(PARTIAL,))
    assert together[2] == alone


def test_predictions_are_of_the_fold_and_scored_by_its_labels(
    features: Path, tmp_path: Path
) -> None:
    results = train_fold(features, tmp_path / "predictions", fold=2, num_epochs=6)
    arrays, about = safetensors_file.read(tmp_path / "predictions")
    stored, _ = safetensors_file.read(features)
    rows = np.flatnonzero(stored["fold"] == 2)
    assert arrays["row"].tolist() == rows.tolist()
    assert arrays["label"].tolist() == stored["label"][rows].tolist()
    backbones = Features(features).backbones
    written = FoldResults(
        classes=("red", "green", "blue"), backbones=backbones, results=tuple(results)
    )
    assert FoldResults.model_validate(about) == written
    assert [backbone.architecture for backbone in backbones] == [ARCHITECTURE]
    assert [r.candidate.name for r in results] == [
        "head wd=0.1",
        "conv5 lr=0.002 wd=0.05",
    ]
    for index, result in enumerate(results):
        probabilities = arrays[f"probabilities_{index}"]
        assert probabilities.shape == (len(rows), 3) and probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        for name, value in metrics.scores(stored["label"][rows], probabilities).items():
            assert result.scores[name] == value
        assert result.fold == 2
    head, partial = results
    assert (head.num_epochs, head.history) == (None, ())
    assert [epoch.epoch for epoch in partial.history] == list(range(1, 7))
    assert partial.num_epochs == 6
    assert partial.history[-1].scores["val_loss"] == partial.scores["loss"]
    assert results[0].scores["accuracy"] > 0.9, "colours are easy to tell apart"


def test_the_validation_fold_does_not_leak_into_training(features: Path, tmp_path: Path) -> None:
    shutil.copy(features, tmp_path / "spoilt")
    stored, about = safetensors_file.read(features)
    spoilt = {name: np.array(array) for name, array in stored.items()}
    rows = np.flatnonzero(spoilt["fold"] == 1)
    spoilt["label"][rows] = (spoilt["label"][rows] + 1) % 3
    for cut in map(stored_as, ("head", "conv5")):
        spoilt[cut][rows] = spoilt[cut][rows[::-1]] * 100 + 7
    safetensors_file.write(tmp_path / "spoilt", spoilt, about)

    honest = train_fold(features, tmp_path / "a")
    fooled = train_fold(tmp_path / "spoilt", tmp_path / "b")
    assert honest[0].scores["loss"] != fooled[0].scores["loss"]
    for one, other in zip(honest[1:], fooled[1:], strict=True):
        for now, then in zip(one.history, other.history, strict=True):
            kept = {name for name in now.scores if name.startswith("train_")}
            assert {n: now.scores[n] for n in kept} == {n: then.scores[n] for n in kept}
            assert now.scores["val_loss"] != then.scores["val_loss"]
    # And a training fold's labels do matter.
    spoilt = {name: np.array(array) for name, array in stored.items()}
    rows = np.flatnonzero(spoilt["fold"] == 0)
    spoilt["label"][rows] = (spoilt["label"][rows] + 1) % 3
    safetensors_file.write(tmp_path / "spoilt", spoilt, about)
    changed = train_fold(tmp_path / "spoilt", tmp_path / "b")
    assert changed[0].scores["loss"] != honest[0].scores["loss"]
    last_losses = [results[1].history[-1].scores["train_loss"] for results in (changed, honest)]
    assert last_losses[0] != last_losses[1]


def test_progress_is_told_within_an_epoch_and_ends_with_the_last_candidate(
    features: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    train_fold(features, tmp_path / "predictions", num_epochs=2)
    lines = [progress.parse_progress(line) for line in capfd.readouterr().out.splitlines()]
    assert {line and line[1:] for line in lines} == {(2, "candidates")}
    done = [line[0] for line in lines if line]
    assert done == sorted(done) and done[-1] == 2
    assert {1.161, 1.321, 1.5, 1.661, 1.821} < {round(share, 3) for share in done}


def test_a_candidate_that_diverges_ends_neither_the_fold_nor_the_others(
    features: Path, tmp_path: Path
) -> None:
    candidates = (WILD, HEAD, PARTIAL)
    scored = train_fold(features, tmp_path / "a", candidates=candidates)
    assert scored == train_fold(features, tmp_path / "b")
    arrays, about = safetensors_file.read(tmp_path / "a")
    assert arrays.keys() == {"row", "label", "probabilities_1", "probabilities_2"}
    diverged, *others = FoldResults.model_validate(about).results
    assert others == scored
    assert isinstance(diverged, DivergedResult)
    assert (diverged.candidate.learning_rate, diverged.diverged) == (1e30, 1)
