from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from crossfold.network import determinism
from crossfold.registry.version_tags import of_computing


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_numbers_repeat_after_preparing() -> None:
    drawn = []
    for seed in (0, 0, 1):
        determinism.prepare(1, seed)
        drawn.append(torch.rand(5))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_description_names_what_the_numbers_depend_on(num_threads: int) -> None:
    determinism.prepare(num_threads)
    described = determinism.describe()
    assert of_computing({**described, "of": "a platform"}) == described
    assert described["num_threads"] == str(num_threads)
    assert described["device"] == "cpu"
    assert described["torch"] == torch.__version__
    assert described["openvino"] == version("openvino")
    flags = Path("/proc/cpuinfo").read_text().split()
    widest = "AVX512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "other"
    assert described["processor_kernels"] == widest
    assert (described["matrix_units"] == "AMX") == ("amx_bf16" in flags)
