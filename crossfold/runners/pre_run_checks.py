"""Check a project before a run: its data and models against DVC, and its weights and network."""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from crossfold.data.layouts.layout import find_misnamed
from crossfold.data.models_folder import copy_weights, find_weights
from crossfold.data.samples import sample
from crossfold.errors import UserError
from crossfold.records import CheckedNetwork
from crossfold.settings import PIXELS, Backbone, Settings
from crossfold.versioning import dvc

from . import checked_networks
from .failures import StepError

if TYPE_CHECKING:
    from crossfold.imaging.preprocessing import Preprocessing, SquareGeometry


@dataclass(frozen=True)
class CheckedModel:
    """Backbones that fit the settings.

    Attributes:
        notes: lines for the user about the weights and the cost of views.
        preprocessing: of each backbone, by its name.
        num_bytes_stored: of one image by all backbones, see `CheckedNetwork`.
    """

    notes: tuple[str, ...]
    preprocessing: "Mapping[str, Preprocessing]"
    num_bytes_stored: int

    @property
    def geometries(self) -> "list[SquareGeometry]":
        """The geometry of each backbone's square."""
        return [how.geometry for how in self.preprocessing.values()]


def check_pointers(root: Path) -> None:
    """Check that data/ and models/ are as their DVC pointers describe them.

    Raises:
        UserError: a pointer is missing, or a folder has changed since `dvc add`.
    """
    for name in dvc.FOLDERS:
        dvc.read_pointer(root, name)
    try:
        changed = dvc.changed_since_add(root)
    except UnicodeEncodeError:
        errors = filter(None, (find_misnamed(root / name) for name in dvc.FOLDERS))
        raise UserError("\n\n".join(map(str, errors))) from None
    if changed:
        raise UserError(
            f"{' and '.join(changed)} changed since `dvc add`: run `dvc add {' '.join(changed)}` "
            f"to use the files as they are, or `dvc checkout` to return to those that were added"
        )


def check_signing_key() -> None:
    """Check the private key that signs new versions, if CROSSFOLD_SIGNING_KEY names one.

    Raises:
        UserError: it cannot be used.
    """
    if "CROSSFOLD_SIGNING_KEY" in os.environ:
        from crossfold.predict.signatures import new_versions_key

        new_versions_key()


def check_model(root: Path, settings: Settings) -> CheckedModel:
    """Check that the model settings are consistent and fit the files that models.dvc describes.

    This machine cannot check files that exist only in a distant remote; the steps do.

    Raises:
        UserError: no weights have that name; or weights, candidates or image size do not fit
            the architecture.
    """
    data_hash = dvc.pointer_hash(dvc.read_pointer(root, "data"))
    files = dvc.known_files(root, "models", settings.data.remote)
    notes, preprocessing, num_bytes_stored = [], {}, 0
    for backbone in settings.backbones:
        with _named(backbone, settings):
            weights = _find_weights(root, settings.data.remote, backbone.weights, files)
            checked = _check_once(root, backbone, weights, settings.cuts(backbone))
        preprocessing[backbone.name] = checked.preprocessing
        num_bytes_stored += checked.num_bytes_stored
        if checked.source:
            notes.append(f"{_prefix(backbone, settings)}model.weights: taken from {checked.source}")
    warnings = [
        sample.weights_warning(data_hash, backbone.weights) for backbone in settings.backbones
    ]
    if all(warnings):  # beside other weights, they are there for comparison
        notes.append(warnings[0])
    return CheckedModel((*notes, *_cost_of_views(settings)), preprocessing, num_bytes_stored)


def _cost_of_views(settings: Settings) -> Iterator[str]:
    """State what views cost, before it is paid."""
    augmentation = settings.augmentation
    times = 1 + len(augmentation.views)
    from_features = any(candidate.train_from != PIXELS for candidate in settings.compared)
    if augmentation.views and from_features:
        yield f"augmentation.views: extract_features takes {times} times the time and the disk"
    if augmentation.test_time:
        yield f"augmentation.test_time: each prediction takes {times} times the time"


def recall_preprocessing(
    root: Path, settings: Settings, backbone: Backbone
) -> "Preprocessing | None":
    """Look up the preprocessing that the last check of a backbone found; None without a check."""
    try:
        files = dvc.known_files(root, "models", settings.data.remote)
        weights = _find_weights(root, settings.data.remote, backbone.weights, files)
    except UserError:  # such a network has not passed a check
        return None
    entry = checked_networks.entry(root, backbone, settings.cuts(backbone), weights)
    checked = CheckedNetwork.recall(entry)
    return checked.preprocessing if checked else None


def _find_weights(
    root: Path, remote: str, name: str, files: Mapping[str, str] | None
) -> dict[str, Path]:
    """Find the weights' one or two files by their MD5; empty if they are not on this machine."""
    if files is None:
        return {}
    names = find_weights(name, files)
    found = {}
    for file in filter(None, (names.tensors, names.config)):
        path = dvc.find_object(root, files[file], remote)
        if path is None:
            return {}
        found[files[file]] = path
    return found


def _check_once(
    root: Path, backbone: Backbone, weights: Mapping[str, Path], cuts: list[str]
) -> CheckedNetwork:
    """Check a network, unless it passed the same check before."""
    entry = checked_networks.entry(root, backbone, cuts, weights)
    checked = CheckedNetwork.recall(entry)
    if checked is None:
        with tempfile.TemporaryDirectory(prefix="crossfold-") as scratch:
            path = _as_one_file(list(weights.values()), Path(scratch))
            checked = _check_network(backbone, path, cuts)
        checked.remember(entry)
    return checked


def _as_one_file(weights: list[Path], scratch: Path) -> Path | None:
    """Give weights as fetch_weights does; None without any."""
    if len(weights) < 2:
        return weights[0] if weights else None
    tensors, config = weights
    copy_weights(tensors, config, scratch / "weights")
    return scratch / "weights"


@contextmanager
def _named(backbone: Backbone, settings: Settings) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{_prefix(backbone, settings)}{error}") from None


def _prefix(backbone: Backbone, settings: Settings) -> str:
    """Name the backbone at the start of a message, if there are several."""
    return f"backbone {backbone.name}: " if len(settings.backbones) > 1 else ""


def _check_network(backbone: Backbone, weights: Path | None, cuts: list[str]) -> CheckedNetwork:
    """Run `network_check.check_network` in a process, since torch takes seconds to import.

    If steps are forked from a server (see `fork_server`), that server has imported torch.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, backbone, weights, cuts))
    with ours:
        process.start()
        theirs.close()
        try:
            answer: CheckedNetwork | UserError = ours.recv()
        except EOFError:
            raise StepError("the process that checks the network died without an answer") from None
    process.join()
    if isinstance(answer, UserError):
        raise answer
    return answer


def _answer(
    connection: Connection, backbone: Backbone, weights: Path | None, cuts: list[str]
) -> None:
    from crossfold.extraction import network_check

    answer: CheckedNetwork | UserError
    try:
        answer = network_check.check_network(backbone, weights, cuts)
    except UserError as error:
        answer = error
    with suppress(BrokenPipeError):  # a signal has ended the command in the meantime
        connection.send(answer)
