import numpy as np
import pytest
import torch

from crossfold.training.feature_rows import FeatureRows


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


def test_a_view_belongs_to_its_image() -> None:
    values = np.arange(15, dtype=np.float32).reshape(5, 3, 1)  # image 4's views are 12, 13, 14
    own = FeatureRows.of_images(values, np.arange(5) * 10, np.array([4, 1]))

    def content(rows: FeatureRows) -> tuple[list[float], list[int]]:
        ((features, labels),) = rows.batches(99)
        return features.flatten().tolist(), labels.tolist()

    assert content(own) == ([12, 3], [40, 10])
    assert content(own.with_views()) == ([12, 13, 14, 3, 4, 5], [40, 40, 40, 10, 10, 10])
    drawn = {tuple(content(own.drawn(np.random.default_rng(seed)))[0]) for seed in range(60)}
    assert drawn == {(a, b) for a in (12, 13, 14) for b in (3, 4, 5)}
