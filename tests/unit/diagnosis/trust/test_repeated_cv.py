import numpy as np

from crossfold.diagnosis.trust.records import RepeatedCV
from crossfold.diagnosis.trust.repeated_cv import repeat_cv

from .drawn import Numbers, Values, drawn, hashes


def repeated(features: Values, labels: Numbers, groups: Numbers) -> RepeatedCV:
    return repeat_cv(
        features, labels, hashes(groups), groups, {"head": 0.1}, num_folds=4, num_repeats=3
    )


def test_repeated_cross_validation_keeps_groups_together() -> None:
    features, labels, _ = drawn(120, 0)
    copies = np.repeat(np.arange(40), 3) * 3  # three images of a group look the same
    features, labels = features[copies], (np.arange(120) // 3) % 3
    alone = repeated(features, labels, np.arange(120))
    grouped = repeated(features, labels, copies)
    assert alone.heads[0].macro_f1 > 0.8 > 0.6 > grouped.heads[0].macro_f1
    assert grouped.heads[0].lowest <= grouped.heads[0].macro_f1 <= grouped.heads[0].highest


def test_contents_decide_the_folds_not_the_order_of_the_files() -> None:
    features, labels, _ = drawn(90, 1)
    groups = np.arange(90) // 2
    contents = np.array(hashes(groups))
    order = np.random.default_rng(1).permutation(90)
    found = [
        repeat_cv(
            features[rows],
            labels[rows],
            contents[rows].tolist(),
            groups[rows],
            {"head": 0.1},
            num_folds=3,
            num_repeats=2,
        )
        for rows in (np.arange(90), order)
    ]
    assert found[0] == found[1]
