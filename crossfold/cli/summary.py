"""What a finished run says, as a person reads it in a terminal."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from crossfold.runners.outcome import REPORTS, Outcome

_METRICS = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("macro_precision", "precision"),
    ("macro_recall", "recall"),
    ("loss", "loss"),
)


def show(console: Console, outcome: Outcome) -> None:
    """Print the summary of a run."""
    console.print()
    console.print(_render(outcome), soft_wrap=True)


def _render(outcome: Outcome) -> RenderableType:
    board, registered = outcome.leaderboard, outcome.registration
    chosen = board["candidates"][board["best"]]["candidate"]["name"]
    num_test = len(outcome.evaluation["labels"])
    verb = "registered" if registered["created"] else "registered before, the same weights"
    steps = f"{outcome.num_reused} of {outcome.num_steps} steps from the cache"
    places = "\n".join((f"Report:   {REPORTS}/report.html", *outcome.places, steps))
    return Group(
        Text(f"Cross-validation, {board['num_folds']} folds (mean ± standard deviation)", "bold"),
        _leaderboard(board),
        Text.assemble("\nChosen: ", (chosen, "bold"), f", trained {_length(board)}"),
        Text.assemble(
            ("\nTest split", "bold"), f", {num_test} images kept out of training and selection"
        ),
        _test_metrics(outcome.evaluation["metrics"]),
        Text.assemble(
            (f"\n{registered['name']} version {registered['version']}", "bold"),
            f" ({verb}), aliases: {', '.join(registered['aliases']) or 'none'}",
        ),
        Text(f"Gate {registered['gate']}: {registered['reason']}"),
        *(Text(f"! {note}", "yellow") for note in outcome.notes),
        Text(f"\n{places}", "dim"),
    )


def _length(board: dict[str, Any]) -> str:
    epochs = board["num_epochs"]
    return f"{epochs} epochs" if epochs else "to convergence"


def _leaderboard(board: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "candidate", "macro F1", "accuracy", "loss"):
        table.add_column(heading)
    for index, entry in enumerate(board["candidates"]):
        best = index == board["best"]
        table.add_row(
            "→" if best else "",
            entry["candidate"]["name"],
            *(
                f"{entry['mean'][name]:.4f} ± {entry['std'][name]:.4f}"
                for name in ("macro_f1", "accuracy", "loss")
            ),
            style="bold" if best else "",
        )
    for entry in board["diverged"]:
        table.add_row("", entry["candidate"]["name"], "diverged")
    return table


def _test_metrics(metrics: dict[str, float]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for _, heading in _METRICS:
        table.add_column(heading)
    table.add_row(*(f"{metrics[name]:.4f}" for name, _ in _METRICS))
    return table
