"""A head's weights are the same bits on every x86-64 processor with AVX2."""

import hashlib
import subprocess
import sys

import numpy as np
from torch import nn

from crossfold.network import determinism
from crossfold.training.feature_rows import FeatureRows
from crossfold.training.head import fit_head

# Seen on an Intel Xeon with AMX. Without `portable`, AVX512 gave adb415a1… and AVX2 da01c26a….
HASH = "dae48e15d93615ebd4ead73f0f9790d3ae1be6ba28acdccb3b7271f7e1e3058d"
NUM_ROWS, NUM_CHANNELS, NUM_CLASSES = 300, 256, 10


def head_hash(num_threads: int) -> str:
    """Fit a head on drawn features, in a process that has computed with no other kernels."""
    determinism.prepare(num_threads, portable=True)
    bits = np.random.PCG64(0)  # numpy guarantees its stream
    integers = bits.random_raw(NUM_ROWS * NUM_CHANNELS) >> np.uint64(44)
    features = (integers.astype(np.float32) / np.float32(2**19) - 1).reshape(NUM_ROWS, -1)
    labels = (bits.random_raw(NUM_ROWS) >> np.uint64(40)).astype(np.int64) % NUM_CLASSES
    layer = nn.Linear(NUM_CHANNELS, NUM_CLASSES)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    rows = FeatureRows(features, labels, np.arange(NUM_ROWS))
    with determinism.one_thread():
        fit_head(nn.Sequential(layer), rows, 1e-4, lambda share: None)
    return hashlib.sha256(layer.weight.detach().numpy().tobytes()).hexdigest()


def test_a_head_has_the_same_bits_on_every_processor_with_any_number_of_threads() -> None:
    command = f"from {__name__} import head_hash; print(head_hash(1), head_hash(2))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [HASH, HASH]
