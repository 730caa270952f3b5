"""Rows of stored features that form a training or validation split."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from crossfold.network import safetensors_file

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class FeatureRows:
    """The rows of a split.

    `features` is [N, …] as extract_features wrote it, mapped from the file; `labels` int64 [N];
    `rows` int64 [M] says which of them belong to the split. Every image has `num_views` rows, one
    after another, its own first.
    """

    features: safetensors_file.Array
    labels: Indices
    rows: Indices
    num_views: int = 1

    @classmethod
    def of_images(cls, values: safetensors_file.Array, labels: Indices, images: Indices) -> Self:
        """Choose the rows of some images themselves, without their other views.

        `values` is [I, V, …] and `labels` [I], of all images; `images` are indices into them.
        """
        num_views = values.shape[1]
        features = values.reshape(-1, *values.shape[2:])
        return cls(features, np.repeat(labels, num_views), images * num_views, num_views)

    def with_views(self) -> Self:
        """Add the other views of each image after its own row."""
        rows = self.rows[:, np.newaxis] + np.arange(self.num_views)
        return replace(self, rows=rows.ravel())

    def drawn(self, generator: np.random.Generator) -> Self:
        """Draw one of the views of each image, instead of the image itself."""
        views = generator.integers(self.num_views, size=len(self.rows))
        return replace(self, rows=self.rows + views)

    def batches(self, size: int, order: Indices | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features [B, …], labels [B]); `order` is a permutation of range(M)."""
        rows = self.rows if order is None else self.rows[order]
        starts = list(range(0, len(rows), size))
        if len(starts) > 1 and len(rows) - starts[-1] == 1:
            starts.pop()  # batch normalization cannot train on one image: it joins the batch before
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            chosen = rows[start:end]
            yield torch.from_numpy(self.features[chosen]), torch.from_numpy(self.labels[chosen])
