from pathlib import Path

import numpy as np
import pytest

from crossfold.data.examples import TRAIN, Examples
from crossfold.errors import UserError
from crossfold.extraction import precision_comparison
from crossfold.features.features_file import Features
from crossfold.network import processor
from crossfold.settings import Candidate
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.fit import fit, trainable_suffix
from crossfold.training.recipe import Recipe
from tests.unit.training.recipes import HEAD, fit_settings

from .test_extract_features import extract

NO_INT8 = "processor : 0\nflags : fpu avx2 avx512f amx_bf16\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (NO_INT8, False),
        ("flags : avx2 avx_vnni\n", True),
        ("flags : avx512f avx512_vnni\n", True),
        ("flags : amx_tile amx_int8\n", True),
    ],
)
def test_the_flags_of_the_processor_tell_its_instructions(
    tmp_path: Path, flags: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    assert processor.has_int8(tmp_path / "cpuinfo") is expected
    assert not processor.has_int8(tmp_path / "missing")


@pytest.mark.usefixtures("int8_instructions")
@pytest.mark.parametrize(("margin", "precision"), [(0.9, "int8"), (-1.0, "float32")])
def test_auto_takes_int8_if_the_loss_is_within_the_margin(
    examples: Path, weights: Path, features: Path, tmp_path: Path, margin: float, precision: str
) -> None:
    extract(examples, weights, tmp_path / "auto", precision="auto", margin=margin)
    found, exact = Features(tmp_path / "auto"), Features(features)
    (facts,) = found.backbones
    assert facts.precision and facts.precision.comparison
    assert facts.precision.precision == precision
    assert f"{margin:g}" in facts.precision.reason
    compared = facts.precision.comparison
    assert compared.num_images == 42
    assert compared.interval[0] <= compared.difference <= compared.interval[1]
    differences = found.values(facts, "head") - exact.values(exact.backbones[0], "head")
    assert bool(differences.any()) is (precision == "int8")
    assert (found.graph(facts, "head") is None) is (precision == "float32")


def test_int8_is_taken_whatever_the_comparison_says(features_in_int8: Path) -> None:
    (facts,) = Features(features_in_int8).backbones
    assert facts.precision and facts.precision.comparison
    assert facts.precision.precision == "int8"


def test_a_processor_without_instructions_refuses_int8_and_takes_float32(
    examples: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_int8", lambda: False)
    with pytest.raises(UserError, match=r"model\.precision: int8: this processor .* auto or float"):
        extract(examples, weights, tmp_path / "features", precision="int8")
    assert not list(tmp_path.iterdir())
    extract(examples, weights, tmp_path / "features", precision="int8", cuts=["pixels"])
    extract(examples, weights, tmp_path / "auto", precision="auto", margin=1)
    (facts,) = Features(tmp_path / "auto").backbones
    assert facts.precision and facts.precision.comparison is None
    assert facts.precision.precision == "float32"


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_heads_of_the_comparison_are_those_of_training(
    features: Path, num_classes: int
) -> None:
    """The values are shrunk to noise, so that the penalty decides predictions."""
    stored = Features(features)
    kept = stored.labels < num_classes
    labels, folds = stored.labels[kept], stored.folds[kept]
    draw = np.random.default_rng(0)
    values = stored.values(stored.backbones[0], "head")[kept]
    values = values * 0.02 + draw.standard_normal(values.shape, np.float32)
    wanted = np.empty_like(labels)
    for fold in range(3):
        held_out, others = (np.flatnonzero(mask) for mask in (folds == fold, folds != fold))
        decay = precision_comparison.STRENGTH / len(others)
        candidate = Candidate.model_validate({**HEAD.model_dump(), "weight_decay": decay})
        recipe = Recipe(candidate, fit_settings())
        network = stored.network(stored.backbones[0], seed=0)
        suffix = trainable_suffix(network, recipe, stored.backbones[0].preprocessing)
        rows, validation = (
            FeatureRows.of_images(values, labels, images) for images in (others, held_out)
        )
        _, probabilities = fit(suffix, rows, validation, recipe, lambda share: None)
        wanted[held_out] = probabilities.argmax(axis=1)
    found = precision_comparison.out_of_fold(values[:, 0], labels, folds)
    assert found.tolist() == wanted.tolist()
    assert (found != labels).any()


def test_a_tenth_of_the_images_is_compared_within_bounds(examples: Path) -> None:
    numbers = [precision_comparison.num_compared(n) for n in (42, 1000, 5000, 100_000)]
    assert numbers == [42, 256, 500, 1024]
    assert list(Examples(examples).sample(TRAIN, 4)) == [0, 10, 21, 31]
