import pytest

from crossfold.step.progress import parse_progress, report_progress


def test_what_is_reported_is_parsed(capfd: pytest.CaptureFixture[str]) -> None:
    report_progress(3, 20, "images")
    assert parse_progress(capfd.readouterr().out) == (3, 20, "images")


def test_parts_are_reported_and_parsed(capfd: pytest.CaptureFixture[str]) -> None:
    report_progress(1 / 3, 20, "epochs")
    assert parse_progress(capfd.readouterr().out) == (0.333, 20, "epochs")


@pytest.mark.parametrize(
    "line",
    ["", "progress", "progress 3/20", "my progress 3/20 images", "progress 3/20 images left"],
)
def test_other_lines_are_no_progress(line: str) -> None:
    assert parse_progress(line) is None
