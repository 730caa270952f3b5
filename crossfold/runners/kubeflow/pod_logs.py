"""Show the output of steps on a cluster while they run."""

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from crossfold.infra.cluster.kubectl import Cluster
from crossfold.runners.display import Display
from crossfold.step.environment import for_other_programs

REFUSED = "error: "  # crossfold.step.runtime's prefix for a user's mistake


class Follower:
    """Stream the logs of pods to a display, with one kubectl process for each pod."""

    def __init__(self, cluster: Cluster, namespace: str, display: Display) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._display = display
        self._followed: dict[str, subprocess.Popen[str]] = {}
        # A signal interrupts the main thread only, so every process that is started is recorded.
        self._starter = ThreadPoolExecutor(1)
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Follower":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._starter.shutdown()
        for process in self._started:
            process.terminate()
            process.wait()

    def follow(self, title: str, pod: str) -> None:
        """Show a step's pod log from its first line; restart the stream after an outage."""
        if pod in self._followed and self._followed[pod].poll() in (None, 0):
            return
        process = self._starter.submit(self._start, pod).result()
        self._followed[pod] = process
        threading.Thread(target=self._read, args=(title, process), daemon=True).start()

    def _start(self, pod: str) -> subprocess.Popen[str]:
        where = (f"--context={self._cluster.context}", f"--namespace={self._namespace}")
        process = subprocess.Popen(
            ["kubectl", *where, "logs", pod, "--container=main", "--follow"],
            env=for_other_programs(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._started.append(process)
        return process

    def _read(self, title: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        in_message = False  # a message lists its files on the following lines
        for line in process.stdout:
            self._display.output(title, line)
            in_message = line.startswith(REFUSED) or (in_message and line.startswith(" "))
            if in_message and not self._display.verbose:
                self._display.say(f"  {title}: {line.rstrip()}")
