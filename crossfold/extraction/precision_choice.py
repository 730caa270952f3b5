"""Choose the precision of a frozen prefix: quantize it, and compare it with float32."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import openvino
from torch import fx, nn

from crossfold.data.examples import TRAIN, Examples
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import cutting, openvino_engine, processor
from crossfold.network.normalization import from_pixels
from crossfold.network.quantization import NUM_IMAGES, Images, quantize
from crossfold.records import ChosenPrecision, PrecisionComparison
from crossfold.settings import AUTO, FLOAT32, HEAD, INT8

from . import precision_comparison


class Choice(NamedTuple):
    """The chosen precision, and in int8 the quantized prefix with an output for each cut."""

    chosen: ChosenPrecision
    quantized: openvino.Model | None


def choose_precision(
    asked: str,
    margin: float,
    *,
    traced: fx.GraphModule,
    how: Preprocessing,
    stages: Sequence[str],
    table: Examples,
    num_threads: int,
) -> Choice:
    """Quantize a network's prefix, compare the head's input with float32, and choose.

    Calibration and comparison take images of the whole table, so that every shard chooses alike.

    Args:
        asked: "int8", or "auto" for the faster one that is shown to be good enough.
        margin: how much macro F1 "auto" may lose by int8.
        traced: the network.
        how: its preprocessing.
        stages: where the prefix ends, not at the pixels.
        table: the whole table of images.
        num_threads: processor threads.

    Raises:
        UserError: int8 is asked for, and the processor has no instructions for it.
    """
    if not processor.has_int8():
        if asked == INT8:
            raise UserError(
                f"params.yaml model.precision: int8: {processor.WITHOUT_INT8}. Set it to auto or "
                "float32"
            )
        return Choice(ChosenPrecision(precision=FLOAT32, reason=processor.WITHOUT_INT8), None)
    # The head always, since it is compared.
    cuts = list(dict.fromkeys([*stages, HEAD]))
    prefix = openvino_engine.convert(
        cutting.prefix(traced, cuts), (3, how.image_size, how.image_size)
    )
    openvino_engine.name_outputs(prefix, cuts)
    quantized = quantize(prefix, _images(table, NUM_IMAGES, how, num_threads), num_threads)
    compared = _compare(prefix, quantized, how, table, num_threads)
    chosen = decide(asked, margin, compared)
    logging.info("%s: %s", chosen.precision, chosen.reason)
    if chosen.precision == FLOAT32:
        return Choice(chosen, None)
    return Choice(chosen, openvino_engine.with_outputs(quantized, stages))


def decide(asked: str, margin: float, compared: PrecisionComparison) -> ChosenPrecision:
    """Choose by the lower limit of the difference, unless int8 is asked for."""
    low, _ = compared.interval
    if asked != AUTO:
        precision, reason = INT8, f"model.precision is {asked}"
    elif low >= -margin:
        precision = INT8
        reason = f"at most {max(-low, 0):.4f} of macro F1 is lost, within the margin of {margin:g}"
    else:
        precision = FLOAT32
        reason = (
            f"up to {-low:.4f} of macro F1 may be lost by int8, more than the margin of {margin:g}"
        )
    return ChosenPrecision(precision=precision, reason=reason, comparison=compared)


def _compare(
    prefix: openvino.Model,
    quantized: openvino.Model,
    how: Preprocessing,
    table: Examples,
    num_threads: int,
) -> PrecisionComparison:
    positions = table.sample(TRAIN, precision_comparison.num_compared(table.count(TRAIN)))
    labels, folds = (table.column(name, TRAIN)[positions] for name in ("label", "fold"))
    float32, int8 = precision_comparison.heads_inputs(
        [
            (openvino_engine.with_outputs(prefix, [HEAD]), FLOAT32),
            (openvino_engine.with_outputs(quantized, [HEAD]), INT8),
        ],
        _images(table, len(positions), how, num_threads),
        num_threads,
    )
    return precision_comparison.compare(
        float32, int8, labels.astype(np.int64), folds.astype(np.int64), len(table.classes)
    )


def _images(table: Examples, number: int, how: Preprocessing, num_threads: int) -> Iterator[Images]:
    """Yield normalized images [B, 3, S, S], spread over those outside the test split."""
    normalization = openvino_engine.compiled(
        openvino_engine.from_torch(from_pixels(nn.Identity(), how), how.image_size),
        FLOAT32,
        num_threads,
    )
    for pixels in table.sampled_batches(TRAIN, number, how, num_threads):
        yield normalization(pixels)[0]
