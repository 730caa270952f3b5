"""Extract features: run the frozen prefix once over every image and store the output."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino
from torch import nn

from crossfold.data.examples import TRAIN, Examples, Pixels
from crossfold.errors import UserError
from crossfold.features import features_file
from crossfold.features.features_file import (
    FOLD,
    GRAPH_WEIGHTS,
    GRAPH_XML,
    LABEL,
    MILLISECONDS,
    array_name,
    graph_name,
    weights_name,
)
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import cutting, determinism, openvino_engine
from crossfold.network.normalization import from_pixels
from crossfold.network.safetensors_file import Array
from crossfold.network.views import with_views
from crossfold.records import BackboneFacts, StoredFeatures
from crossfold.settings import AUTO, INT8, PIXELS, Backbone
from crossfold.step.progress import report_progress
from crossfold.weights.preprocessing import find_preprocessing
from crossfold.weights.pretrained_network import pretrained_network, pretrained_tensors

from .network_check import try_image_size


def extract_features(
    *,
    examples: Path,
    weights: Path,
    backbone: Backbone,
    cuts: Sequence[str],
    precision: str,
    margin: float,
    num_threads: int,
    features: Path,
    views: Sequence[str] = (),
    shard: int = 0,
    num_shards: int = 1,
) -> dict[str, int]:
    """Run the frozen prefix over every image outside the test split, or over one shard.

    Writes one file, see `features_file`. Batch normalization stays in evaluation mode: a frozen
    prefix is a fixed function. The file has float32, whatever the precision of the computation.

    Args:
        examples: the table of images.
        weights: the backbone's weights file.
        backbone: the backbone's settings.
        cuts: where training begins: "head", a stage's name, or "pixels".
        precision: number format of the computation, "float32", "bfloat16", "int8" or "auto".
        margin: how much macro F1 "auto" may lose by int8.
        num_threads: processor threads.
        features: the file to write.
        views: the views of each image whose values are stored beside its own.
        shard: the shard of the table.
        num_shards: the number of shards.

    Returns:
        The size of one image, with its views, at each cut, in bytes.

    Raises:
        UserError: architecture, weights, cuts and image size do not fit each other, the arrays do
            not fit on the disk, or the processor has no instructions for int8; nothing is written
            then.
    """
    determinism.prepare(num_threads)
    table = Examples(examples, shard, num_shards)
    network = pretrained_network(backbone.architecture, weights, len(table.classes), seed=0)
    how = find_preprocessing(backbone.architecture, weights, backbone)
    try_image_size(network, backbone.architecture, how)
    _require_squares(table, backbone, how)
    facts = _facts(backbone, how, network)
    stages = [cut for cut in cuts if cut != PIXELS]
    traced = cutting.trace(network)
    prefix, quantized = cutting.prefix(traced, stages) if stages else None, None
    if prefix and precision in (INT8, AUTO):
        from .precision_choice import choose_precision  # imports what only this needs

        chosen, quantized = choose_precision(
            precision,
            margin,
            traced=traced,
            how=how,
            stages=stages,
            table=Examples(examples),
            num_threads=num_threads,
        )
        facts, precision = facts.model_copy(update={"precision": chosen}), chosen.precision
    values_at_cuts = _computation(prefix, quantized, how, cuts, views, precision, num_threads)
    black = np.zeros((1, how.image_size, how.image_size, 3), np.uint8)
    sample = {array_name(facts, name): one for name, one in values_at_cuts(black).items()}
    labels, folds = (table.column(name, TRAIN).astype(np.int64) for name in (LABEL, FOLD))
    arrays = features_file.create(
        features,
        {LABEL: labels, FOLD: folds, **sample},
        len(labels),
        # Once for all shards.
        _weights(facts, network) | _graph(facts, quantized) if shard == 0 else {},
        StoredFeatures(classes=table.classes, shard=shard, backbones=(facts,)),
    )
    arrays[LABEL][:], arrays[FOLD][:] = labels, folds
    done = 0
    for _, pixels, _ in table.decoded_batches(TRAIN, how, num_threads):
        for name, values in values_at_cuts(pixels).items():
            arrays[array_name(facts, name)][done : done + len(values)] = values
        done += len(pixels)
        report_progress(done, len(labels), "images")
    return {cut: features_file.bytes_of_row(arrays[array_name(facts, cut)]) for cut in cuts}


def _require_squares(table: Examples, backbone: Backbone, how: Preprocessing) -> None:
    """Refuse a table without the backbone's squares: training images have no files there."""
    if table.geometries and how.geometry not in table.geometries:
        written = "; ".join(map(str, table.geometries))
        raise UserError(
            f"{backbone.name} takes squares of {how.geometry}, as config.json beside its weights "
            f"says, and fetch_data wrote {written}. The machine that started the run did not have "
            "the weights. Run `dvc pull models.dvc` there and start again, or set image_size, "
            f"interpolation and crop of model {backbone.weights} in params.yaml"
        )


def _facts(backbone: Backbone, how: Preprocessing, network: nn.Module) -> BackboneFacts:
    return BackboneFacts(
        name=backbone.name,
        architecture=backbone.architecture,
        weights=backbone.weights,
        preprocessing=how,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_bytes=sum(tensor.nbytes for tensor in network.state_dict().values()),
    )


def _weights(facts: BackboneFacts, network: nn.Module) -> dict[str, Array]:
    tensors = pretrained_tensors(network)
    return {weights_name(facts, name): tensor.numpy() for name, tensor in tensors.items()}


def _graph(facts: BackboneFacts, quantized: openvino.Model | None) -> dict[str, Array]:
    if quantized is None:
        return {}
    xml, weights = openvino_engine.serialize(quantized)
    return {
        graph_name(facts, GRAPH_XML): np.frombuffer(xml, np.uint8),
        graph_name(facts, GRAPH_WEIGHTS): weights,
    }


def _computation(
    prefix: nn.Module | None,
    quantized: openvino.Model | None,
    how: Preprocessing,
    cuts: Sequence[str],
    views: Sequence[str],
    precision: str,
    num_threads: int,
) -> Callable[[Pixels], dict[str, Array]]:
    """Build the function from uint8 pixels [B, S, S, 3] to the values at the cuts, [B, V, …].

    The pixels are returned as they are. With the values come the milliseconds of all processors
    together that one view of an image took, float32 [B]: other steps at the same time hardly
    change them.
    """
    if prefix is None:
        return lambda pixels: {PIXELS: pixels}
    before_cuts = nn.Identity() if quantized else prefix
    graph = openvino_engine.from_torch(
        from_pixels(with_views(before_cuts, views), how), how.image_size
    )
    if quantized:
        graph = openvino_engine.chain(graph, quantized)
    compute_values = openvino_engine.compiled(graph, precision, num_threads)
    stages = [cut for cut in cuts if cut != PIXELS]
    num_views = 1 + len(views)

    def values_at_cuts(pixels: Pixels) -> dict[str, Array]:
        started = time.process_time()
        values: dict[str, Array] = {
            stage: found.reshape(len(pixels), num_views, *found.shape[1:])
            for stage, found in zip(stages, compute_values(pixels), strict=True)
        }
        taken = 1000 * (time.process_time() - started) / (len(pixels) * num_views)
        if PIXELS in cuts:
            values[PIXELS] = pixels
        return values | {MILLISECONDS: np.full(len(pixels), taken, np.float32)}

    return values_at_cuts
