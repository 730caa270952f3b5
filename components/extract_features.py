"""Step: run the frozen part of the network once over every image, or over a shard."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def extract_features(
    examples: Input[Dataset],
    backbone: Input[Model],
    architecture: str,
    cuts: list,
    image_size: int,
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
        image_size: Side of the square that images are scaled to, in pixels.
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

        bytes_per_image = extract_features(
            examples=Path(examples.path),
            backbone_weights=Path(backbone.path),
            settings=FeatureSettings(
                architecture=architecture,
                cuts=cuts,
                image_size=image_size,
                precision=precision,
            ),
            num_threads=num_threads,
            shard=shard,
            num_shards=num_shards,
            features=Path(features.path),
        )
        run.log_metrics({f"bytes_at_{cut}": n for cut, n in bytes_per_image.items()})
        run.set_tags(determinism.describe())
