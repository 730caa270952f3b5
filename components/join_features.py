"""Step: merge the features of several backbones or shards."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def join_features(parts: Input[list[Dataset]], features: Output[Dataset]) -> None:
    """Merge the features of all backbones and shards into one file.

    Args:
        parts: The features of each backbone and shard.
        features: Values at each cut, the pretrained weights, labels and folds, in one file.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("join_features", features.path):
        from crossfold.features.features_file import join_features

        join_features(parts=[Path(part.path) for part in parts], features=Path(features.path))
