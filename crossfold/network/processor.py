"""The instructions of this machine's processor."""

from pathlib import Path

INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")  # as Linux names them
WITHOUT_INT8 = (
    "this processor has no instructions for int8 "
    f"({', '.join(INT8_INSTRUCTIONS)} among the flags in /proc/cpuinfo)"
)


def has_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether the processor multiplies int8 without saturation; False except on Linux."""
    return cpuinfo.exists() and not set(INT8_INSTRUCTIONS).isdisjoint(cpuinfo.read_text().split())
