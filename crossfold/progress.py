"""How far a step has come, as a line of its log that the command line turns into a bar."""

import re

_LINE = re.compile(r"^progress (\d+)/(\d+) (\w+)$")


def report_progress(done: int, total: int, unit: str) -> None:
    """Say that `done` of `total` things are done; `unit` names them in one word."""
    print(f"progress {done}/{total} {unit}", flush=True)


def parse_progress(line: str) -> tuple[int, int, str] | None:
    """Return (done, total, unit) if the line is one of `report_progress`, else None."""
    match = _LINE.match(line.strip())
    return (int(match[1]), int(match[2]), match[3]) if match else None
