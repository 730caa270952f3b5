"""Rows of stored features that form a training or validation split."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossfold.network import safetensors_file

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class FeatureRows:
    """The rows of a split.

    `features` is [N, …] as extract_features wrote it, mapped from the file; `labels` int64 [N];
    `rows` int64 [M] says which of them belong to the split.
    """

    features: safetensors_file.Array
    labels: Indices
    rows: Indices

    def batches(self, size: int, order: Indices | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features [B, …], labels [B]); `order` is a permutation of range(M)."""
        rows = self.rows if order is None else self.rows[order]
        starts = list(range(0, len(rows), size))
        if len(starts) > 1 and len(rows) - starts[-1] == 1:
            starts.pop()  # batch normalization cannot train on one image: it joins the batch before
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            chosen = rows[start:end]
            yield torch.from_numpy(self.features[chosen]), torch.from_numpy(self.labels[chosen])
