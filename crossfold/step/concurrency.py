"""Run threads within the cores and memory that this process may use."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")
Result = TypeVar("Result")

# The kernel's files with a container's CPU limit: CPU time per period and the period's length, in
# microseconds; a time of "max" or -1 means no limit (Documentation/admin-guide/cgroup-v2.rst
# and, for version 1, Documentation/scheduler/sched-bwc.rst).
_CGROUP = Path("/sys/fs/cgroup")
_CPU_LIMITS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def num_cores() -> int:
    """Count the cores that this process may use, within its container's limit.

    `os.cpu_count()` counts the machine's cores, which a pod shares with others.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for names in _CPU_LIMITS:
        with suppress(OSError, ValueError):
            text = " ".join((_CGROUP / name).read_text() for name in names)
            quota, period = map(int, text.split())
            if quota > 0:
                cores = min(cores, -(-quota // period))
    return max(1, cores)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Apply a function in threads, and yield the results in the order of the items.

    A caller that stops early waits only for the calls that have begun.
    """
    threads = ThreadPoolExecutor(num_threads)
    try:
        yield from threads.map(function, items)
    finally:
        threads.shutdown(cancel_futures=True)


class Budget:
    """A memory budget, in bytes, that threads share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._returned = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def part(self, amount: int) -> Iterator[None]:
        """Reserve `amount` during the block; wait until that much is free.

        More than the whole budget counts as the whole: the block then runs alone. Threads are
        served in order of arrival, so small parts do not keep a large one waiting. A thread that
        holds a part must not ask for another.
        """
        amount = min(amount, self.size)
        with self._turn, self._returned:
            self._returned.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._returned:
                self._free += amount
                self._returned.notify()
