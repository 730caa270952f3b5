"""What a number depends on beside code and data: threads, processor kernels and torch's build."""

import torch


def prepare(num_threads: int, seed: int = 0) -> None:
    """Make torch repeatable: a fixed number of threads, deterministic kernels and a seed."""
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def describe() -> dict[str, str]:
    """Return what must be equal for two runs to give the same numbers to the last digit."""
    return {
        "device": "cpu",
        "num_threads": str(torch.get_num_threads()),
        "processor_kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
