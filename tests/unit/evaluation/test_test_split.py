import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import sklearn.metrics
import torch
from PIL import Image

from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.evaluation import export_check, latency, test_split
from crossfold.evaluation.cross_validation import aggregate_cv
from crossfold.evaluation.test_split import evaluate_test, score, split_hash
from crossfold.network import backbone, normalization, trained_network
from crossfold.network.openvino_engine import Classifier
from crossfold.records import Choice, Evaluation, Leaderboard
from crossfold.settings import Candidate
from crossfold.training.recipe import FitSettings
from crossfold.training.train_final import train_final
from crossfold.training.train_fold import train_fold
from tests.unit.networks import IMAGENET

ARCHITECTURE = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, features: Path) -> tuple[Path, Path]:
    """The leaderboard and the network of a short run, whose network is not always right.

    The network is exported beside its file.
    """
    folder = tmp_path_factory.mktemp("run")
    common: dict[str, Any] = {
        "features": features,
        "settings": FitSettings(num_epochs=1, batch_size=10, seed=0, precision="float32"),
        "num_threads": 1,
    }
    candidate = Candidate.model_validate(
        {"train_from": "conv5", "learning_rate": 2e-4, "weight_decay": 0}
    )
    for fold in range(3):
        train_fold(
            **common,
            fold=fold,
            candidates=[candidate],
            predictions=folder / f"predictions {fold}",
        )
    aggregate_cv(
        predictions=[folder / f"predictions {fold}" for fold in range(3)],
        choice=Choice.BEST,
        leaderboard=folder / "leaderboard",
    )
    train_final(
        **common,
        predictions=[folder / f"predictions {fold}" for fold in range(3)],
        leaderboard=folder / "leaderboard",
        model=folder / "model",
        exported=folder / "exported",
        sets=folder / "sets",
    )
    return folder / "leaderboard", folder / "model"


def evaluate(
    examples: Path, run: tuple[Path, Path], folder: Path, num_threads: int = 1
) -> Evaluation:
    _, model = run
    return evaluate_test(
        examples=examples,
        model=model,
        exported=model.with_name("exported"),
        sets=model.with_name("sets"),
        num_threads=num_threads,
        evaluation=folder / "evaluation",
    )


def test_probabilities_are_the_networks_for_the_test_images_pixels(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    rows = [row for row in pq.read_table(examples).to_pylist() if row["split"] == TEST]
    assert list(found.paths) == [row["path"] for row in rows]
    assert list(found.labels) == [row["label"] for row in rows]
    module = backbone.build_network(ARCHITECTURE, 3, seed=0)
    module.load_state_dict(safetensors.torch.load_file(run[1]))
    for row, probabilities in zip(rows, found.probabilities, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(row["image"]))))
        with torch.inference_mode():
            logits = module(normalization.normalize(pixels[None], IMAGENET))
        wanted = (logits / found.calibration.temperature).softmax(1)[0]
        np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
    assert found.calibration.temperature == Leaderboard.read(run[0]).temperature != 1


def test_the_export_is_compared_with_torch(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path).export
    assert found.by.startswith("openvino 20")
    assert found.max_difference < 1e-5 and found.num_different == 0
    assert found.num_compared == 12
    network = trained_network.Network(run[1])
    _, _, torchs = score(network, Examples(examples), 1)
    wrong = np.full((12, 3), 1 / 3, np.float32)
    with pytest.raises(RuntimeError, match=f"{network.architecture} differs from torch"):
        export_check.compare(network, wrong, torchs)


def test_a_sample_is_compared_with_torch(
    examples: Path, run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_check, "MIN_COMPARED", 5)
    monkeypatch.setattr(export_check, "BATCH_SIZE", 2)
    network, table = trained_network.Network(run[1]), Examples(examples)
    compared = export_check.TorchSample(network, table.count(TEST))
    _, _, probabilities = score(network, table, 1, compared)
    assert compared.positions.tolist() == [0, 2, 4, 7, 9]
    np.testing.assert_allclose(
        compared.probabilities(), probabilities[compared.positions], atol=1e-6
    )


@pytest.mark.parametrize(("of", "number"), [(12, 12), (400, 64), (1000, 100), (10_000, 256)])
def test_a_tenth_of_the_split_is_compared_but_64_to_256_images(of: int, number: int) -> None:
    positions = export_check.sample(of)
    assert len(np.unique(positions)) == number
    assert positions[0] == 0 and positions[-1] == of * (number - 1) // number


def test_the_files_that_are_timed_are_bounded_by_their_bytes(
    examples: Path, run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, timed = latency.measure, []

    def counted(network: Classifier, encoded: list[bytes], num_threads: int) -> Any:
        timed.extend(encoded)
        return measure(network, encoded, num_threads)

    monkeypatch.setattr(latency, "measure", counted)
    (_, first), (_, second) = Examples(examples).test_files([0, 1])
    monkeypatch.setattr(test_split, "MAX_LATENCY_BYTES", len(first) + 1)
    evaluate(examples, run, tmp_path)
    assert timed == [first, second]


def test_the_scores_are_scikit_learns(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    labels, probabilities = np.array(found.labels), np.array(found.probabilities)
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(3), average="macro", zero_division=0
    )
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert found.metrics == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "macro_f1": f1,
            "macro_precision": precision,
            "macro_recall": recall,
            "mcc": sklearn.metrics.matthews_corrcoef(labels, predicted),
            "loss": loss,
        }
    )
    assert 0 < found.metrics["accuracy"] < 1, "a network that errs shows more"
    confusion = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(3))
    assert np.array_equal(found.confusion_matrix, confusion)


def test_the_files_hold_what_is_returned_and_name_what_was_measured(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    assert Evaluation.read(tmp_path / "evaluation") == found
    assert found.weights_hash == hashlib.sha256(run[1].read_bytes()).hexdigest()
    assert found.data_hash == "d" * 32 + ".dir"
    assert found.classes == ("red", "green", "blue")
    roc = found.curves.roc.micro
    assert len(roc.x) == len(roc.y) == len(roc.thresholds)
    assert np.isfinite(roc.thresholds).all()


def test_every_score_has_its_interval(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    found = evaluate(examples, run, tmp_path)
    assert found.intervals.keys() == found.metrics.keys()
    for name, (low, high) in found.intervals.items():
        assert low <= found.metrics[name] <= high, name
        assert low < high, name
    assert len(found.class_f1_intervals) == 3


def test_the_hash_of_the_split_is_of_its_images_and_classes_alone(
    examples: Path, tmp_path: Path
) -> None:
    classes = ("red", "green", "blue")
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    test = [row for row in rows if row.split == TEST]
    wanted = "".join(sorted(f"{row.content_hash} {classes[row.label]}\n" for row in test))

    def hash_of(changed: list[Example], names: tuple[str, ...] = classes) -> str:
        write_examples(tmp_path / "t", changed, classes=names, data_hash="0.dir")
        return split_hash(Examples(tmp_path / "t"))

    same = hashlib.sha256(wanted.encode()).hexdigest()
    assert hash_of(rows) == split_hash(Examples(examples)) == same
    assert hash_of([row._replace(path=f"x/{row.path}") for row in test][::-1]) == same
    assert hash_of(test[1:]) != same
    assert hash_of([*test[1:], test[0]._replace(label=(test[0].label + 1) % 3)]) != same
    assert hash_of(rows, ("red", "green", "violet")) != same


def test_latency_is_of_single_images_from_their_bytes(
    examples: Path, run: tuple[Path, Path]
) -> None:
    table = Examples(examples)
    encoded = [file for _, file in table.test_files(range(12))]
    network = Classifier(run[1].with_name("exported"), num_threads=1)
    sizes: list[tuple[int, ...]] = []
    predict = network.predict

    def counted(images: Any) -> Any:
        sizes.append(images.shape)
        return predict(images)

    network.predict = counted  # type: ignore[method-assign]
    found = latency.measure(network, encoded, num_threads=1)
    assert set(sizes) == {(1, 32, 32, 3)}
    assert len(sizes) == found.num_images + latency.NUM_WARM_UP
    assert 1 <= found.num_images <= latency.NUM_TIMED
    assert 0 < found.median_ms <= found.p99_ms


def test_the_train_split_is_not_decoded(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    broken = [row._replace(image=b"broken") if row.split == TRAIN else row for row in rows]
    classes = ("red", "green", "blue")
    write_examples(tmp_path / "examples", broken, classes=classes, data_hash="d" * 32 + ".dir")
    found = score(trained_network.Network(run[1]), Examples(tmp_path / "examples"), 1)
    wanted = score(trained_network.Network(run[1]), Examples(examples), 1)
    assert found[0] == wanted[0]
    np.testing.assert_array_equal(found[2], wanted[2])


def test_threads_that_decode_keep_the_order(
    examples: Path, run: tuple[Path, Path], tmp_path: Path
) -> None:
    one, four = (evaluate(examples, run, tmp_path, num_threads) for num_threads in (1, 4))
    np.testing.assert_allclose(one.probabilities, four.probabilities, atol=1e-4)
    assert one.paths == four.paths
