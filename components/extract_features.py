"""Step: run the frozen part of a backbone once over every image, or over a shard."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="crossfold-train", install_kfp_package=False)
def extract_features(
    examples: Input[Dataset],
    weights: Input[Model],
    part: str,
    backbone: dict,
    cuts: list,
    views: list,
    precision: str,
    margin: float,
    num_threads: int,
    shard: int,
    num_shards: int,
    features: Output[Dataset],
) -> None:
    """Compute once what every epoch of every fold would compute again.

    Args:
        examples: Table of images; the test split is not read.
        weights: Weights file.
        part: Part of the extraction: the backbone's name, with the shard if there are several.
        backbone: Its name, architecture and weights file, and changes to its preprocessing.
        cuts: Where training begins: "head", a stage's name, or "pixels".
        views: Kinds of views of each image whose values are stored beside its own.
        precision: Number format of the computation, "float32", "bfloat16", "int8" or "auto".
        margin: How much macro F1 "auto" may lose by int8.
        num_threads: Processor threads.
        shard: The shard to extract, from 0 on.
        num_shards: Number of shards, 1 for all images at once; a shard may be empty.
        features: Values at each cut, the pretrained weights, labels and folds, in one file.
    """
    from pathlib import Path

    from crossfold.step.runtime import step

    with step("extract_features", features.path, part) as run:
        from crossfold.extraction.extract_features import extract_features
        from crossfold.network import determinism
        from crossfold.settings import Backbone

        bytes_per_image = extract_features(
            examples=Path(examples.path),
            weights=Path(weights.path),
            backbone=Backbone(**backbone),
            cuts=cuts,
            views=views,
            precision=precision,
            margin=margin,
            num_threads=num_threads,
            shard=shard,
            num_shards=num_shards,
            features=Path(features.path),
        )
        run.log_metrics({f"bytes_at_{cut}": n for cut, n in bytes_per_image.items()})
        run.set_tags(determinism.describe())
