import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from crossfold import backbone, calibration, metrics, tensorfile, training
from crossfold.errors import UserError
from crossfold.settings import Candidate
from crossfold.training import FeatureRows, StandardizedHead

ARCHITECTURE = "shufflenet_v2_x0_5"
HEAD: dict[str, Any] = {
    "freeze_backbone": True,
    "train_from": "head",
    "learning_rate": 0.003,
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
) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "fold": 1,
        "candidates": [HEAD, PARTIAL],
        "num_epochs": 3,
        "batch_size": BATCH_SIZE,
        "patience": 5,
        "seed": 4,
        "precision": "float32",
        "num_threads": 1,
        **changes,
    }
    return training.train_fold(
        features=features, backbone_weights=weights, predictions=predictions, **settings
    )


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


# The scaling of features, and its way into the head


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_head_that_absorbed_its_scaling_says_the_same_of_raw_features(kind: str) -> None:
    generator = np.random.default_rng(0)
    shape = (30, 6) if kind == "linear" else (30, 6, 2, 3)
    channel = (6,) if kind == "linear" else (6, 1, 1)
    scale = np.array([1e-3, 1, 50, 1, 1, 1]).reshape(channel)
    values = generator.normal(size=shape) * scale + 20 * np.arange(6).reshape(channel)
    values[:, 3] = 0  # as of a channel that never fires
    values[:, 4] = 1000.1
    head: nn.Linear | nn.Conv2d = nn.Linear(6, 4) if kind == "linear" else nn.Conv2d(6, 4, 1)
    rows = rows_of(values, np.zeros(30))
    model = StandardizedHead(head, head, rows)

    axes = (0,) if kind == "linear" else (0, 2, 3)
    wanted_mean = rows.features.astype(np.float64).mean(axes)
    wanted_std = np.where(np.isin(np.arange(6), (3, 4)), 1, rows.features.std(axes))
    np.testing.assert_allclose(model.mean, wanted_mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.std, wanted_std, rtol=1e-4)

    features = torch.from_numpy(rows.features)
    with torch.no_grad():
        before = model(features)
        assert not torch.allclose(head(features), before, atol=0.1)
        model.absorb()
        torch.testing.assert_close(head(features), before, rtol=1e-3, atol=2e-2)
        assert before.std() > 0.1


def test_the_scaling_is_of_the_training_rows_alone() -> None:
    features = np.concatenate([np.ones((5, 2)), np.full((5, 2), 3.0), np.full((5, 2), 1e6)])
    rows = FeatureRows(features.astype(np.float32), np.zeros(15, np.int64), np.arange(10))
    head = nn.Linear(2, 2)
    model = StandardizedHead(head, head, rows)
    assert model.mean.tolist() == [2, 2] and model.std.tolist() == [1, 1]


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
    images = backbone.normalize(torch.from_numpy(np.array(pixels)))
    targets = torch.from_numpy(np.array(labels))
    train, validation = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    body = [getattr(network, n) for n in ("conv1", "maxpool", "stage2", "stage3", "stage4")]
    network.requires_grad_(False)

    def frozen(x: Tensor) -> Tensor:
        for stage in body:
            x = stage(x)
        return x

    def pooled(x: Tensor) -> Tensor:
        features: Tensor = network.get_submodule("conv5")(x)
        return features.mean([2, 3])

    center: Tensor | float = 0.0
    scale: Tensor | float = 1.0
    if candidate["train_from"] == "head":
        network.fc.requires_grad_(True)
        train_mode: Callable[[bool], Any] = network.fc.train
        before = torch.cat([pooled(frozen(images[[i]])) for i in train])
        center, scale = before.mean(0), before.std(0, correction=0)
        scale[scale < 1e-6] = 1
    else:
        network.fc.requires_grad_(True)
        network.conv5.requires_grad_(True)
        train_mode = network.conv5.train

    def predict(x: Tensor) -> Tensor:
        logits: Tensor = network.get_submodule("fc")((pooled(frozen(x)) - center) / scale)
        return logits

    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        moving, lr=candidate["learning_rate"], weight_decay=candidate["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_epochs)
    losses = []
    for epoch in range(1, num_epochs + 1):
        train_mode(True)
        generator = torch.Generator().manual_seed(seed + epoch)
        order = train[torch.randperm(len(train), generator=generator).numpy()]
        total = 0.0
        for batch in (order[:9], order[9:18], order[18:]):
            loss = functional.cross_entropy(predict(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        train_mode(False)
        with torch.no_grad():
            val = functional.cross_entropy(predict(images[validation]), targets[validation])
        losses.append((total / len(train), val.item()))
    return losses


@pytest.mark.parametrize("candidate", [HEAD, PARTIAL], ids=["head", "partial"])
def test_training_on_stored_features_is_the_usual_loop(
    features: Path, weights: Path, tmp_path: Path, candidate: dict[str, Any]
) -> None:
    (result,) = train_fold(features, weights, tmp_path / "predictions", candidates=[candidate])
    arrays, _ = tensorfile.read(features)
    usual = naive_loop(
        weights,
        arrays["pixels"],
        arrays["label"],
        arrays["fold"],
        candidate,
        fold=1,
        num_epochs=3,
        seed=4,
    )
    found = [(epoch["train_loss"], epoch["val_loss"]) for epoch in result["history"]]
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
    assert [r["loss"] for r in other] != [r["loss"] for r in first]


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
    arrays, about = tensorfile.read(tmp_path / "predictions")
    stored, _ = tensorfile.read(features)
    rows = np.flatnonzero(stored["fold"] == 2)
    assert arrays["row"].tolist() == rows.tolist()
    assert arrays["label"].tolist() == stored["label"][rows].tolist()
    assert about == {"classes": ["red", "green", "blue"], "results": results}
    assert [r["candidate"]["name"] for r in results] == [
        "head lr=0.003 wd=0.1",
        "conv5 lr=0.002 wd=0.05",
    ]
    for index, result in enumerate(results):
        probabilities = arrays[f"probabilities_{index}"]
        assert probabilities.shape == (len(rows), 3) and probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        best = result["history"][result["best_epoch"] - 1]
        for name, value in metrics.scores(stored["label"][rows], probabilities).items():
            assert result[name] == value
        assert best["val_loss"] == result["loss"] == min(e["val_loss"] for e in result["history"])
        assert best["val_macro_f1"] == result["macro_f1"]
        assert result["fold"] == 2
    assert results[0]["accuracy"] == 1, "colours are easy to tell apart"


def test_the_validation_fold_does_not_leak_into_training(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    shutil.copy(features, tmp_path / "spoilt")
    stored, about = tensorfile.read(features)
    spoilt = {name: np.array(array) for name, array in stored.items()}
    rows = np.flatnonzero(spoilt["fold"] == 1)
    spoilt["label"][rows] = (spoilt["label"][rows] + 1) % 3
    for cut in ("head", "conv5"):
        spoilt[cut][rows] = spoilt[cut][rows[::-1]] * 100 + 7
    tensorfile.write(tmp_path / "spoilt", spoilt, about)

    honest = train_fold(features, weights, tmp_path / "a")
    fooled = train_fold(tmp_path / "spoilt", weights, tmp_path / "b")
    for one, other in zip(honest, fooled, strict=True):
        for now, then in zip(one["history"], other["history"], strict=True):
            kept = {name for name in now if name.startswith(("train_", "epoch"))}
            assert {n: now[n] for n in kept} == {n: then[n] for n in kept}
            assert now["val_loss"] != then["val_loss"]
    # And a training fold's labels do matter.
    spoilt = {name: np.array(array) for name, array in stored.items()}
    rows = np.flatnonzero(spoilt["fold"] == 0)
    spoilt["label"][rows] = (spoilt["label"][rows] + 1) % 3
    tensorfile.write(tmp_path / "spoilt", spoilt, about)
    changed = train_fold(tmp_path / "spoilt", weights, tmp_path / "b")
    assert changed[0]["history"][-1]["train_loss"] != honest[0]["history"][-1]["train_loss"]


def test_progress_counts_the_epochs_of_all_candidates(
    features: Path, weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_fold(features, weights, tmp_path / "predictions", num_epochs=2)
    assert capfd.readouterr().out.splitlines() == [f"progress {n}/4 epochs" for n in (1, 2, 3, 4)]


# Stopping


def separable() -> Any:
    return np.where(np.arange(40) % 2 == 1, 1.0, -1.0)[:, None] * np.ones((40, 3))


def fit(
    validation_labels: Any, num_epochs: int, patience: int
) -> tuple[nn.Linear, list[dict[str, float]], training.BestEpoch]:
    """Fit a linear layer to two separable classes; the validation rows are the training rows."""
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    history, best = training.fit(
        model,
        rows_of(separable(), np.arange(40) % 2),
        rows_of(separable(), validation_labels),
        Candidate(freeze_backbone=True, train_from="head", learning_rate=0.02, weight_decay=0),
        num_epochs=num_epochs,
        batch_size=10,
        patience=patience,
        seed=0,
        precision="float32",
        progress=(0, num_epochs),
    )
    return model, history, best


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_a_fit_stops_after_its_patience(patience: int) -> None:
    wrong = 1 - np.arange(40) % 2  # the better the fit, the worse the validation loss
    _, history, best = fit(wrong, num_epochs=30, patience=patience)
    assert best.epoch == 1
    assert [entry["epoch"] for entry in history] == list(range(1, patience + 2))


def test_a_fit_that_gets_better_goes_on_to_the_end() -> None:
    _, history, best = fit(np.arange(40) % 2, num_epochs=12, patience=1)
    assert len(history) == best.epoch == 12
    losses = [entry["val_loss"] for entry in history]
    assert losses == sorted(losses, reverse=True)


def test_the_best_epochs_probabilities_are_returned() -> None:
    """Validation says 80 % of what training says: too sure a model gets worse again."""
    mixed = np.arange(40) % 2
    mixed[:8] = 1 - mixed[:8]
    model, history, best = fit(mixed, num_epochs=60, patience=3)
    assert 1 < best.epoch == len(history) - 3
    losses = [entry["val_loss"] for entry in history]
    assert best.loss == losses[best.epoch - 1] == min(losses)
    assert best.loss == pytest.approx(-np.log(best.probabilities[np.arange(40), mixed]).mean())
    after = training.evaluate(model, rows_of(separable(), mixed), "float32")
    assert not np.allclose(best.probabilities, after, atol=1e-3)


@pytest.mark.parametrize("divergent", [1, 3])
def test_a_fit_that_diverges_is_refused_or_keeps_its_best_epoch(divergent: int) -> None:
    class Diverging(nn.Linear):
        epochs = 0

        def train(self, mode: bool = True) -> "Diverging":
            self.epochs += mode
            return super().train(mode)

        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features) * (torch.nan if self.epochs >= divergent else 1)

    def diverge() -> tuple[list[dict[str, float]], training.BestEpoch]:
        rows = rows_of(separable(), np.arange(40) % 2)
        return training.fit(
            Diverging(3, 2),
            rows,
            rows,
            Candidate(**HEAD),
            num_epochs=9,
            batch_size=10,
            patience=5,
            seed=0,
            precision="float32",
            progress=(0, 9),
        )

    if divergent == 1:
        with pytest.raises(UserError, match=r"head lr=0\.003 wd=0\.1 diverges.*learning_rate"):
            diverge()
    else:
        history, best = diverge()
        assert (len(history), best.epoch) == (2, 2)
        assert np.isfinite(best.probabilities).all()


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    rows = rows_of(np.ones((64, 8)), np.zeros(64))
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0)
    with torch.no_grad():
        certain = model.eval()(torch.ones(1, 8)).softmax(1)
    np.testing.assert_allclose(
        training.evaluate(model, rows, "float32"), certain.repeat(64, 1), atol=1e-6
    )
    first, same, other = (
        training.train_one_epoch(model, optimizer, rows, 16, seed, "float32")["loss"]
        for seed in (1, 1, 2)
    )
    assert first == same != other
    assert first != pytest.approx(-certain.log()[0, 0].item(), rel=1e-6)


# The final fit


def train_final(
    features: Path, weights: Path, tmp_path: Path, candidate: dict[str, Any], num_epochs: int
) -> tuple[backbone.Network, dict[str, Any]]:
    name = Candidate(**candidate).name
    board = {
        "candidates": [
            {"candidate": {"name": "another", **FULL}},
            {"candidate": {"name": name, **candidate}},
        ],
        "best": 1,
        "num_epochs": num_epochs,
        "temperature": 1.5,
    }
    (tmp_path / "leaderboard").write_text(json.dumps(board))
    figures = training.train_final(
        features=features,
        backbone_weights=weights,
        architecture=ARCHITECTURE,
        leaderboard=tmp_path / "leaderboard",
        num_epochs=10,
        batch_size=BATCH_SIZE,
        seed=4,
        precision="float32",
        num_threads=1,
        model=tmp_path / "model",
    )
    return backbone.Network(tmp_path / "model"), figures


@pytest.mark.parametrize("candidate", [HEAD, PARTIAL, FULL], ids=["head", "partial", "full"])
def test_the_final_network_says_of_pixels_what_the_suffix_says_of_features(
    features: Path, weights: Path, tmp_path: Path, candidate: dict[str, Any]
) -> None:
    network, figures = train_final(features, weights, tmp_path, candidate, num_epochs=3)
    # The same by hand, from the pieces that are tested above.
    stored, _ = tensorfile.read(features)
    chosen = Candidate(**candidate)
    rows = FeatureRows(stored[chosen.train_from], np.array(stored["label"]), np.arange(42))
    suffix = training.trainable(
        backbone.pretrained_network(ARCHITECTURE, weights, 3, seed=4), chosen, rows
    )
    optimizer = torch.optim.AdamW(
        suffix.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay, fused=True
    )
    # The rate falls as it did in cross-validation, over the most epochs that it could take.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for epoch in (1, 2, 3):
        last = training.train_one_epoch(suffix, optimizer, rows, BATCH_SIZE, 4 + epoch, "float32")
        schedule.step()
    assert figures == {"num_epochs": 3, **last}

    found = network.predict(np.array(stored["pixels"]))
    wanted = calibration.tempered(training.evaluate(suffix, rows, "float32"), 1.5)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.ptp(found) > 0.2, "every image gets the same answer"


def test_the_final_network_carries_what_is_needed_to_use_it(
    features: Path, weights: Path, tmp_path: Path
) -> None:
    network, _ = train_final(features, weights, tmp_path, HEAD, num_epochs=8)
    assert network.classes == ("red", "green", "blue")
    assert (network.architecture, network.image_size) == (ARCHITECTURE, 32)
    assert network.candidate == {"name": "head lr=0.003 wd=0.1", **HEAD}
    assert network.temperature == 1.5
    stored, _ = tensorfile.read(features)
    predicted = network.predict(np.array(stored["pixels"])).argmax(axis=1)
    assert predicted.tolist() == stored["label"].tolist()
    kept = safetensors.torch.load_file(weights)
    final = safetensors.torch.load_file(tmp_path / "model")
    assert all(
        torch.equal(final[name], kept[name])
        for name in final
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    )
