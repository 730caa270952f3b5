"""Make results repeatable, and describe the environment that they depend on."""

import ctypes
import os
from contextlib import AbstractContextManager
from importlib.metadata import version

import torch

# Parameters of mallopt (malloc.h): how much free memory at the end of the heap goes back to the
# system, and how many blocks may be mapped separately.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def prepare(num_threads: int, seed: int = 0) -> None:
    """Make torch repeatable: a fixed number of threads, deterministic kernels, a seed."""
    _keep_memory()
    torch.set_num_threads(num_threads)
    # Same as use_deterministic_algorithms(True), which also imports torch's compiler.
    torch.set_deterministic_debug_mode("error")
    torch.manual_seed(seed)


def _keep_memory() -> None:
    """Keep a layer's freed memory for the next one, if the C library is glibc.

    glibc returns large blocks to the system, and requests them again page by page at every layer.
    """
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def at_precision(precision: str) -> AbstractContextManager[None]:
    """Run the block in "float32" or, where that is safe, in "bfloat16" (torch.autocast)."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def describe() -> dict[str, str]:
    """Describe the environment that bit-identical results depend on."""
    return {
        "device": "cpu",
        "num_threads": str(torch.get_num_threads()),
        "processor_kernels": torch.backends.cpu.get_cpu_capability(),
        "matrix_units": "AMX" if torch.cpu.get_capabilities().get("amx_bf16") else "none",
        "torch": torch.__version__,
        "openvino": version("openvino"),
    }
