from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.features.features_file import join_features
from crossfold.network import safetensors_file
from crossfold.records import ChosenPrecision, StoredFeatures


def test_shards_of_different_precisions_are_not_joined(features: Path, tmp_path: Path) -> None:
    arrays, metadata = safetensors_file.read(features)
    about = StoredFeatures.model_validate(metadata)
    (facts,) = about.backbones
    shards = [tmp_path / "int8", tmp_path / "float32"]
    for path in shards:
        chosen = ChosenPrecision(precision=path.name, reason=f"the reason for {path.name}")
        shard = about.model_copy(
            update={"backbones": (facts.model_copy(update={"precision": chosen}),)}
        )
        safetensors_file.write(path, arrays, shard.model_dump())
    reasons = r"int8 \(the reason for int8\) and in float32 \(the reason for float32\)"
    with pytest.raises(UserError, match=f"shards of shuffle were computed in {reasons}"):
        join_features(parts=shards, features=tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
