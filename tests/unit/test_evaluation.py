import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import sklearn.metrics
import torch
from PIL import Image

from crossfold import backbone, evaluation
from crossfold.evaluation import evaluate_test
from crossfold.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.selection import aggregate_cv
from crossfold.training import train_final, train_fold

ARCHITECTURE = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, features: Path, weights: Path
) -> tuple[Path, Path]:
    """The leaderboard and the network of a short run, whose network is not always right."""
    folder = tmp_path_factory.mktemp("run")
    common: dict[str, Any] = {
        "features": features,
        "backbone_weights": weights,
        "architecture": ARCHITECTURE,
        "batch_size": 10,
        "seed": 0,
        "precision": "float32",
        "num_threads": 1,
        "num_epochs": 1,
    }
    candidate = {"train_from": "head", "learning_rate": 2e-4, "weight_decay": 0}
    for fold in range(3):
        train_fold(
            **common,
            fold=fold,
            candidates=[candidate],
            patience=1,
            predictions=folder / f"predictions {fold}",
        )
    aggregate_cv(
        predictions=[folder / f"predictions {fold}" for fold in range(3)],
        architecture=ARCHITECTURE,
        leaderboard=folder / "leaderboard",
    )
    train_final(**common, leaderboard=folder / "leaderboard", model=folder / "model")
    return folder / "leaderboard", folder / "model"


def evaluate(
    examples: Path, run: tuple[Path, Path], folder: Path, num_threads: int = 1
) -> dict[str, Any]:
    leaderboard, model = run
    return evaluate_test(
        examples=examples,
        model=model,
        leaderboard=leaderboard,
        num_threads=num_threads,
        exported=folder / "exported",
        evaluation=folder / "evaluation",
        report_page=folder / "report.html",
    )


def test_probabilities_are_the_networks_for_the_test_images_pixels(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    rows = [row for row in pq.read_table(examples).to_pylist() if row["split"] == TEST]
    assert found["paths"] == [row["path"] for row in rows]
    assert found["labels"] == [row["label"] for row in rows]
    module = backbone.build_network(ARCHITECTURE, 3, seed=0)
    module.load_state_dict(safetensors.torch.load_file(run[1]))
    for row, probabilities in zip(rows, found["probabilities"], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])))
        with torch.inference_mode():
            logits = module(backbone.normalize(torch.from_numpy(pixels.copy())[None]))
        np.testing.assert_allclose(probabilities, logits.softmax(1)[0], atol=1e-5)


def test_the_export_is_compared_with_torch(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    export = evaluate(examples, run, tmp_path)["export"]
    assert export["by"].startswith("openvino 20")
    assert export["max_difference"] < 1e-5 and export["num_different"] == 0
    network, table = backbone.Network(run[1]), Examples(examples)
    wrong = np.full((12, 3), 1 / 3, np.float32)
    with pytest.raises(RuntimeError, match="does not compute what torch does"):
        evaluation.compare_with_torch(network, wrong, table, num_threads=1)


def test_the_scores_are_scikit_learns(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    labels, probabilities = np.array(found["labels"]), np.array(found["probabilities"])
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(3), average="macro", zero_division=0
    )
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert found["metrics"] == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "macro_f1": f1,
            "macro_precision": precision,
            "macro_recall": recall,
            "loss": loss,
        }
    )
    assert 0 < found["metrics"]["accuracy"] < 1, "a network that errs shows more"
    confusion = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(3))
    assert found["confusion_matrix"] == confusion.tolist()


def test_the_files_hold_what_is_returned_and_name_what_was_measured(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    assert json.loads((tmp_path / "evaluation").read_text()) == found
    assert found["weights_hash"] == hashlib.sha256(run[1].read_bytes()).hexdigest()
    assert found["data_hash"] == "d" * 32 + ".dir"
    assert found["classes"] == ["red", "green", "blue"]
    roc = found["curves"]["roc"]["micro"]
    assert len(roc["x"]) == len(roc["y"]) == len(roc["thresholds"])
    assert np.isfinite(roc["thresholds"]).all()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert found["data_hash"] in page and "green" in page


def test_the_train_split_is_not_decoded(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    broken = [row._replace(image=b"broken") if row.split == TRAIN else row for row in rows]
    classes = ("red", "green", "blue")
    write_examples(
        tmp_path / "examples", broken, classes=classes, data_hash="d" * 32 + ".dir", num_folds=3
    )
    assert evaluate(tmp_path / "examples", run, tmp_path) == evaluate(examples, run, tmp_path)


def test_threads_that_decode_keep_the_order(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    one, four = (evaluate(examples, run, tmp_path, num_threads) for num_threads in (1, 4))
    np.testing.assert_allclose(one["probabilities"], four["probabilities"], atol=1e-4)
    assert one["paths"] == four["paths"]
