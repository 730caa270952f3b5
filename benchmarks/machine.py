"""The machine: its processor, the versions that matter, and how busy others keep it."""

import os
import platform
import resource
import time
from importlib import metadata
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
ENGINES = ("torch", "torchvision", "onnxruntime", "openvino", "simplejpeg", "pillow", "numpy")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> tuple[str, tuple[str, ...]]:
    """Return the processor's model and those of its flags that decide how fast a network runs."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    present = fields.get("flags", "").split()
    return fields.get("model name", platform.machine()), tuple(f for f in FLAGS if f in present)


def computes_bfloat16(flags: tuple[str, ...]) -> bool:
    """Tell whether the processor has any instruction for products of bfloat16."""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def versions() -> dict[str, str]:
    """Return the version of Python and of each engine that is installed."""
    found = {"python": platform.python_version()}
    for name in ENGINES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Watch:
    """How many cores others have used since it was made.

    All that the processor did, by /proc/stat, less what this process and its ended children did.
    Time stolen by a hypervisor counts as others'.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    @property
    def seconds(self) -> float:
        """The seconds since it was made."""
        return time.monotonic() - self._start

    def others(self) -> float:
        """Return others' use in cores, a mean; every child must have ended."""
        busy, own = _busy_seconds() - self._busy, _own_seconds() - self._own
        return others_cores(busy, own, self.seconds)


def others_cores(busy: float, own: float, seconds: float) -> float:
    """Return cores in use by others; the two clocks differ by ticks, so never below 0."""
    return max(0.0, (busy - own) / seconds)


def _busy_seconds() -> float:
    # https://man7.org/linux/man-pages/man5/proc_stat.5.html; guest time is within user time.
    with Path("/proc/stat").open() as file:
        values = [int(value) for value in file.readline().split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = values
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def memory() -> dict[str, int]:
    """Return the bytes of this process: now anonymous, and the most that were resident at once.

    The peak is VmHWM, not getrusage's ru_maxrss: that one begins with what the parent had when it
    started this process.
    """
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmHWM", "RssAnon"):
            fields[name] = int(value.split()[0]) * 1024
    return fields
