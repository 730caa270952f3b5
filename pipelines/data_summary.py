"""What a person sees of a folder of images: its classes, and what there is to know of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from crossfold.folder import FolderReport, balance
from crossfold.remarks import KINDS
from crossfold.splits import TEST

_MAX_CLASSES = 20
_NUM_EXAMPLES = 3
_NUM_PAIRS = 5


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar on a terminal during the block; what it yields moves it."""
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
    """Print the summary of a folder and where its page is."""
    parts = [_classes(report), _totals(report), *_remarks(report), *_near_duplicates(report)]
    console.print(Group(*parts), soft_wrap=True)
    console.print(Text(f"\nThe page to look at: {page}"), soft_wrap=True)


def _classes(report: FolderReport) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("class", "images", *(("training", "test") if report.splits else ())):
        table.add_column(name, justify="left" if name == "class" else "right")
    names = report.classes
    if len(names) > _MAX_CLASSES:  # the smallest are those that may be too small
        names = tuple(sorted(names, key=lambda name: (report.counts[name], name))[:_MAX_CLASSES])
    num_test = dict.fromkeys(report.classes, 0)
    for label, split in zip(report.labels, report.splits, strict=bool(report.splits)):
        num_test[report.classes[label]] += split == TEST
    for name in names:
        count, held_out = report.counts[name], num_test[name]
        row = (f"{count - held_out}", f"{held_out}") if report.splits else ()
        table.add_row(Text(name), f"{count}", *row)
    if len(names) == len(report.classes):
        return table
    left_out = len(report.classes) - len(names)
    return Group(table, Text(f"… and {left_out} larger classes", style="dim"))


def _totals(report: FolderReport) -> RenderableType:
    total = f"\n{len(report.paths)} images of {len(report.classes)} classes"
    if report.splits:
        total += f", {report.splits.count(TEST)} of them held out for the test"
    lines = [total, balance(report.counts)]
    if report.num_copies:
        lines.append(f"{report.num_copies} are copies of others, kept together in every split")
    if report.splits and report.unusable:
        lines.append(f"{len(report.unusable)} cannot be used and are skipped:")
        lines += [f"  {line}" for line in report.skipped[:_MAX_CLASSES]]
        if len(report.unusable) > _MAX_CLASSES:
            lines.append(f"  … and {len(report.unusable) - _MAX_CLASSES} more")
    return Text("\n".join(lines))


def _remarks(report: FolderReport) -> Iterator[RenderableType]:
    if not report.remarks:
        return
    yield Text("\nGood to know: these are used all the same", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column(style="dim")
    for kind, found in report.remarks.items():
        everywhere = len(found) == len(report.paths)
        count = "all" if everywhere else f"{len(found)}"
        examples = "" if everywhere else _examples(found)
        table.add_row(count, KINDS[kind].title, Text(examples))
    yield Padding(table, (0, 0, 0, 2))


def _examples(found: dict[str, str]) -> str:
    first = [f"{path} ({found[path]})" for path in sorted(found)[:_NUM_EXAMPLES]]
    return ", ".join(first) + (", …" if len(found) > len(first) else "")


def _near_duplicates(report: FolderReport) -> Iterator[RenderableType]:
    counts = report.count_pairs()
    if not counts.pairs:
        return
    yield Text("\nNear duplicates: images that look nearly the same", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_row(f"{counts.pairs}", f"pairs, of {counts.images} images")
    if report.splits:
        leaked = f" ({counts.leaked} test images)" if counts.leaks else ""
        table.add_row(f"{counts.leaks}", f"one in the test, one in training{leaked}")
        table.add_row(f"{counts.folds}", "in two folds")
    table.add_row(f"{counts.other_class}", "in two classes")
    yield Padding(table, (0, 0, 0, 2))
    pairs = Table(box=None, pad_edge=False, show_header=False, style="dim")
    for pair in report.pairs(_NUM_PAIRS):
        places = f"{pair.places[0]}, {pair.places[1]}" if pair.divided else ""
        pairs.add_row(*(Text(path) for path in pair.paths), places)
    yield Padding(pairs, (0, 0, 0, 4))
    if counts.pairs > _NUM_PAIRS:
        yield Text("    …", style="dim")
