from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.features.features_file import join_features


def test_shards_of_different_precisions_are_not_joined(
    features: Path, features_in_int8: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"shards of shuffle .* in int8, .* processors"):
        join_features(parts=[features, features_in_int8], features=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
