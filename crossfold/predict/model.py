"""Predict images with a registered version."""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import nlargest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.reference import Answer, Reference
from crossfold.imaging import decoding
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.network import GRAPH_FILE, NETWORK_FILE, SETS_FILE
from crossfold.step.concurrency import num_cores

from .file_hashes import ARTIFACTS, TAG, registered_hashes, verify_file

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from crossfold.network.openvino_engine import Classifier
    from crossfold.network.trained_network import Network

# More digits than any version number has; databases limit the size of a number.
_MAX_DIGITS = 9
BATCH_SIZE = 64

Source = TypeVar("Source")
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class Prediction(NamedTuple):
    """The prediction for one image and its version; for an unusable image, the error.

    `answer` is its prediction set, if one was asked for.
    """

    label: str | None
    probabilities: dict[str, float]
    error: str | None
    model: str | None = None
    version: str | None = None
    answer: Answer | None = None

    def most_likely(self, num_classes: int) -> list[tuple[str, float]]:
        """List the most likely classes with their probabilities; the first is the label's."""
        return nlargest(num_classes, self.probabilities.items(), key=lambda item: item[1])


class AskedSets(NamedTuple):
    """Prediction sets that are asked for: those of a version, with this coverage."""

    reference: Reference
    coverage: float


def predict_images(
    network: "Classifier",
    sources: Sequence[Source],
    read: Callable[[Source], bytes],
    batch_size: int = BATCH_SIZE,
    sets: AskedSets | None = None,
) -> Generator[Prediction, None, None]:
    """Predict images in order; an unusable one gets a prediction with its error.

    `read` loads a source's encoded image. While the network predicts one batch, threads decode the
    next; at most these two batches are in memory. A single image is predicted without threads.
    """
    geometry = network.preprocessing.geometry
    if len(sources) == 1:
        yield from _predict_batch(network, [_load(sources[0], read, geometry)], sets)
        return
    remaining = iter(sources)
    decoders = ThreadPoolExecutor(num_cores())

    def decode_ahead() -> "list[Future[Pixels | str]]":
        return [
            decoders.submit(_load, source, read, geometry)
            for source in islice(remaining, batch_size)
        ]

    try:
        batch = decode_ahead()
        while batch:
            loaded = [image.result() for image in batch]
            batch = decode_ahead()
            yield from _predict_batch(network, loaded, sets)
    finally:
        decoders.shutdown(cancel_futures=True)


def _predict_batch(
    network: "Classifier", loaded: "Sequence[Pixels | str]", sets: AskedSets | None
) -> Iterator[Prediction]:
    pixels = [image for image in loaded if not isinstance(image, str)]
    predicted = iter(_predict_pixels(network, np.stack(pixels), sets) if pixels else ())
    for image in loaded:
        if isinstance(image, str):
            yield Prediction(None, {}, image)
        else:
            yield next(predicted)


def _predict_pixels(
    network: "Classifier", pixels: Pixels, sets: AskedSets | None
) -> Iterator[Prediction]:
    features, probabilities = network.predict_with_features(pixels)
    answers: Sequence[Answer | None] = [None] * len(pixels)
    if sets:
        answers = sets.reference.answers(features, probabilities, sets.coverage)
    for of_image, answer in zip(probabilities, answers, strict=True):
        by_class = dict(zip(network.classes, of_image.tolist(), strict=True))
        yield Prediction(network.classes[of_image.argmax()], by_class, None, answer=answer)


def _load(
    source: Source, read: Callable[[Source], bytes], geometry: SquareGeometry
) -> Pixels | str:
    """Decode a source to pixels uint8 [S, S, 3], or to the error's text if it's unusable."""
    try:
        return decoding.square(read(source), geometry)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def load_model(name: str) -> "Classifier":
    """Load a network from the registry by `NAME@ALIAS` or `NAME/VERSION`.

    The name may have the prefix `models:/`, as in `models:/crossfold@champion`.

    Raises:
        UserError: the name has another form, or the model, alias or version doesn't exist.
    """
    from crossfold.tracking import store

    client = store.connect()
    return load_version(find_version(client, name))


def find_version(client: "MlflowClient", name: str) -> "ModelVersion":
    """Look up a version by `NAME@ALIAS` or `NAME/VERSION`, with or without `models:/`.

    Raises:
        UserError: the name has another form, or the model, alias or version doesn't exist.
    """
    from mlflow.exceptions import MlflowException

    model, separator, which = name.removeprefix("models:/").partition("@" if "@" in name else "/")
    if not (model and which) or (separator == "/" and not which.isdecimal()):
        raise UserError(
            f"{name} does not name a registered version: write NAME@ALIAS or NAME/VERSION, such as "
            "crossfold@champion or crossfold/3"
        )
    try:
        if separator == "@":
            return client.get_model_version_by_alias(model, which)
        if len(which) <= _MAX_DIGITS:
            return client.get_model_version(model, which)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    raise UserError(f"{name} is not in the registry: {_list_known(client, model)}")


def load_version(version: "ModelVersion", num_threads: int = 0) -> "Classifier":
    """Load a version's network without executing anything in its files; 0 threads: all cores.

    If the version was registered before files were hashed, its weights are verified and exported
    again.

    Raises:
        UserError: the version's files are missing, modified, or were not registered by Crossfold.
    """
    if not version.tags.keys() & {TAG, "weights_hash"}:
        raise UserError(
            f"{version.name} version {version.version} cannot be loaded: it was not registered by "
            "Crossfold. Remove its aliases in MLflow and run again"
        )
    with tempfile.TemporaryDirectory() as folder:
        if TAG in version.tags:
            return open_network(download(version, GRAPH_FILE, folder), num_threads)
        from crossfold.network.openvino_engine import export

        exported, network = Path(folder) / GRAPH_FILE, download(version, NETWORK_FILE, folder)
        export(network, exported)
        return open_network(exported, num_threads)


def has_sets(version: "ModelVersion") -> bool:
    """Tell whether a version has what prediction sets are told from."""
    return f"{ARTIFACTS}/{SETS_FILE}" in (registered_hashes(version.tags) or {})


def load_reference(version: "ModelVersion") -> Reference:
    """Load what a version's prediction sets are told from.

    Raises:
        UserError: the version has no such file, or it is missing or modified.
    """
    if not has_sets(version):
        raise without_sets(version.name, str(version.version))
    with tempfile.TemporaryDirectory() as folder:
        return Reference.read(download(version, SETS_FILE, folder))


def without_sets(name: str, version: str) -> UserError:
    """Build the error for a version that was registered before there were prediction sets."""
    return UserError(
        f"{name} version {version} has no prediction sets: an earlier Crossfold registered it. "
        "Predict without a coverage, or train a new version with `crossfold run`"
    )


def load_network(version: "ModelVersion") -> "Network":
    """Load a version's network in torch, which gives gradients; takes seconds longer.

    Nothing in its files is executed.

    Raises:
        UserError: the version's files are missing, modified, or were not registered by Crossfold.
    """
    from crossfold.network.trained_network import Network

    with tempfile.TemporaryDirectory() as folder:
        return Network(download(version, NETWORK_FILE, folder))


def open_network(path: Path, num_threads: int = 0) -> "Classifier":
    """Open a version's verified network file without executing anything in it.

    0 threads: all cores.

    Raises:
        UserError: the engine cannot compute the network on this machine.
    """
    from crossfold.network.openvino_engine import ENGINE, Classifier

    try:
        return Classifier(path, num_threads)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{ENGINE} cannot compute {path.name} on this machine: {reason}. The file is intact"
        ) from error


def download(version: "ModelVersion", name: str, folder: str) -> Path:
    """Download a version's file into a folder, and verify it.

    Raises:
        UserError: the file is missing, or is not the one that was registered.
    """
    path = download_path(version, f"{ARTIFACTS}/{name}", folder)
    if registered := _registered_hash(version.tags, name):
        verify_file(path, registered, f"{version.name} version {version.version}")
    return path


def download_path(version: "ModelVersion", path: str, folder: str) -> Path:
    """Download a file or a folder of a version into a folder, unverified; "" for all files.

    Raises:
        UserError: it is missing.
        MlflowException: the server does not answer.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from crossfold.tracking.store import lost_server

    uri = os.environ["MLFLOW_TRACKING_URI"]
    source = f"models:/{version.name}/{version.version}/{path}"
    try:
        return Path(download_artifacts(source, dst_path=folder, tracking_uri=uri, registry_uri=uri))
    except (MlflowException, OSError) as error:
        if lost_server(error):
            raise
        raise UserError(
            f"{version.name} version {version.version} cannot be loaded from {version.source}: "
            f"{error}. Its files are gone, or it was not registered by Crossfold: remove its "
            "aliases in MLflow and run again."
        ) from error


def _registered_hash(tags: dict[str, str], name: str) -> str | None:
    """Look up a file's SHA-256 in a version's tags.

    Versions registered before files were hashed have only the hash of their weights.
    """
    if hashes := registered_hashes(tags):
        return hashes[f"{ARTIFACTS}/{name}"]
    return tags.get("weights_hash") if name == NETWORK_FILE else None


def _list_known(client: "MlflowClient", model: str) -> str:
    # MLflow's filters can't contain an apostrophe, and Crossfold's model names never do.
    versions = [] if "'" in model else client.search_model_versions(f"name='{model}'")
    if versions:
        aliases = client.get_registered_model(model).aliases
        known = ", ".join(f"{alias} (version {number})" for alias, number in aliases.items())
        numbers = ", ".join(str(version.version) for version in reversed(versions))
        return f"{model} has the versions {numbers} and the aliases {known or 'none'}"
    names = ", ".join(registered.name for registered in client.search_registered_models())
    return f"it holds {names}" if names else "it is empty; `crossfold run` registers a model"
