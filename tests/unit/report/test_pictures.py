from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from crossfold.data.examination.findings import DataFacts, Pair
from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis.labels.label_errors import LabelErrors, LabelIssue
from crossfold.diagnosis.labels.outliers import Outlier, Outliers
from crossfold.records import ActivationMap
from crossfold.report import pictures as report_pictures

NO_FINDINGS = Diagnosis(left_out={})


def test_samples_are_of_each_class_and_from_the_train_split(examples: Path) -> None:
    rows = pq.read_table(examples).to_pylist()
    found = report_pictures.summarise(Examples(examples), [], [], NO_FINDINGS).samples
    assert list(found) == ["red", "green", "blue"]
    for label, pictures in enumerate(found.values()):
        mine = [row["path"] for row in rows if (row["label"], row["split"]) == (label, TRAIN)]
        assert len(pictures) == report_pictures.MAX_SAMPLES_OF_CLASS
        assert set(pictures) <= set(mine)
        assert min(pictures) < mine[len(mine) // 3] < mine[2 * len(mine) // 3] < max(pictures)
        assert len(set(pictures.values())) == len(pictures)
        assert all(uri.startswith("data:image/") for uri in pictures.values())


def test_samples_are_bounded_however_many_the_classes(
    examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, wanted in ((6, [2, 2, 2]), (4, [1, 1, 1]), (2, [1, 1])):
        monkeypatch.setattr(report_pictures, "MAX_SAMPLES", most)
        found = report_pictures.summarise(Examples(examples), [], [], NO_FINDINGS).samples
        assert [len(pictures) for pictures in found.values()] == wanted


def test_tested_images_are_pictures_of_the_test_split_by_path(examples: Path) -> None:
    rows = [row for row in pq.read_table(examples).to_pylist() if row["split"] == TEST]
    found = report_pictures.summarise(Examples(examples), [7, 2], [], NO_FINDINGS)
    assert list(found.tested) == [rows[7]["path"], rows[2]["path"]]
    assert found.counts[TEST] == Counter(("red", "green", "blue")[row["label"]] for row in rows)


def test_near_duplicates_of_test_images_are_shown_in_pairs(examples: Path, tmp_path: Path) -> None:
    rows = [Example(**row) for row in pq.read_table(examples).to_pylist()]
    test, train = (next(row.path for row in rows if row.split == split) for split in (TEST, TRAIN))
    pair = Pair(paths=(train, test), correlation=0.99, other_class=False, places=("fold 0", TEST))
    facts = DataFacts(leaked=(test,), leaks=(pair,))
    write_examples(tmp_path / "t", rows, classes=("a", "b", "c"), data_hash="d", facts=facts)
    found = report_pictures.summarise(Examples(tmp_path / "t"), [], [], NO_FINDINGS)
    assert found.facts == facts
    assert set(found.leaks) == {test, train}


def test_explained_images_have_a_picture_and_an_overlay(examples: Path) -> None:
    paths = [row["path"] for row in pq.read_table(examples).to_pylist() if row["split"] == TEST]
    maps = [ActivationMap(position=n, crop=0.9, values=((0.0, 1.0), (0.5, 0.0))) for n in (2, 5)]
    found = report_pictures.summarise(Examples(examples), [7, 2], maps, NO_FINDINGS)
    assert list(found.tested) == [paths[7], paths[2], paths[5]]
    assert list(found.overlays) == [paths[2], paths[5]]
    assert all(found.overlays[path] != found.tested[path] for path in found.overlays)


def test_images_that_the_diagnosis_names_have_a_picture(examples: Path) -> None:
    paths = [row["path"] for row in pq.read_table(examples).to_pylist() if row["split"] == TRAIN]
    issues = tuple(
        LabelIssue(
            path=path,
            label="red",
            suggested="blue",
            label_probability=0.1,
            suggested_probability=0.9,
        )
        for path in paths[:30]
    )
    outlier = Outlier(path=paths[35], label="red", distance=0.5, z_score=9)
    found = Diagnosis(
        left_out={},
        label_errors=LabelErrors(
            num_images=42,
            num_mistakes=30,
            num_issues=30,
            error_share=0.7,
            classes=(),
            issues=issues,
        ),
        outliers=Outliers(num_judged=42, num_outliers=1, num_references=None, outliers=(outlier,)),
    )
    shown = report_pictures.summarise(Examples(examples), [], [], found).diagnosed
    most = report_pictures.MAX_DIAGNOSED
    assert set(shown) == {*paths[:most], paths[35]}
