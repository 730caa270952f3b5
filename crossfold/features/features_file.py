"""The file of features: what training reads, of every backbone.

One safetensors file with rows for the images outside the test split, in the order of the table of
examples: `label` and `fold`, int64 [N]; for each backbone the float32 values at each of its cuts,
`<backbone>/<cut>` [N, V, …], of the image itself and then of its other views, and
`<backbone>/milliseconds`, float32 [N], the time that the values of one view took. The uint8 pixels,
[N, S, S, 3], are stored once for all backbones that take the same ones.
`<backbone>/weights/<tensor>` are the backbone's pretrained weights. In int8,
`<backbone>/graph/xml` and `<backbone>/graph/weights`, uint8, are the quantized graph of its prefix,
with an output for each cut. The metadata are `StoredFeatures`.
"""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from torch import nn

from crossfold.errors import UserError
from crossfold.network import openvino_engine, safetensors_file
from crossfold.network.backbone import build_network
from crossfold.network.openvino_engine import FrozenGraph
from crossfold.network.safetensors_file import Array
from crossfold.records import BackboneFacts, StoredFeatures
from crossfold.settings import HEAD, PIXELS
from crossfold.step.progress import report_progress

LABEL, FOLD = "label", "fold"
GRAPH_XML, GRAPH_WEIGHTS = "xml", "weights"
MILLISECONDS = "milliseconds"


def array_name(backbone: BackboneFacts, values: str) -> str:
    """Name a backbone's array; the pixels are named by all that they depend on."""
    if values != PIXELS:
        return f"{backbone.name}/{values}"
    how = backbone.preprocessing
    return f"{PIXELS}/{how.image_size} {how.interpolation} {how.crop}"


def weights_name(backbone: BackboneFacts, tensor: str) -> str:
    """Name the array of one of a backbone's pretrained tensors; "" gives their common prefix."""
    return f"{backbone.name}/weights/{tensor}"


def graph_name(backbone: BackboneFacts, part: str) -> str:
    """Name an array of a backbone's quantized graph; "" gives their common prefix."""
    return f"{backbone.name}/graph/{part}"


class Features:
    """A file of features, mapped into memory.

    Attributes:
        classes: the names of the classes.
        labels: int64 [N].
        folds: int64 [N].
        backbones: the backbones, with the time that each took.

    Raises:
        UserError: the file is damaged, or another program wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._arrays, about = _read(path)
        self.classes = about.classes
        self.labels = np.array(self._arrays[LABEL])
        self.folds = np.array(self._arrays[FOLD])
        self.backbones = tuple(
            facts.model_copy(update={"milliseconds": self._milliseconds(facts)})
            for facts in about.backbones
        )

    def _milliseconds(self, backbone: BackboneFacts) -> float | None:
        taken = self._arrays.get(array_name(backbone, MILLISECONDS))
        return None if taken is None else float(np.median(taken))

    def backbone(self, name: str | None) -> BackboneFacts:
        """Look up a backbone by its name; without one, it is the only one."""
        return next(facts for facts in self.backbones if name in (None, facts.name))

    def values(self, backbone: BackboneFacts, cut: str) -> Array:
        """Get the values at a backbone's cut, [N, V, …], mapped from the file.

        The first of the V views is the image itself, and pixels have no other: V is 1.
        """
        values = self._arrays[array_name(backbone, cut)]
        return values[:, np.newaxis] if cut == PIXELS else values

    def head_inputs(self, backbone: BackboneFacts) -> Array | None:
        """Get the input of a backbone's head [N, C], as a mean over positions.

        None if no candidate trains that head alone.
        """
        if array_name(backbone, HEAD) not in self._arrays:
            return None
        values = self.values(backbone, HEAD)[:, 0]
        means: Array = values.reshape(*values.shape[:2], -1).mean(axis=2)
        return means

    def graph(self, backbone: BackboneFacts, cut: str) -> FrozenGraph | None:
        """Read a backbone's quantized graph up to a cut; None if its values are not in int8."""
        xml, weights = (
            self._arrays.get(graph_name(backbone, part)) for part in (GRAPH_XML, GRAPH_WEIGHTS)
        )
        if xml is None or weights is None or cut == PIXELS:
            return None
        model = openvino_engine.deserialize(xml.tobytes(), weights)
        return FrozenGraph(openvino_engine.with_outputs(model, [cut]), cut)

    def network(self, backbone: BackboneFacts, seed: int) -> nn.Module:
        """Build a backbone's network with its pretrained weights, and a new head from `seed`."""
        network = build_network(backbone.architecture, len(self.classes), seed)
        for name, tensor in network.state_dict().items():
            if (stored := self._arrays.get(weights_name(backbone, name))) is not None:
                tensor.numpy()[...] = stored  # straight from the file: weights may be gigabytes
        return network


def create(
    path: Path,
    rows: Mapping[str, Array],
    num_images: int,
    weights: Mapping[str, Array],
    about: StoredFeatures,
) -> dict[str, Array]:
    """Lay out a file of features, write its weights, and return its arrays to be filled.

    `rows` has the name of each array and at least one of its rows.

    Raises:
        UserError: the disk is too small; nothing is written then.
    """
    _require_space(rows, num_images, weights, path.parent)
    arrays = safetensors_file.create(
        path,
        {name: (array.dtype.type, (num_images, *array.shape[1:])) for name, array in rows.items()}
        | {name: (stored.dtype.type, stored.shape) for name, stored in weights.items()},
        about.model_dump(),
    )
    for name, stored in weights.items():
        arrays[name][:] = stored
    return arrays


def _read(path: Path) -> tuple[dict[str, Array], StoredFeatures]:
    arrays, metadata = safetensors_file.read(path)
    try:
        about = StoredFeatures.model_validate(metadata)
    except ValidationError:
        raise safetensors_file.unreadable(path, "its metadata are not those of features") from None
    if missing := [name for name in (LABEL, FOLD) if name not in arrays]:
        raise safetensors_file.unreadable(path, f"it has no array {missing[0]}")
    return arrays, about


def bytes_of_row(array: Array) -> int:
    """Count the bytes that one image takes in an array."""
    size: int = math.prod(array.shape[1:]) * array.itemsize
    return size


def _require_space(
    rows: Mapping[str, Array], num_images: int, weights: Mapping[str, Array], folder: Path
) -> None:
    sizes = {name: bytes_of_row(array) for name, array in rows.items()}
    needed = num_images * sum(sizes.values()) + sum(stored.nbytes for stored in weights.values())
    free = shutil.disk_usage(folder).free
    shares = ", ".join(
        f"{sizes[name]:,} bytes at {name}" for name, array in rows.items() if array.ndim > 1
    )
    logging.info("features take %s bytes for %d images: %s", f"{needed:,}", num_images, shares)
    if needed > free:
        raise UserError(
            f"the features of {num_images} images need {needed / 1e9:.1f} GB and {folder} has "
            f"{free / 1e9:.1f} GB free; one image takes {shares}. Free some space, drop the "
            f"candidate that trains from the largest, use fewer augmentation.views, or lower "
            f"model.image_size in params.yaml."
        )


def join_features(*, parts: Sequence[Path], features: Path) -> None:
    """Merge the features of several backbones and shards, in any order, into one file.

    A backbone's arrays are equal to those of an extraction in one step.

    Raises:
        UserError: the disk is too small; nothing is written then.
    """
    shards: dict[str, dict[int, Array]] = {}
    weights: dict[str, Array] = {}
    backbones: dict[str, BackboneFacts] = {}
    for path in parts:
        arrays, about = _read(path)
        (backbone,) = about.backbones
        _require_same_precision(backbones.setdefault(backbone.name, backbone), backbone)
        for name, array in arrays.items():  # equal arrays of several backbones have one name
            if name.startswith((weights_name(backbone, ""), graph_name(backbone, ""))):
                weights[name] = array
            else:
                shards.setdefault(name, {})[about.shard] = array
    in_order = tuple(found for _, found in sorted(backbones.items()))
    joined = create(
        features,
        {name: of_shards[0] for name, of_shards in sorted(shards.items())},
        sum(len(labels) for labels in shards[LABEL].values()),
        dict(sorted(weights.items())),
        about.model_copy(update={"shard": 0, "backbones": in_order}),
    )
    for number, (name, of_shards) in enumerate(shards.items(), 1):
        done = 0
        for _, array in sorted(of_shards.items()):
            joined[name][done : done + len(array)] = array
            done += len(array)
        report_progress(number, len(shards), "arrays")


def _require_same_precision(one: BackboneFacts, other: BackboneFacts) -> None:
    """Refuse shards of one backbone that processors of different kinds computed differently."""
    ours, theirs = one.precision, other.precision
    if ours and theirs and ours.precision != theirs.precision:
        raise UserError(
            f"the shards of {one.name} were computed in {ours.precision} ({ours.reason}) and in "
            f"{theirs.precision} ({theirs.reason}). Set model.precision to float32, or "
            "extraction.shards to 1"
        )
