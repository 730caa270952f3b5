"""Predicting images with a registered model."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from crossfold import images
from crossfold.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from crossfold.classifier import Classifier

# Where a version holds its network, and what was exported of it; `packaging` puts them there.
NETWORK_FILE = "network.safetensors"
GRAPH_FILE = "graph.safetensors"
# The tag that says what exported it; the first versions were registered without.
EXPORTED = "exported_by"
BATCH_SIZE = 64

Source = TypeVar("Source")


class Prediction(NamedTuple):
    """What one image was taken for; of an image that cannot be used, only why."""

    label: str | None
    probabilities: dict[str, float]
    error: str | None


class Row(NamedTuple):
    """The prediction of one file; `probability` is the label's."""

    path: Path
    label: str | None
    probability: float | None
    error: str | None


def predict_files(paths: Sequence[Path], network: "Classifier") -> Iterator[Row]:
    """Predict image files in order; one that cannot be read is a row with its error."""
    predictions = predict_images(network, paths, Path.read_bytes)
    for path, (label, probabilities, error) in zip(paths, predictions, strict=True):
        yield Row(path, label, None if label is None else probabilities[label], error)


def predict_images(
    network: "Classifier", sources: Sequence[Source], read: Callable[[Source], bytes]
) -> Iterator[Prediction]:
    """Predict images in order, BATCH_SIZE at a time; `read` gives a source's encoded image."""
    remaining = iter(sources)
    while batch := list(islice(remaining, BATCH_SIZE)):
        loaded = [_load(source, read, network.image_size) for source in batch]
        pixels = [image for image in loaded if not isinstance(image, str)]
        predicted = iter(network.predict(np.stack(pixels)) if pixels else ())
        for image in loaded:
            if isinstance(image, str):
                yield Prediction(None, {}, image)
            else:
                probabilities = next(predicted)
                by_class = dict(zip(network.classes, probabilities.tolist(), strict=True))
                yield Prediction(network.classes[probabilities.argmax()], by_class, None)


def _load(
    source: Source, read: Callable[[Source], bytes], size: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | str:
    """Return pixels uint8 [size, size, 3], or why there are none."""
    try:
        return images.to_square(images.decode(read(source)), size)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def load_model(name: str) -> "Classifier":
    """Load a network from the registry: `crossfold@champion`, `crossfold/3`, or with `models:/`.

    Raises:
        UserError: the name is not of this form, or there is no such model, alias or version.
    """
    from crossfold import tracking

    client = tracking.connect()
    return load_version(find_version(client, name))


def find_version(client: "MlflowClient", name: str) -> "ModelVersion":
    """Look up `NAME@ALIAS` or `NAME/VERSION`; raises UserError when it is not there."""
    from mlflow.exceptions import MlflowException

    model, separator, which = name.removeprefix("models:/").partition("@" if "@" in name else "/")
    if not (model and which) or (separator == "/" and not which.isdigit()):
        raise UserError(
            f"{name} names no registered model: write NAME@ALIAS or NAME/VERSION, such as "
            "crossfold@champion or crossfold/3"
        )
    try:
        if separator == "@":
            return client.get_model_version_by_alias(model, which)
        return client.get_model_version(model, which)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    raise UserError(f"{name} is not in the registry: {_what_there_is(client, model)}")


def load_version(version: "ModelVersion", num_threads: int = 0) -> "Classifier":
    """Load the network of a version; nothing in its files is executed. 0 threads: all cores.

    Raises:
        UserError: the version's files are gone, or were not made by Crossfold.
    """
    from crossfold.classifier import Classifier, export

    with tempfile.TemporaryDirectory() as folder:
        if EXPORTED in version.tags:
            return Classifier(_download(version, GRAPH_FILE, folder), num_threads)
        exported = Path(folder) / GRAPH_FILE
        export(_download(version, NETWORK_FILE, folder), exported)
        return Classifier(exported, num_threads)


def _download(version: "ModelVersion", name: str, folder: str) -> Path:
    import os

    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = os.environ["MLFLOW_TRACKING_URI"]
    source = f"models:/{version.name}/{version.version}/artifacts/{name}"
    try:
        path = download_artifacts(source, dst_path=folder, tracking_uri=uri, registry_uri=uri)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{version.name} version {version.version} cannot be loaded from {version.source}: "
            f"{error}. Its files are gone, or it was not registered by Crossfold: remove its "
            "aliases in MLflow and run again."
        ) from error
    return Path(path)


def _what_there_is(client: "MlflowClient", model: str) -> str:
    versions = client.search_model_versions(f"name='{model}'")
    if versions:
        aliases = client.get_registered_model(model).aliases
        known = ", ".join(f"{alias} (version {number})" for alias, number in aliases.items())
        numbers = ", ".join(str(version.version) for version in reversed(versions))
        return f"{model} has the versions {numbers} and the aliases {known or 'none'}"
    names = ", ".join(found.name for found in client.search_registered_models())
    return f"it holds {names}" if names else "it is empty; `crossfold run` registers a model"
