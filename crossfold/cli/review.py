"""The command review-labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from crossfold.errors import UserError

from .console import PARAMS, console, require_page

if TYPE_CHECKING:
    from crossfold.diagnosis.labels.label_errors import LabelIssue

_DATA = Path("data")


def review_labels(
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="ID", help="A run's folder in runs/.", show_default="the last run"
        ),
    ] = None,
    page: Annotated[Path, typer.Option(metavar="FILE", help="The HTML page to write.")] = Path(
        "reports/review_labels.html"
    ),
) -> None:
    """Write a page to review suspicious labels, which saves the decisions as CSV files."""
    from crossfold.review.decisions import read_decisions
    from crossfold.review.page import reviewable, write_page
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS)
    require_page(page)
    issues = _issues_of(run) if run else _last_issues()
    if not issues:
        console.print("The run lists no label errors (see diagnosis.label_errors in params.yaml)")
        return
    decisions = read_decisions(_DATA, settings.data)
    shown = reviewable(issues, decisions)
    if not shown:
        raise UserError(
            f"none of the {len(issues)} images to review is in {_DATA}/ with its class: start a "
            "run on the present images with `crossfold run`"
        )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(page, shown, decisions, len(issues) - len(shown))
    console.print(
        f"{escape(str(page))} is written, with {len(shown)} image{'s' * (len(shown) != 1)} to "
        "review. Open it in a browser",
        soft_wrap=True,
    )


def _last_issues() -> "tuple[LabelIssue, ...]":
    """Read the issues that the last run left in reports/, wherever it ran."""
    from crossfold.report.dvc_files import LABEL_ISSUES
    from crossfold.review.label_issues import read_issues
    from crossfold.runners.outcome import REPORTS

    return read_issues(Path(REPORTS) / LABEL_ISSUES)


def _issues_of(run: str) -> "tuple[LabelIssue, ...]":
    """Read the issues of a run on this machine."""
    from crossfold.diagnosis.findings import Diagnosis
    from crossfold.runners.local.run_folders import HOME, all_runs

    match = next((one for one in all_runs(Path(HOME)) if one.id == run), None)
    if match is None or "diagnose_data" not in match.steps:
        raise UserError(f"--run {run}: {HOME}/ has no run of that name with a diagnosis")
    path = match.outputs("diagnose_data") / "diagnosis"
    if not path.exists():
        raise UserError(f"--run {run}: its files are deleted. Start a run with `crossfold run`")
    found = Diagnosis.read(path).label_errors
    return found.issues if found else ()
