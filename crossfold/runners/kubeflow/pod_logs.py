"""What the steps on a cluster say while they work."""

import subprocess
import threading
from types import TracebackType

from crossfold.infra import shell
from crossfold.infra.cluster.kubectl import Cluster
from crossfold.runners.display import Display

REFUSED = "error: "  # how crossfold.step.runtime says a user's mistake


class Follower:
    """Reads the logs of pods, each by a kubectl of its own, for a display."""

    def __init__(self, cluster: Cluster, namespace: str, display: Display) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._display = display
        self._followed: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Follower":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._followed.values():
            process.terminate()
            process.wait()

    def follow(self, title: str, pod: str) -> None:
        """Show what a step's pod says, from its first line to its last; again after an outage."""
        if pod in self._followed and self._followed[pod].poll() in (None, 0):
            return
        where = (f"--context={self._cluster.context}", f"--namespace={self._namespace}")
        process = subprocess.Popen(
            ["kubectl", *where, "logs", pod, "--container=main", "--follow"],
            env=shell.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._followed[pod] = process
        threading.Thread(target=self._read, args=(title, process), daemon=True).start()

    def _read(self, title: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        in_message = False  # the files that a message is about are on its next lines
        for line in process.stdout:
            self._display.output(title, line)
            in_message = line.startswith(REFUSED) or (in_message and line.startswith(" "))
            if in_message and not self._display.verbose:
                self._display.say(f"  {title}: {line.rstrip()}")
