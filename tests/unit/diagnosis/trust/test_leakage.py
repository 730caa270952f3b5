from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossfold.data.examination.findings import DataFacts, GroupFacts, PairCounts
from crossfold.data.examples import TEST, TRAIN, Example, write_examples
from crossfold.diagnosis.evidence import Evidence
from crossfold.diagnosis.trust.leakage import check_leakage
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import SquareGeometry
from tests.unit.diagnosis.evidences import evidence, with_groups

NUM_PATIENTS, SHOTS = 24, 5
PATIENTS = np.repeat(np.arange(NUM_PATIENTS), SHOTS)
LABELS = PATIENTS % 2  # by coin, as far as the features go
GROUPS = GroupFacts(
    rule="by the folder below the class",
    named=NUM_PATIENTS,
    number=NUM_PATIENTS,
    largest="0",
    largest_size=SHOTS,
    tied=False,
)
RANDOM = np.random.default_rng(0)
PICTURES = [
    np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC)).clip(0, 250)
    for picture in RANDOM.integers(0, 255, (NUM_PATIENTS, 5, 5, 3), np.uint8)
]


def made(path: Path, facts: DataFacts, picture_of: np.ndarray) -> Evidence:
    """Patients whose features tell them apart, but not their labels."""
    geometry = SquareGeometry(32)
    rows = [
        Example(f"{n}.png", None, int(label), f"{n:06}", TRAIN, n % 2, n,
                squares=(PICTURES[picture] + np.uint8(n % 3),))
        for n, (label, picture) in enumerate(zip(LABELS, picture_of, strict=True))
    ]  # fmt: skip
    rows.append(Example("test.png", b"file", 0, "t", TEST, -1, len(rows), squares=(None,)))
    write_examples(
        path, rows, classes=("0", "1"), data_hash="d", geometries=(geometry,), facts=facts
    )
    features = RANDOM.normal(size=(NUM_PATIENTS, 60))[PATIENTS]
    features = features + RANDOM.normal(size=(len(PATIENTS), 60)) / 4
    one = evidence(path, LABELS, np.full((len(LABELS), 2), 0.5))
    return replace(one, features=features.astype(np.float32))


def test_patients_that_folds_divide_make_the_score_too_good(tmp_path: Path) -> None:
    facts = DataFacts(groups=GROUPS, num_test=10, pair_counts=PairCounts(3, 4, 0, 2, 1, 0))
    one = with_groups(made(tmp_path / "table", facts, PATIENTS), PATIENTS)
    shares: list[float] = []
    found = check_leakage(one, shares.append)
    assert found.alone.macro_f1 > 0.9 and found.together.macro_f1 < 0.65
    assert found.is_clear and found.optimism > 0.3
    assert (found.num_images, found.num_groups) == (len(PATIENTS), NUM_PATIENTS)
    assert (found.num_test, found.num_test_near_training) == (10, 1)
    assert shares == sorted(shares) and shares[-1] == 1
    assert "folder below the class" in found.ties


def test_without_groups_near_duplicates_are_tied(tmp_path: Path) -> None:
    found = check_leakage(made(tmp_path / "table", DataFacts(), PATIENTS))
    assert found.num_groups == NUM_PATIENTS and found.ties == "near duplicates and copies"
    assert found.is_clear


def test_images_that_nothing_ties_are_a_clear_error(tmp_path: Path) -> None:
    one = made(tmp_path / "table", DataFacts(), PATIENTS)
    numbers = range(len(LABELS))
    noise = RANDOM.integers(0, 255, (len(LABELS), 32, 32, 3), np.uint8)
    rows = [
        Example(f"{n}.png", None, 0, f"{n:06}", TRAIN, 0, n, squares=(noise[n],)) for n in numbers
    ]
    write_examples(
        tmp_path / "other",
        rows,
        classes=("0", "1"),
        data_hash="d",
        geometries=(SquareGeometry(32),),
    )
    table = evidence(tmp_path / "other", LABELS, np.full((len(LABELS), 2), 0.5)).table
    with pytest.raises(UserError, match=r"set data\.groups"):
        check_leakage(replace(one, table=table))


def test_images_that_all_look_alike_are_a_clear_error(tmp_path: Path) -> None:
    one = made(tmp_path / "table", DataFacts(), np.zeros(len(PATIENTS), np.int64))
    with pytest.raises(UserError, match=r"class 0 has 1 sets .* 5 folds"):
        check_leakage(one)
