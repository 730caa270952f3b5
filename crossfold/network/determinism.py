"""Make results repeatable, and describe the environment that they depend on."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version

import torch

# Parameters of mallopt (malloc.h): how much free memory at the end of the heap goes back to the
# system, and how many blocks may be mapped separately.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_FLAGS = {"AVX512": "avx512_f", "AVX2": "avx2"}


def prepare(num_threads: int, seed: int = 0, *, portable: bool = False) -> None:
    """Make torch repeatable: a fixed number of threads, deterministic kernels, a seed.

    Args:
        num_threads: processor threads.
        seed: seed of torch's generator.
        portable: use only kernels of torch and MKL that give the same bits on every x86-64
            processor with AVX2. They can't be changed once the process has computed something.
            Convolutions are oneDNN's, and still differ.
    """
    _keep_memory()
    if portable and torch.cpu.get_capabilities().get("avx2"):
        os.environ.update(ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="COMPATIBLE")
    torch.set_num_threads(num_threads)
    # Same as use_deterministic_algorithms(True), which also imports torch's compiler.
    torch.set_deterministic_debug_mode("error")
    # It would fill each new tensor with NaN before an operation writes it, to show reads of
    # uninitialized memory: a fifth of a ResNet18's time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)


def _keep_memory() -> None:
    """Keep a layer's freed memory for the next one, if the C library is glibc.

    glibc returns large blocks to the system, and requests them again page by page at every layer.
    """
    if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread during the block: sums then don't depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def at_precision(precision: str) -> AbstractContextManager[None]:
    """Run the block in bfloat16, where that is safe (torch.autocast); in float32 for "int8"."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


def describe() -> dict[str, str]:
    """Describe the environment that bit-identical results depend on.

    The kernels are the processor's widest, which compute the convolutions.
    """
    capabilities = torch.cpu.get_capabilities()
    kernels = [name for name in ("AVX512", "AVX2") if capabilities.get(_FLAGS[name])]
    return {
        "device": "cpu",
        "num_threads": str(torch.get_num_threads()),
        "processor_kernels": kernels[0] if kernels else "other",
        "matrix_units": "AMX" if capabilities.get("amx_bf16") else "none",
        "torch": torch.__version__,
        "openvino": version("openvino"),
    }
