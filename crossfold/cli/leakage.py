"""The command check-leakage, and its summary in a terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from crossfold.errors import UserError

from .console import PARAMS, console

if TYPE_CHECKING:
    from crossfold.diagnosis.trust.records import LeakageCheck


def check_leakage() -> None:
    """Measure how optimistic the scores would be without groups, on features of the last run."""
    from crossfold.settings import load_settings

    settings = load_settings(PARAMS)

    from crossfold.diagnosis.diagnose_data import NO_FEATURES
    from crossfold.diagnosis.evidence import Evidence
    from crossfold.diagnosis.trust.leakage import check_leakage
    from crossfold.runners.local.last_run import find_last_run

    last = find_last_run(Path.cwd())
    evidence = Evidence.read(
        last.examples,
        last.features,
        last.predictions,
        last.leaderboard,
        settings.training.class_weights,
    )
    if evidence.features is None:
        raise UserError(f"run {last.id}: {NO_FEATURES}. Add a candidate with freeze_backbone: true")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("cross-validating", total=1)
        found = check_leakage(evidence, lambda share: bar.update(task, completed=share))
    console.print(_render(found, last.id), soft_wrap=True)


def _render(found: "LeakageCheck", run_id: str) -> RenderableType:
    return Group(
        Text.assemble(
            ("Cross-validation", "bold"),
            f" of {found.head}, {found.num_folds} folds, {found.num_repeats} times, on features "
            f"of run {run_id}",
        ),
        Text(
            f"{found.num_images} training images in {found.num_groups} sets that belong together: "
            f"{found.ties}\n"
        ),
        _scores(found),
        Text(f"\n{_verdict(found)}", "yellow" if found.is_clear else ""),
        *_test_split(found),
    )


def _scores(found: "LeakageCheck") -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("folds", "macro F1", "lowest to highest", "accuracy"):
        table.add_column(heading)
    rows = (("keep these together", found.together), ("draw images alone", found.alone))
    for name, scores in rows:
        table.add_row(
            name,
            f"{scores.macro_f1:.4f}",
            f"{scores.lowest:.4f} to {scores.highest:.4f}",
            f"{scores.accuracy:.4f}",
        )
    return table


def _verdict(found: "LeakageCheck") -> str:
    if not found.is_clear:
        return "No clear difference: the ranges of the repetitions overlap"
    return (
        f"Folds that draw images alone are too optimistic: macro F1 is {found.optimism:.4f} higher"
    )


def _test_split(found: "LeakageCheck") -> Iterator[Text]:
    if found.num_test:
        share = found.num_test_near_training / found.num_test
        yield Text(
            f"Test images with a near duplicate in training: {found.num_test_near_training} of "
            f"{found.num_test} ({share:.1%})"
        )
