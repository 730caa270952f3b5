import io
import re

import pytest
from rich.console import Console

from crossfold.runners.display import Display

ESCAPE = "\x1b"


def watch(display: Display) -> None:
    """A run as the display sees it."""
    with display:
        display.reused("fetch_data", "unchanged since run 7")
        display.started("train_fold 0")
        display.output("train_fold 0", "a warning [bold]about[/] data\n")
        for done in (1, 2, 3):
            display.output("train_fold 0", f"progress {done}/3 epochs\n")
        display.finished("train_fold 0", 1.234)
        display.started("train_final")
        display.output("train_final", "progress 1/9 epochs\n")
        display.failed("train_final")


def shown(*, terminal: bool, verbose: bool = False) -> str:
    text = io.StringIO()
    watch(Display(Console(file=text, force_terminal=terminal, width=60), verbose=verbose))
    return text.getvalue()


def test_a_file_gets_a_line_per_event_and_nothing_else() -> None:
    lines = [line.split() for line in shown(terminal=False).splitlines() if line]
    assert lines == [
        ["↺", "fetch_data", *["unchanged", "since", "run", "7"]],
        ["…", "train_fold", "0"],
        ["✓", "train_fold", "0", "1.2", "s"],
        ["…", "train_final"],
        ["✗", "train_final", "failed"],
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown(terminal=False, verbose=True))


@pytest.mark.parametrize("terminal", [True, False])
def test_verbose_shows_what_the_steps_say_as_it_is(terminal: bool) -> None:
    said = "train_fold 0 │ a warning [bold]about[/] data"
    assert said in shown(terminal=terminal, verbose=True)
    assert said not in shown(terminal=terminal)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("verbose", [True, False])
def test_progress_is_never_shown_as_text(terminal: bool, verbose: bool) -> None:
    assert "progress" not in shown(terminal=terminal, verbose=verbose)


def test_a_terminal_shows_a_bar_while_a_step_works() -> None:
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True, width=80), verbose=False)
    with display:
        display.started("train_fold 0")
        display.output("train_fold 0", "progress 1/3 epochs\n")
        display._progress.refresh()
        assert re.search(r"train_fold 0.*━.*1/3.*epochs", plain(text))
        display.output("train_fold 0", "progress 2/3 epochs\n")
        display.output("extract", "progress 5/9 images\n")
        display._progress.refresh()
        assert "2/3" in plain(text) and re.search(r"extract.*5/9.*images", plain(text))
        display.finished("train_fold 0", 1)
        text.truncate(0)
        display._progress.refresh()
        assert "train_fold" not in plain(text) and "extract" in plain(text)


def test_a_bar_shows_the_time_left_and_moves_within_an_epoch() -> None:
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True, width=90), verbose=False)
    with display:
        for done in (10, 20.5, 31.25):
            display.output("train_final", f"progress {done}/100 percent\n")
        display._progress.refresh()
        assert re.search(r"train_final.*31/100.*percent \d:\d\d:\d\d", plain(text))


def plain(text: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())


def test_colours_of_a_step_reach_no_file() -> None:
    text = io.StringIO()
    with Display(Console(file=text, width=80), verbose=True) as display:
        display.output("train_fold 0", f"{ESCAPE}[31mred{ESCAPE}[0m\n")
    assert text.getvalue().splitlines()[0] == "    train_fold 0 │ red"


def test_a_step_that_cannot_start_says_why_as_it_is() -> None:
    text = io.StringIO()
    with Display(Console(file=text, width=40), verbose=False) as display:
        display.waits("train_fold 0", "Unschedulable: 0/1 nodes are available [bold]for[/] that")
    (line,) = filter(None, text.getvalue().splitlines())
    said = "waits: Unschedulable: 0/1 nodes are available [bold]for[/] that"
    assert line.split() == ["…", "train_fold", "0", *said.split()]


def test_output_that_comes_after_a_steps_end_brings_no_bar_back() -> None:
    display = Display(Console(file=io.StringIO(), force_terminal=True, width=80), verbose=False)
    with display:
        display.started("train_fold 0")
        display.finished("train_fold 0", 1)
        display.output("train_fold 0", "progress 3/3 epochs\n")
        assert display._progress.tasks == []
        display.started("train_fold 0")  # another attempt
        display.output("train_fold 0", "progress 1/3 epochs\n")
        assert len(display._progress.tasks) == 1
