"""Refuse a network or weights that a run could not use, before anything runs."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from crossfold.data import dvc, fetch, sample
from crossfold.errors import UserError
from crossfold.settings import Settings

from .failures import StepError


def check_model(root: Path, settings: Settings) -> tuple[str, ...]:
    """Compare params.yaml's model with the files that models.dvc describes, and with itself.

    Of files that are only in a remote elsewhere, this machine knows nothing: that is left to the
    steps.

    Returns:
        What the user should know of the weights, a line each.

    Raises:
        UserError: there is no weights' file of that name; or weights, candidates or image size do
            not fit the architecture.
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

    Where the steps are forked from a server (see `fork_server`), it has imported torch.
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
