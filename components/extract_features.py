"""Step: run the frozen part of the network once over every image, or over a shard."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def extract_features(
    examples: Input[Dataset],
    backbone: Input[Model],
    architecture: str,
    cuts: list,
    preprocessing: dict,
    precision: str,
    num_threads: int,
    shard: int,
    num_shards: int,
    features: Output[Dataset],
) -> None:
    """Compute once what every epoch of every fold would compute again.

    Args:
        examples: Table of images; the test split is not read.
        backbone: Weights file.
        architecture: One of torchvision's classification networks.
        cuts: Where training begins: "head", a stage's name, or "pixels".
        preprocessing: Image size, mean, std, interpolation and crop in place of the network's own.
        precision: Number format of the computation, "float32" or "bfloat16".
        num_threads: Processor threads.
        shard: The shard to extract, from 0 on.
        num_shards: Number of shards, 1 for all images at once; a shard may be empty.
        features: Values at each cut, labels and folds, in one file.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("extract_features", features.path, shard if num_shards > 1 else None) as run:
        from crossfold.network import determinism
        from crossfold.network.features import FeatureSettings, extract_features
        from crossfold.settings import PreprocessingSettings

        bytes_per_image = extract_features(
            examples=Path(examples.path),
            backbone_weights=Path(backbone.path),
            settings=FeatureSettings(
                architecture=architecture,
                cuts=cuts,
                preprocessing=PreprocessingSettings(**preprocessing),
                precision=precision,
            ),
            num_threads=num_threads,
            shard=shard,
            num_shards=num_shards,
            features=Path(features.path),
        )
        run.log_metrics({f"bytes_at_{cut}": n for cut, n in bytes_per_image.items()})
        run.set_tags(determinism.describe())
