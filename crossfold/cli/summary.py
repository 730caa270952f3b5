"""Print the summary of a finished run in a terminal."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfold.diagnosis.findings import Diagnosis
from crossfold.evaluation import metrics
from crossfold.records import BackboneFacts, Evaluation, Leaderboard
from crossfold.report.dvc_files import LABEL_ISSUES
from crossfold.runners.outcome import REPORTS, Outcome

MAX_CANDIDATES = 10  # of the leaderboard; the report has all


def show(console: Console, outcome: Outcome) -> None:
    """Print a run's summary: leaderboard, test scores, registered version and gate."""
    console.print()
    console.print(_render(outcome, console.width), soft_wrap=True)


def _render(outcome: Outcome, width: int) -> RenderableType:
    board, registered = outcome.leaderboard, outcome.registration
    num_test = len(outcome.evaluation.labels)
    verb = "registered" if registered.created else "registered before, the same weights"
    steps = f"{outcome.num_reused} of {outcome.num_steps} steps from the cache"
    places = "\n".join((f"Report:   {REPORTS}/report.html", *outcome.places, steps))
    return Group(
        Text(f"Cross-validation, {board.num_folds} folds (mean ± standard deviation)", "bold"),
        _leaderboard(board, width),
        Text.assemble(
            "\nChosen: ", (board.chosen.candidate.name, "bold"), f", trained {_length(board)}"
        ),
        *_corrected(board),
        *_precision(board),
        *_shortcuts(outcome.diagnosis),
        Text.assemble(
            ("\nTest split", "bold"), f", {num_test} images kept out of training and selection"
        ),
        _test_scores(outcome.evaluation),
        *_label_issues(outcome.diagnosis),
        Text.assemble(
            (f"\n{registered.name} version {registered.version}", "bold"),
            f" ({verb}), aliases: {', '.join(registered.aliases) or 'none'}",
        ),
        Text(f"Gate {registered.gate}: {registered.reason}"),
        *(Text(f"! {note}", "yellow") for note in outcome.notes),
        Text(f"\n{places}", "dim"),
    )


def _length(board: Leaderboard) -> str:
    return f"{board.num_epochs} epochs" if board.num_epochs else "to convergence"


def _corrected(board: Leaderboard) -> Iterator[Text]:
    if corrected := board.corrected:
        low, high = corrected.interval
        yield Text(
            f"Corrected for the choice: macro F1 {corrected.macro_f1:.4f} "
            f"({low:.4f} to {high:.4f}), optimism {corrected.optimism:.4f}"
        )


def _precision(board: Leaderboard) -> Iterator[Text]:
    if chosen := board.precision:
        compared = chosen.comparison
        figures = f"; int8 minus float32: macro F1 {compared.summary}" if compared else ""
        yield Text(f"Computed in {chosen.precision}: {chosen.reason}{figures}")


def _label_issues(diagnosis: Diagnosis) -> Iterator[Text]:
    if found := diagnosis.label_errors:
        number = found.num_issues
        place = f" ({REPORTS}/{LABEL_ISSUES})" if number else ""
        yield Text(f"Label errors: {number} image{'s' * (number != 1)} to review{place}")


def _shortcuts(diagnosis: Diagnosis) -> Iterator[Text]:
    if diagnosis.shortcuts and (found := diagnosis.shortcuts.suspicious):
        scores = ", ".join(f"{one.title.lower()} {one.macro_f1:.4f}" for one in found)
        yield Text(
            f"! Possible shortcut: macro F1 without a look at the object: {scores}. See Shortcuts "
            "in the report",
            "yellow",
        )


def _leaderboard(board: Leaderboard, width: int) -> Table:
    """Build the leaderboard with the metric that ranks, and the others that fit the width."""
    costs = ("params", "CPU ms") if board.compares_backbones else ()
    longest = max(len(entry.candidate.name) for entry in board.candidates)
    room = width - len("→  ") - longest - sum(len(f"  {cost}  ") for cost in costs)
    in_folds = metrics.fold_metrics()[: max(1, room // len("  0.0000 ± 0.0000"))]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "candidate", *(metric.heading for metric in in_folds), *costs):
        table.add_column(heading)
    for entry in board.ranked[:MAX_CANDIDATES]:
        chosen = entry is board.chosen
        table.add_row(
            "→" if chosen else "",
            entry.candidate.name,
            *(f"{entry.mean[m.name]:.4f} ± {entry.std[m.name]:.4f}" for m in in_folds),
            *(_costs(entry.backbone) if costs else ()),
            style="bold" if chosen else "",
        )
    if len(board.candidates) > MAX_CANDIDATES:
        table.add_row("", f"{len(board.candidates) - MAX_CANDIDATES} more in the report")
    for diverged in board.diverged:
        table.add_row("", diverged.candidate.name, "diverged")
    return table


def _costs(backbone: BackboneFacts) -> tuple[str, ...]:
    milliseconds = "" if backbone.milliseconds is None else f"{backbone.milliseconds:.2g}"
    return f"{backbone.num_parameters / 1e6:.2f}M", milliseconds


def _test_scores(evaluation: Evaluation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for metric in metrics.METRICS:
        table.add_column(metric.heading)
    table.add_row(*(f"{evaluation.metrics[metric.name]:.4f}" for metric in metrics.METRICS))
    return table
