"""Step: merge the shards' features."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def join_features(shards: Input[list[Dataset]], features: Output[Dataset]) -> None:
    """Merge the features of all shards into one file, equal to that of a single step.

    Args:
        shards: The features of each shard.
        features: The values at each cut, labels and folds, in one file.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("join_features", features.path):
        from crossfold.network.features import join_features

        join_features(shards=[Path(shard.path) for shard in shards], features=Path(features.path))
