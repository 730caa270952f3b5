"""Reject a network or weights that a run could not use, before anything runs."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from crossfold.data import dvc, fetch, sample
from crossfold.errors import UserError
from crossfold.settings import Settings

from .failures import StepError


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
    data_hash = dvc.pointer_hash((root / "data.dvc").read_text(), "data.dvc")
    if warning := sample.weights_warning(data_hash, settings.model.weights):
        notes.append(warning)
    return tuple(notes)


def _check_network(settings: Settings, weights: Path | None) -> str:
    """Run `features.check_network` in a process, since torch takes seconds to import.

    If steps are forked from a server (see `fork_server`), that server has imported torch.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    model, size = settings.model, settings.data.image_size
    process = context.Process(
        target=_answer, args=(theirs, model.architecture, weights, settings.cuts, size)
    )
    with ours:
        process.start()
        theirs.close()
        try:
            answer: str | UserError = ours.recv()
        except EOFError:
            raise StepError("the check of the network has ended without an answer") from None
    process.join()
    if isinstance(answer, UserError):
        raise answer
    return answer


def _answer(
    connection: Connection, architecture: str, weights: Path | None, cuts: list[str], size: int
) -> None:
    from crossfold.network import features

    try:
        connection.send(features.check_network(architecture, weights, cuts, size))
    except UserError as error:
        connection.send(error)
