"""Check a project before a run: its data and models against DVC, and its weights and network."""

import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from crossfold.data import dvc, sample
from crossfold.data.layout import find_misnamed
from crossfold.data.weights import copy_weights, find_weights
from crossfold.errors import UserError
from crossfold.settings import PreprocessingSettings, Settings

from .failures import StepError


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


def check_model(root: Path, settings: Settings) -> tuple[str, ...]:
    """Check that the model settings are consistent and fit the files that models.dvc describes.

    This machine cannot check files that exist only in a distant remote; the steps do.

    Returns:
        Notes about the weights for the user, one line each.

    Raises:
        UserError: no weights have that name; or weights, candidates or image size do not fit
            the architecture.
    """
    with tempfile.TemporaryDirectory(prefix="crossfold-") as scratch:
        source = _check_network(settings, _find_weights(root, settings, Path(scratch)))
    notes = [f"model.weights: taken from {source}"] if source else []
    data_hash = dvc.pointer_hash(dvc.read_pointer(root, "data"))
    if warning := sample.weights_warning(data_hash, settings.model.weights):
        notes.append(warning)
    return tuple(notes)


def _find_weights(root: Path, settings: Settings, scratch: Path) -> Path | None:
    """Find the weights as one file, as fetch_data gives them; None if not on this machine."""
    remote = settings.data.remote
    files = dvc.known_files(root, "models", remote)
    if files is None:
        return None
    names = find_weights(settings.model.weights, files)
    tensors = dvc.find_object(root, files[names.tensors], remote)
    if tensors is None or names.config is None:
        return tensors
    config = dvc.find_object(root, files[names.config], remote)
    if config is None:
        return None
    copy_weights(tensors, config, scratch / "weights")
    return scratch / "weights"


def _check_network(settings: Settings, weights: Path | None) -> str:
    """Run `features.check_network` in a process, since torch takes seconds to import.

    If steps are forked from a server (see `fork_server`), that server has imported torch.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    model = settings.model
    process = context.Process(
        target=_answer, args=(theirs, model.architecture, weights, settings.cuts, model)
    )
    with ours:
        process.start()
        theirs.close()
        try:
            answer: str | UserError = ours.recv()
        except EOFError:
            raise StepError("the process that checks the network died without an answer") from None
    process.join()
    if isinstance(answer, UserError):
        raise answer
    return answer


def _answer(
    connection: Connection,
    architecture: str,
    weights: Path | None,
    cuts: list[str],
    preprocessing: PreprocessingSettings,
) -> None:
    from crossfold.network import features

    try:
        connection.send(features.check_network(architecture, weights, cuts, preprocessing))
    except UserError as error:
        connection.send(error)
