import pytest

from crossfold.diagnosis.trust.nested_cv import nest_cv

from .drawn import drawn


def test_optimism_is_the_plain_score_minus_the_nested_one() -> None:
    features, labels, folds = drawn(40, 0)
    decays = {str(decay): decay for decay in (0.1, 10)}
    found = nest_cv(features, labels, folds, decays)
    assert sum(found.num_chosen.values()) == 5
    assert found.optimism == pytest.approx(found.plain_macro_f1 - found.macro_f1, abs=1e-5)


def test_heads_that_are_the_same_have_no_optimism() -> None:
    features, labels, folds = drawn(40, 0)
    found = nest_cv(features, labels, folds, {"one": 0.1, "two": 0.1})
    assert found.optimism == 0
