"""Show a run to the user: a line when a step starts and ends, a progress bar in between."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from crossfold.step.progress import parse_progress


class Display:
    """Print lines and progress bars for steps; safe to call from the threads that run folds."""

    def __init__(self, console: Console, *, verbose: bool) -> None:
        self.console = console
        self.verbose = verbose
        self._bars: dict[str, TaskID] = {}
        self._ended: set[str] = set()  # on a cluster, output may arrive after a step's end
        self._progress = Progress(
            TextColumn("    {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """Print a line that belongs to no step."""
        self.console.print(Text(line, style="dim"), soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a warning that the user should act on."""
        self.console.print(Text(f"! {line}", style="yellow"), soft_wrap=True)

    def started(self, title: str, attempt: int = 1) -> None:
        """Show that a step has started, with the attempt's number after a failed attempt."""
        self._ended.discard(title)
        self._line("…", "dim", title, f"attempt {attempt}" if attempt > 1 else "")

    def waits(self, title: str, reason: str) -> None:
        """Show that a step cannot start yet, and why."""
        self._line("…", "dim", title, f"waits: {reason}")

    def output(self, title: str, line: str) -> None:
        """Process a line of a step's output: move the bar, or print the line if verbose."""
        progress = parse_progress(line)
        if progress:
            if title not in self._ended:
                self._move_bar(title, *progress)
        elif self.verbose:
            text = Text.from_ansi(line.rstrip())  # show a step's colours only on a terminal
            self.console.print(Text.assemble(f"    {title} │ ", text, style="dim"), soft_wrap=True)

    def finished(self, title: str, seconds: float) -> None:
        """Show that a step has finished, and its duration."""
        self._remove_bar(title)
        self._line("✓", "green", title, f"{seconds:.1f} s")

    def reused(self, title: str, source: str) -> None:
        """Show that a step's earlier outputs are reused, and where they come from."""
        self._line("↺", "cyan", title, source)

    def failed(self, title: str) -> None:
        """Show that a step has failed; the run's error says why."""
        self._remove_bar(title)
        self._line("✗", "red", title, "failed")

    def _move_bar(self, title: str, done: float, total: int, unit: str) -> None:
        if title not in self._bars:
            self._bars[title] = self._progress.add_task(title, total=total, unit=unit)
        self._progress.update(self._bars[title], completed=done, total=total)

    def _remove_bar(self, title: str) -> None:
        self._ended.add(title)
        if title in self._bars:
            self._progress.remove_task(self._bars.pop(title))

    def _line(self, sign: str, style: str, title: str, detail: str = "") -> None:
        line = Text.assemble((f"{sign} ", style), f"{title:<22}  ", (detail, "dim"))
        self.console.print(line, soft_wrap=True)
