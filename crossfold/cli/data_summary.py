"""Print an image folder's summary in a terminal: classes, totals, warnings, near duplicates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from crossfold.data.examination.findings import Pair, groups, near_duplicates
from crossfold.data.examination.folder import FolderReport, balance
from crossfold.data.examination.groups import group_facts
from crossfold.data.layouts.layout import ignored_files
from crossfold.data.splits import TEST
from crossfold.imaging.quality import KINDS
from crossfold.versioning.dvc import listed

_MAX_CLASSES = 20
_NUM_EXAMPLES = 2
_NUM_PAIRS = 5


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar on a terminal during the block.

    Yields:
        A callback that updates the bar; it takes images done, total images, and the unit.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("checking", total=None)
        yield lambda done, total, _: bar.update(task, completed=done, total=total)


def show(console: Console, report: FolderReport, page: Path) -> None:
    """Print the summary of an image folder and the path of its HTML page."""
    console.print(_classes(report))
    lines = (*_totals(report), *_notes(report), *_remarks(report), *_near_duplicates(report))
    for line in lines:
        console.print(line, soft_wrap=True)  # keeps paths in one piece, for copying
    console.print(Text(f"\nData page: {page}"), soft_wrap=True)


def _classes(report: FolderReport) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("class", "images", *(("training", "test") if report.splits else ())):
        table.add_column(name, justify="left" if name == "class" else "right")
    names = report.classes
    if len(names) > _MAX_CLASSES:  # list the smallest classes: they may have too few images
        names = tuple(sorted(names, key=lambda name: (report.counts[name], name))[:_MAX_CLASSES])
    num_test = report.count_test()
    for name in names:
        count, held_out = report.counts[name], num_test[name]
        row = (f"{count - held_out}", f"{held_out}") if report.splits else ()
        table.add_row(Text(name), f"{count}", *row)
    if len(names) == len(report.classes):
        return table
    left_out = len(report.classes) - len(names)
    return Group(table, Text(f"… and {left_out} larger classes", style="dim"))


def _totals(report: FolderReport) -> Iterator[Text]:
    total = f"\n{len(report.paths)} images of {len(report.classes)} classes"
    if report.splits:
        held_out = "in the given test split" if report.given_test else "held out for the test"
        total += f", {report.splits.count(TEST)} of them {held_out}"
    yield Text(total)
    for line in report.usage:
        yield Text(f"{line[0].upper()}{line[1:]}")
    yield Text(balance(report.counts))
    if report.num_copies:
        yield Text(f"Copies of others, kept together in every split: {report.num_copies}")
    for line in groups(group_facts(report), len(report.paths)):
        yield Text(f"{line[0].upper()}{line[1:]}")
    if report.splits and report.unusable:
        yield Text(f"{len(report.unusable)} unusable images are skipped:")
        yield Text(listed(list(report.skipped)))


def _notes(report: FolderReport) -> Iterator[Text]:
    if report.ignored:
        yield Text(
            f"Ignored hidden files and system files: {len(report.ignored)}, "
            f"{ignored_files(report.ignored)}"
        )
    for note in report.notes:
        yield Text(f"\nWarning: {note}")


def _remarks(report: FolderReport) -> Iterator[Text]:
    if not report.remarks:
        return
    yield Text("\nThese images are used; check that they are what you expect:", style="bold")
    width = max(len(KINDS[kind].title) for kind in report.remarks)
    for kind, found in report.remarks.items():
        everywhere = len(found) == len(report.paths)
        count = "all" if everywhere else f"{len(found)}"
        examples = "" if everywhere else f"   {_examples(found)}"
        title = KINDS[kind].title.ljust(width) if examples else KINDS[kind].title
        yield Text.assemble(f"{count:>7}  {title}", (examples, "dim"))


def _examples(found: dict[str, str]) -> str:
    first = [f"{path} ({found[path]})" for path in sorted(found)[:_NUM_EXAMPLES]]
    return ", ".join(first) + (", …" if len(found) > len(first) else "")


def _near_duplicates(report: FolderReport) -> Iterator[Text]:
    counts = report.count_pairs()
    if counts.pairs:
        yield Text()
    for line in near_duplicates(counts, report.splits.count(TEST)):
        yield Text(f"{line[0].upper()}{line[1:]}")
    for pair in report.pairs(_NUM_PAIRS):
        yield Text(f"  {pair.paths[0]}, {pair.paths[1]}{_divided(pair)}", style="dim")
    if counts.pairs > _NUM_PAIRS:
        yield Text("  …", style="dim")


def _divided(pair: Pair) -> str:
    return f" ({' and '.join(pair.places)})" if pair.divided else ""
