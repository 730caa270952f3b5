"""Check a project before a run: its data and models against DVC, and its weights and network."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from crossfold.data import dvc, fetch, sample
from crossfold.data.layout import find_misnamed
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
        UserError: no weights file has that name; or weights, candidates or image size do not fit
            the architecture.
    """
    files = dvc.known_files(root, "models", settings.data.remote)
    weights = None
    if files is not None:
        fetch.require_weights(settings.model.weights, files)
        weights = dvc.find_object(root, files[settings.model.weights], settings.data.remote)
    source = _check_network(settings, weights)
    notes = [f"model.weights: taken from {source}"] if source else []
    data_hash = dvc.pointer_hash(dvc.read_pointer(root, "data"))
    if warning := sample.weights_warning(data_hash, settings.model.weights):
        notes.append(warning)
    return tuple(notes)


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
