"""Commands that prepare images and weights: sample, check-data, weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from crossfold.errors import UserError

from .console import PARAMS, console, require_page

if TYPE_CHECKING:
    from crossfold.settings import Backbone, Settings

weights = typer.Typer(help="Fetch published weights.", no_args_is_help=True)


def sample(
    digits: Annotated[
        bool,
        typer.Option("--digits", help="Digits and random weights, which work offline."),
    ] = False,
) -> None:
    """Write sample images and weights, and add them to DVC. Your own files are kept.

    The sample is photographs and ImageNet weights, which come from the package index.
    """
    from crossfold.data.samples.sample import write_digits_sample, write_photographs_sample

    root = Path.cwd()
    if digits:
        lines = write_digits_sample(root)
        lines.append(f"To train on them: crossfold run {' '.join(digits_options())}")
    else:
        lines = write_photographs_sample(root, fetch_sample_weights)
    for line in lines:
        console.print(escape(line), soft_wrap=True)


def digits_options() -> list[str]:
    """List the options of `crossfold run` that train on the sample of digits."""
    from crossfold.data.samples.digits import DIGITS_MODEL

    changes = [f"model.{key}={value}" for key, value in DIGITS_MODEL.items()]
    # The model has other classes, so it is no version of the photographs' one.
    changes += ["candidates.2.train_from=layer4", "tracking.model_name=digits"]
    return [word for change in changes for word in ("--set", change)]


def fetch_sample_weights(folder: Path) -> str:
    """Fetch the ImageNet weights of the sample of photographs into `folder`, and name them."""
    from crossfold.weights.published_weights import fetch_weights

    fetched = fetch_weights("efficientnet_lite0", folder)
    return f"{fetched.path.name} written, from {fetched.origin}"


def check_data(
    folder: Annotated[Path, typer.Argument(help="Folder of images, with one subfolder per class.")],
    page: Annotated[Path, typer.Option(metavar="FILE", help="The HTML page to write.")] = Path(
        "reports/data.html"
    ),
) -> None:
    """Check a folder of images exactly as the pipeline does, and report problems."""
    from crossfold.data.examination.folder import examine_folder, split_folder
    from crossfold.data.examination.page import write_page
    from crossfold.data.image_source import FolderSource
    from crossfold.data.layouts.corrections import CorrectionFiles
    from crossfold.data.splits import SplitSettings
    from crossfold.settings import load_settings

    from .data_summary import progress_bar, show

    settings = load_settings(PARAMS)
    require_page(page)
    with progress_bar(console) as progress:
        report = examine_folder(
            folder,
            groups=settings.data.groups,
            labels=settings.data.labels,
            corrections=CorrectionFiles(settings.data.exclude, settings.data.relabel),
            image_size=_image_size(settings),
            progress=progress,
        )
    problem = None
    try:
        report = split_folder(
            report,
            SplitSettings(
                num_folds=settings.data.num_folds,
                test_fraction=settings.data.test_fraction,
                seed=settings.data.seed,
                max_skipped_fraction=settings.data.max_skipped_fraction,
                groups=settings.data.groups,
                tie_near_duplicates=settings.data.tie_near_duplicates,
            ),
        )
    except UserError as error:  # raised below, once the page that helps to fix it is written
        problem = error
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(page, report, FolderSource(folder), str(problem or ""))
    except OSError as error:
        raise UserError(f"--page {page}: it cannot be written: {error.strerror}") from None
    show(console, report, page)
    if problem:
        raise problem


def _image_size(settings: "Settings") -> int:
    """Find the largest size that images are scaled to, importing torch only if it must."""
    return max(
        backbone.image_size or _own_size(settings, backbone) for backbone in settings.backbones
    )


def _own_size(settings: "Settings", backbone: "Backbone") -> int:
    from crossfold.runners.pre_run_checks import recall_preprocessing

    root = Path.cwd()
    if (root / "models.dvc").exists() and (known := recall_preprocessing(root, settings, backbone)):
        return known.image_size

    from crossfold.weights.preprocessing import find_preprocessing

    weights = Path("models") / backbone.weights
    given = weights if weights.exists() else None
    return find_preprocessing(backbone.architecture, given, backbone).image_size


@weights.command("list")
def list_weights() -> None:
    """List the weights that the package index has."""
    from crossfold.weights.published_weights import PACKAGES

    for name, package in PACKAGES.items():
        console.print(
            f"{name}: {package.architecture}, {package.image_size} pixels, {package.licence}, "
            f"from {package.source}",
            soft_wrap=True,
        )
    console.print(
        "With internet access also torchvision/NAME and timm/NAME, for networks of these "
        "libraries that have published weights",
        soft_wrap=True,
    )


@weights.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="A name of `crossfold weights list`.")],
) -> None:
    """Fetch published ImageNet weights into models/."""
    from crossfold.weights.published_weights import fetch_weights

    fetched = fetch_weights(name, Path("models"))
    console.print(
        f"{fetched.path} is written, from {fetched.origin}. To train with it: `dvc add models`, "
        f"set model.architecture to {fetched.architecture} and model.weights to "
        f"{fetched.path.name} in params.yaml, and `crossfold run`. Without model.image_size, "
        f"images are scaled to {fetched.image_size} pixels",
        soft_wrap=True,
    )
