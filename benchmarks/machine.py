"""Describe the machine, see how busy others keep it, and give each measurement a fresh process."""

import datetime
import io
import multiprocessing
import os
import platform
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import psutil
from pydantic import AfterValidator, BaseModel, ConfigDict

from crossfold.step.concurrency import num_cores

ROOT = Path(__file__).parents[1]
THREADS = num_cores()
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
_PACKAGES = ("numpy", "openvino", "pillow", "torch", "torchvision")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# Four digits: the rest is noise.
Measured = Annotated[float, AfterValidator(lambda value: float(f"{value:.4g}"))]


class Record(BaseModel):
    """A part of docs/performance.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(Record):
    """What the figures depend on, and the day they were measured."""

    date: str
    processor: str
    flags: tuple[str, ...]  # those that decide how fast a network runs
    threads: int
    versions: dict[str, str]


def this_machine() -> Machine:
    """Describe this machine, today."""
    fields = dict(re.findall(r"^(\w[\w ]*)\t+: (.*)$", Path("/proc/cpuinfo").read_text(), re.M))
    versions = {"python": platform.python_version()}
    return Machine(
        date=datetime.date.today().isoformat(),
        processor=fields.get("model name", platform.machine()),
        flags=tuple(flag for flag in _FLAGS if flag in fields.get("flags", "").split()),
        threads=THREADS,
        versions=versions | {name: metadata.version(name) for name in _PACKAGES},
    )


def in_fresh_process(
    work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Call a function in a new interpreter: no path warms up, or fills memory for, the next."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_drop_progress) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _drop_progress() -> None:
    sys.stdout = io.StringIO()  # where the steps report it


def pretend_cores(number: int) -> None:
    """Make `num_cores` count so many in this process, unless a container's limit is lower."""
    os.sched_getaffinity = lambda _: set(range(number))


def peak_memory() -> int:
    """Count the most bytes that this process has had in memory at once.

    Not by getrusage, whose ru_maxrss begins with the memory of the parent.
    """
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(kilobytes)


def others_seconds() -> float:
    """Count the processor's seconds that were not this process's or its ended children's.

    Time that a hypervisor steals is used by others.
    """
    now = psutil.cpu_times()
    busy = now.user + now.nice + now.system + now.irq + now.softirq + now.steal
    return float(busy - sum(os.times()[:4]))
