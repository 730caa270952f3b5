import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfold.errors import UserError
from crossfold.evaluation import calibration, metrics
from crossfold.network import backbone, preprocessing, safetensors_file, trained_network
from crossfold.records import DivergedResult, FoldResult, FoldResults
from crossfold.settings import Candidate
from crossfold.step import progress
from crossfold.training import steps
from crossfold.training.feature_rows import FeatureRows

ARCHITECTURE = "shufflenet_v2_x0_5"
HEAD: dict[str, Any] = {
    "freeze_backbone": True,
    "train_from": "head",
    "weight_decay": 0.1,
}
PARTIAL: dict[str, Any] = {
    "freeze_backbone": False,
    "train_from": "conv5",
    "learning_rate": 0.002,
    "weight_decay": 0.05,
}
FULL = {**PARTIAL, "train_from": "pixels"}
BATCH_SIZE = 9  # of 28 training images: the last one joins the batch before


def train_fold(
    features: Path, weights: Path, predictions: Path, **changes: Any
) -> list[FoldResult]:
    settings: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "fold": 1,
        "candidates": [HEAD, PARTIAL],
        "num_epochs": 3,
        "batch_size": BATCH_SIZE,
        "seed": 4,
        "precision": "float32",
        "num_threads": 1,
        **changes,
    }
    results = steps.train_fold(
        features=features, backbone_weights=weights, predictions=predictions, **settings
    )
    return [result for result in results if isinstance(result, FoldResult)]


def rows_of(values: Any, labels: Any) -> FeatureRows:
    return FeatureRows(
        np.asarray(values, np.float32), np.asarray(labels, np.int64), np.arange(len(labels))
    )


# Batches


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(8, 4, [4, 4]), (9, 4, [4, 5]), (10, 4, [4, 4, 2]), (3, 4, [3]), (1, 4, [1]), (5, 4, [5])],
)
def test_no_batch_has_one_image_if_there_are_more(
    count: int, size: int, lengths: list[int]
) -> None:
    features = np.arange(20, dtype=np.float32).reshape(20, 1)
    rows = FeatureRows(features, np.arange(20) * 10, np.arange(20)[::-2][:count])
    batches = list(rows.batches(size))
    assert [len(labels) for _, labels in batches] == lengths
    assert torch.cat([f for f, _ in batches]).flatten().tolist() == rows.rows.tolist()
    assert torch.cat([n for _, n in batches]).tolist() == (rows.rows * 10).tolist()


def test_batches_follow_the_order() -> None:
    rows = FeatureRows(np.arange(9, dtype=np.float32)[:, None], np.arange(9), np.array([8, 2, 5]))
    ((features, labels),) = rows.batches(4, np.array([2, 0, 1]))
    assert features.flatten().tolist() == labels.tolist() == [5, 8, 2]


# A fold


def naive_loop(
    weights: Path,
    pixels: Any,
    labels: Any,
    folds: Any,
    candidate: dict[str, Any],
    *,
    fold: int,
    num_epochs: int,
    seed: int,
) -> list[tuple[float, float]]:
    """Transfer learning as it is usually written: the whole network on every image, every epoch.

    Returns the training and validation loss of each epoch.
    """
    network = backbone.pretrained_network(ARCHITECTURE, weights, 3, seed)
    assert isinstance(network.fc, nn.Linear) and isinstance(network.conv5, nn.Module)
    images = preprocessing.normalize(torch.from_numpy(np.array(pixels)))
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

    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        moving, lr=candidate["learning_rate"], weight_decay=candidate["weight_decay"]
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
            loss.backward()  # type: ignore[no-untyped-call]
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
    (result,) = train_fold(features, weights, tmp_path / "predictions", candidates=[PARTIAL])
    arrays, _ = safetensors_file.read(features)
    usual = naive_loop(
        weights,
        arrays["pixels"],
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
    features: Path, weights: Path, tmp_path: Path
) -> None:
    candidates = [HEAD, PARTIAL, FULL]
    first = train_fold(features, weights, tmp_path / "a", candidates=candidates)
    torch.manual_seed(99)  # what came before must not matter
    again = train_fold(features, weights, tmp_path / "b", candidates=candidates)
    assert first == again
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = train_fold(features, weights, tmp_path / "c", candidates=candidates, seed=5)
    assert [r.scores["loss"] for r in other] != [r.scores["loss"] for r in first]


def test_a_candidate_does_not_depend_on_the_others(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    together = train_fold(features, weights, tmp_path / "a", candidates=[FULL, HEAD, PARTIAL])
    (alone,) = train_fold(features, weights, tmp_path / "b", candidates=[PARTIAL])
    assert together[2] == alone


def test_predictions_are_of_the_fold_and_scored_by_its_labels(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    results = train_fold(features, weights, tmp_path / "predictions", fold=2, num_epochs=6)
    arrays, about = safetensors_file.read(tmp_path / "predictions")
    stored, _ = safetensors_file.read(features)
    rows = np.flatnonzero(stored["fold"] == 2)
    assert arrays["row"].tolist() == rows.tolist()
    assert arrays["label"].tolist() == stored["label"][rows].tolist()
    written = FoldResults(classes=("red", "green", "blue"), results=tuple(results))
    assert FoldResults.model_validate(about) == written
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


def test_the_validation_fold_does_not_leak_into_training(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    shutil.copy(features, tmp_path / "spoilt")
    stored, about = safetensors_file.read(features)
    spoilt = {name: np.array(array) for name, array in stored.items()}
    rows = np.flatnonzero(spoilt["fold"] == 1)
    spoilt["label"][rows] = (spoilt["label"][rows] + 1) % 3
    for cut in ("head", "conv5"):
        spoilt[cut][rows] = spoilt[cut][rows[::-1]] * 100 + 7
    safetensors_file.write(tmp_path / "spoilt", spoilt, about)

    honest = train_fold(features, weights, tmp_path / "a")
    fooled = train_fold(tmp_path / "spoilt", weights, tmp_path / "b")
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
    changed = train_fold(tmp_path / "spoilt", weights, tmp_path / "b")
    assert changed[0].scores["loss"] != honest[0].scores["loss"]
    last_losses = [results[1].history[-1].scores["train_loss"] for results in (changed, honest)]
    assert last_losses[0] != last_losses[1]


def test_progress_is_told_within_an_epoch_and_ends_with_the_last_candidate(
    features: Path,
    weights: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    train_fold(features, weights, tmp_path / "predictions", num_epochs=2)
    lines = [progress.parse_progress(line) for line in capfd.readouterr().out.splitlines()]
    assert {line and line[1:] for line in lines} == {(2, "candidates")}
    done = [line[0] for line in lines if line]
    assert done == sorted(done) and done[-1] == 2
    assert {1.161, 1.321, 1.5, 1.661, 1.821} < {round(share, 3) for share in done}


# Diverging


class Diverging(nn.Linear):
    """A layer whose logits are no numbers from an epoch on."""

    def __init__(self, divergent: int) -> None:
        super().__init__(3, 2)
        self.divergent, self.epochs = divergent, 0

    def train(self, mode: bool = True) -> "Diverging":
        self.epochs += mode
        return super().train(mode)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (torch.nan if self.epochs >= self.divergent else 1)


@pytest.mark.parametrize("divergent", [1, 3])
@pytest.mark.parametrize("validated", [True, False])
def test_a_fit_that_diverges_says_in_which_epoch(divergent: int, validated: bool) -> None:
    rows = rows_of(np.ones((40, 3)), np.arange(40) % 2)
    recipe = steps.Recipe(Candidate(**PARTIAL), 4, 10, 0, "float32")
    with pytest.raises(steps.DivergedError) as caught:
        steps.fit(
            Diverging(divergent), rows, rows if validated else None, recipe, lambda share: None
        )
    assert caught.value.epoch == divergent


WILD = {**PARTIAL, "learning_rate": 1e30}


def test_a_candidate_that_diverges_ends_neither_the_fold_nor_the_others(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    candidates = [WILD, HEAD, PARTIAL]
    scored = train_fold(features, weights, tmp_path / "a", candidates=candidates)
    assert scored == train_fold(features, weights, tmp_path / "b")
    arrays, about = safetensors_file.read(tmp_path / "a")
    assert arrays.keys() == {"row", "label", "probabilities_1", "probabilities_2"}
    diverged, *others = FoldResults.model_validate(about).results
    assert others == scored
    assert isinstance(diverged, DivergedResult)
    assert (diverged.candidate.learning_rate, diverged.diverged) == (1e30, 1)


def test_a_final_fit_that_diverges_writes_no_network(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"conv5 lr=1e\+30 wd=0\.05 diverges in epoch 1"):
        train_final(features, weights, tmp_path, WILD, num_epochs=2)
    assert not (tmp_path / "model").exists()


# Draws


def test_no_two_epochs_of_any_seeds_have_the_same_order_or_dropout() -> None:
    rows = rows_of(np.arange(32)[:, None], np.zeros(32))
    drawn = []

    class Noting(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            noise = torch.rand(3)
            drawn.append((tuple(features.flatten().tolist()), tuple(noise.tolist())))
            return super().forward(features)

    model = Noting(1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    for seed in (0, 1, 2):
        for epoch in (1, 2, 3):
            steps.train_one_epoch(model, optimizer, rows, 32, (seed, epoch), "float32")
    orders, noises = zip(*drawn, strict=True)
    assert len(set(orders)) == len(set(noises)) == 9
    assert all(sorted(order) == list(range(32)) for order in orders)


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    rows = rows_of(np.ones((64, 8)), np.zeros(64))
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    with torch.no_grad():
        certain = model.eval()(torch.ones(1, 8)).softmax(1)
    np.testing.assert_allclose(
        steps.evaluate(model, rows, "float32"), certain.repeat(64, 1), atol=1e-6
    )
    first, same, other = (
        steps.train_one_epoch(model, optimizer, rows, 16, (0, epoch), "float32")["loss"]
        for epoch in (1, 1, 2)
    )
    assert first == same != other
    assert first != pytest.approx(-certain.log()[0, 0].item(), rel=1e-6)


# The final fit


def _board(candidates: list[dict[str, Any]], best: int) -> dict[str, Any]:
    entries: list[dict[str, Any]] = [
        {
            "candidate": {"name": Candidate(**candidate).name, **candidate},
            "mean": {},
            "std": {},
            "interval": {},
            "folds": [],
            "against_best": None,
        }
        for candidate in candidates
    ]
    return {
        "architecture": ARCHITECTURE,
        "classes": [],
        "num_folds": 2,
        "candidates": entries,
        "diverged": [],
        "best": best,
        "num_epochs": None,
        "temperature": 1.5,
    }


def train_final(
    features: Path, weights: Path, tmp_path: Path, candidate: dict[str, Any], num_epochs: int
) -> tuple[trained_network.Network, dict[str, Any]]:
    (tmp_path / "leaderboard").write_text(json.dumps(_board([FULL, candidate], best=1)))
    figures = steps.train_final(
        features=features,
        backbone_weights=weights,
        architecture=ARCHITECTURE,
        leaderboard=tmp_path / "leaderboard",
        num_epochs=num_epochs,
        batch_size=BATCH_SIZE,
        seed=4,
        precision="float32",
        num_threads=1,
        model=tmp_path / "model",
    )
    return trained_network.Network(tmp_path / "model"), figures


@pytest.mark.parametrize("candidate", [HEAD, PARTIAL, FULL], ids=["head", "partial", "full"])
def test_the_final_network_says_of_pixels_what_the_suffix_says_of_features(
    features: Path, weights: Path, tmp_path: Path, candidate: dict[str, Any]
) -> None:
    network, figures = train_final(features, weights, tmp_path, candidate, num_epochs=3)
    # The same by hand, from the pieces that are tested above.
    stored, _ = safetensors_file.read(features)
    chosen = Candidate(**candidate)
    rows = FeatureRows(stored[chosen.train_from], np.array(stored["label"]), np.arange(42))
    suffix = steps.trainable(
        backbone.pretrained_network(ARCHITECTURE, weights, 3, seed=4), chosen, rows
    )
    recipe = steps.Recipe(chosen, 3, BATCH_SIZE, 4, "float32")
    _, probabilities = steps.fit(suffix, rows, None, recipe, lambda share: None)
    scored = metrics.scores(rows.labels, probabilities)
    assert figures == {name: scored[name] for name in ("loss", "accuracy", "macro_f1")}

    found = network.predict(np.array(stored["pixels"]))
    wanted = calibration.tempered(probabilities, 1.5)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.ptp(found) > 0.2, "every image gets the same answer"


def test_the_final_network_carries_what_is_needed_to_use_it(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    network, _ = train_final(features, weights, tmp_path, HEAD, num_epochs=8)
    assert network.classes == ("red", "green", "blue")
    assert (network.architecture, network.image_size) == (ARCHITECTURE, 32)
    assert network.candidate == {"name": "head wd=0.1", **HEAD}
    assert network.temperature == 1.5
    stored, _ = safetensors_file.read(features)
    predicted = network.predict(np.array(stored["pixels"])).argmax(axis=1)
    assert predicted.tolist() == stored["label"].tolist()
    kept = safetensors.torch.load_file(weights)
    final = safetensors.torch.load_file(tmp_path / "model")
    assert all(
        torch.equal(final[name], kept[name])
        for name in final
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    )
