"""Commands that use a registered version: predict and serve."""

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.text import Text

from crossfold.cli.console import (
    PARAMS,
    console,
    errors,
    fail,
    require_free_port,
    require_local_store,
)
from crossfold.errors import UserError
from crossfold.runners.failures import StepError, signals_interrupt
from crossfold.step.files import replaced_whole

from .outputs import Format, Row, Shown, Table, Write, format_for, writer

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from crossfold.network.openvino_engine import Classifier
    from crossfold.predict.local_version import KnownVersion
    from crossfold.predict.model import AskedSets, Prediction
    from crossfold.settings import Settings

Model = Annotated[
    str | None,
    typer.Option(
        help="Version to use: NAME@ALIAS or NAME/VERSION in MLflow's registry.",
        show_default="tracking.model_name@champion",
    ),
]


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders with images, and quoted globs ('data/**/*.jpg').",
            show_default=False,
        ),
    ],
    model: Model = None,
    kind: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Output format.",
            show_default="by the suffix of --output; else a table on a terminal, lines in a pipe",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Output file, written whole or not at all."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Number of classes per image.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    coverage: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Also give a set of labels that holds the true one for this share of the images, "
            "such as 0.95; the decision is the only label in the set, or unsure.",
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="New or empty folder for a picture of each image: where the network found its "
            "evidence for the predicted class (class activation map).",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Predict with the model served there."),
    ] = None,
) -> None:
    """Predict images with a registered version; exits with 1 if any image is unusable."""
    from crossfold.predict.inputs import find_images

    not_written = f"; {output} is not written" if output else ""
    if server and model:
        raise UserError("--model is for a model that is loaded here, not for one behind --server")
    if server and explain:
        raise UserError("--explain is for a model that is loaded here, not for one behind --server")
    if coverage is not None:
        _require_coverage(coverage)
    settings = None if server else _settings()
    kind = _format(kind, output)
    if explain:
        _require_new_folder(explain)
    paths = find_images(images)
    if server:
        predictions, batch_size = _asked(server, paths, coverage, not_written), 1
    else:
        assert settings is not None
        predictions = _predicted(model, settings, paths, batch_size, coverage, explain)

    num_failed = 0
    with (
        signals_interrupt(f"interrupted{not_written}"),
        closing(predictions),
        _bar(kind, output, len(paths)) as advance,
        _destination(kind, output, paths, Shown(top_k, coverage is not None)) as write,
    ):
        rows = map(Row, paths, predictions)
        while batch := list(islice(rows, batch_size)):
            write(batch)
            advance(len(batch))
            num_failed += sum(row.prediction.error is not None for row in batch)
    if num_failed:
        fail(f"{num_failed} of {len(paths)} images cannot be used", 1)


def serve(
    model: Model = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on this machine.")] = 5002,
) -> None:
    """Serve a registered version over HTTP with MLflow's scoring protocol, on loopback only."""
    settings = _settings()
    require_free_port(port)
    from crossfold.predict.signatures import required_key

    key, name = required_key(settings.registry, Path.cwd()), _registered(model, settings)

    from crossfold.predict.model import find_version
    from crossfold.predict.server import serve
    from crossfold.tracking import store

    serve(find_version(store.connect(), name), port, key)


def _predicted(
    model: str | None,
    settings: "Settings",
    paths: Sequence[str],
    batch_size: int,
    coverage: float | None,
    explain: Path | None,
) -> Generator["Prediction", None, None]:
    """Predict image files with a registered version, and explain the predictions in a folder.

    Looks up and loads the version on the first iteration, after the output has been opened.
    """
    from crossfold.imaging.decoding import read_image
    from crossfold.predict.model import predict_images
    from crossfold.predict.signatures import required_key

    key, name = required_key(settings.registry, Path.cwd()), _registered(model, settings)
    version: KnownVersion | ModelVersion
    write_picture = None
    if explain:
        from .explanations import picture_writer

        network, version = _looked_up(name, key)
        write_picture = picture_writer(version, explain, len(paths))
    else:
        network, version = _known(name, key) or _looked_up(name, key)
    sets = None if coverage is None else _sets(version, coverage)
    predictions = predict_images(network, paths, read_image, batch_size, sets)
    for number, (path, prediction) in enumerate(zip(paths, predictions, strict=True), start=1):
        if write_picture and prediction.error is None:
            write_picture(number, path, prediction)
        yield prediction._replace(model=version.name, version=str(version.version))


def _require_coverage(coverage: float) -> None:
    from crossfold.evaluation.prediction_sets.class_scores import require_coverage

    try:
        require_coverage(coverage)
    except UserError as error:
        raise UserError(f"--{error}") from None


def _sets(version: "KnownVersion | ModelVersion", coverage: float) -> "AskedSets":
    from crossfold.predict import local_version
    from crossfold.predict.model import AskedSets, load_reference

    if isinstance(version, local_version.KnownVersion):
        return AskedSets(local_version.load_reference(version), coverage)
    return AskedSets(load_reference(version), coverage)


def _known(name: str, key: str | None) -> "tuple[Classifier, KnownVersion] | None":
    """Load the version that MLflow named last, if its store is on this machine and unchanged.

    With a public `key`, the version needs a valid signature of it.
    """
    from crossfold.predict import local_version

    lookup = local_version.begin(Path.cwd(), name)
    known = lookup and local_version.recall(lookup)
    if known and key:
        local_version.verify(known, key)
    return (local_version.load(known), known) if known else None


def _looked_up(name: str, key: str | None) -> "tuple[Classifier, ModelVersion]":
    """Ask MLflow for a version and load it, and remember the answer for the next time.

    With a public `key`, the version needs a valid signature of it.
    """
    from crossfold.predict import local_version
    from crossfold.predict.model import find_version, load_version
    from crossfold.predict.signatures import verify_version
    from crossfold.tracking import store

    client = store.connect()
    lookup = local_version.begin(Path.cwd(), name)
    version = find_version(client, name)
    if key:
        verify_version(version, key)
    network = load_version(version)
    if lookup:
        local_version.remember(lookup, client, version)
    return network, version


def _asked(
    server: str, paths: Sequence[str], coverage: float | None, not_written: str
) -> Generator["Prediction", None, None]:
    """Predict image files with a running server.

    Raises:
        StepError: the server is lost; `not_written` ends the message, about the output file.
    """
    from crossfold.predict.client import LostServerError, ask

    try:
        yield from ask(server, paths, coverage)
    except LostServerError as error:
        raise StepError(f"{error}{not_written}") from None


def _settings() -> "Settings":
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS)
    if not settings.tracking.store:
        require_local_store()
    return settings


def _registered(model: str | None, settings: "Settings") -> str:
    """Set the environment of MLflow's clients, and choose the model: `model` or the champion."""
    from crossfold.runners.local.mlflow_store import tracking_environment

    os.environ.update(tracking_environment(Path.cwd(), settings))
    return model or f"{settings.tracking.model_name}@champion"


def _format(kind: Format | None, output: Path | None) -> Format:
    """Choose the output format from `--format`, `--output` and the terminal.

    Raises:
        UserError: Parquet without an output file, or a file name that implies no format.
    """
    if output is None:
        if kind is Format.PARQUET:
            raise UserError("--format parquet needs a file: --output predictions.parquet")
        if kind is Format.JSON:
            return Format.JSONL  # a pipe's reader can use each line as it arrives
        return kind or (Format.TABLE if console.is_terminal else Format.LINES)
    return format_for(kind, output)


def _require_new_folder(folder: Path) -> None:
    """Raise UserError unless pictures can go to `folder` without replacing anything."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"--explain {folder}: the folder is not empty; name a new one")
    elif folder.exists() or not folder.parent.is_dir():
        raise UserError(f"--explain {folder}: not a new folder in a folder that is there")


@contextmanager
def _destination(
    kind: Format, output: Path | None, paths: list[str], shown: Shown
) -> Iterator[Write]:
    """Open the destination of the predictions: a file, the terminal's table, or stdout.

    Yields:
        A function that writes a batch of rows.
    """
    if output:
        with _whole_file(output) as file, writer(kind, file, paths, shown) as write:
            yield write
    elif kind is Format.TABLE and console.is_terminal:
        table = Table(paths, shown)
        yield lambda rows: console.print(Text("\n").join(table.lines(rows)), soft_wrap=True)
    else:
        # Bypass rich, which turns tabs into spaces.
        with writer(kind, sys.stdout.buffer, paths, shown) as write:

            def write_now(rows: Sequence[Row]) -> None:
                write(rows)
                sys.stdout.buffer.flush()

            yield write_now


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when the block completes.

    An incomplete file is deleted.

    Raises:
        UserError: no file can be created there.
    """
    with replaced_whole(path) as part:
        try:
            if path.is_dir() or not path.parent.is_dir():
                raise UserError(f"--output {path}: not a file in a folder that is there")
            opened = part.open("wb")
        except OSError as error:
            raise UserError(
                f"--output {path}: no file can be made there: {error.strerror}"
            ) from None
        with opened as file:
            yield file


@contextmanager
def _bar(kind: Format, output: Path | None, num_images: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, below the table if the table is printed there.

    Yields:
        A callback that advances the bar by a number of images.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    rows_on_terminal = output is None and console.is_terminal
    shown = console if rows_on_terminal else errors
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
        console=shown,
        transient=True,
        redirect_stdout=False,
        disable=not shown.is_terminal or (rows_on_terminal and kind is not Format.TABLE),
    ) as progress:
        task = progress.add_task("", total=num_images)
        yield lambda num_done: progress.advance(task, num_done)
