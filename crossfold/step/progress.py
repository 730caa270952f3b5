"""Report a step's progress as log lines that the command line turns into a bar."""

import re
import time

_LINE = re.compile(r"^progress (\d+(?:\.\d+)?)/(\d+) (\w+)$")
INTERVAL = 1.0  # seconds between two lines


def report_progress(done: float, total: int, unit: str) -> None:
    """Report that `done` of `total` things are done; `unit` names them in one word."""
    print(f"progress {round(done, 3)}/{total} {unit}", flush=True)


class Progress:
    """Throttle progress reports to one a second, plus the last."""

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self._next = time.monotonic() + INTERVAL

    def report(self, done: float) -> None:
        """Report that `done` of the things are done, if a second has passed or all are done."""
        if done >= self.total or time.monotonic() >= self._next:
            report_progress(done, self.total, self.unit)
            self._next = time.monotonic() + INTERVAL


def parse_progress(line: str) -> tuple[float, int, str] | None:
    """Parse a line of `report_progress` into (done, total, unit); None for another line."""
    match = _LINE.match(line.strip())
    return (float(match[1]), int(match[2]), match[3]) if match else None
