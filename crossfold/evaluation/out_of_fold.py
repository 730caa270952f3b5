"""Read the chosen candidate's out-of-fold predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossfold.network import safetensors_file
from crossfold.records import FoldResults, Leaderboard


def chosen_probabilities(predictions: Sequence[Path], board: Leaderboard) -> safetensors_file.Array:
    """Collect the chosen candidate's probabilities, float32 [N, K], in the order of the images.

    `predictions` are the files of all folds, as train_fold wrote them.
    """
    rows, probabilities = [], []
    for path in predictions:
        arrays, metadata = safetensors_file.read(path)
        names = [r.candidate.name for r in FoldResults.model_validate(metadata).results]
        rows.append(arrays["row"])
        probabilities.append(arrays[f"probabilities_{names.index(board.chosen.candidate.name)}"])
    ordered: safetensors_file.Array = np.concatenate(probabilities)[
        np.argsort(np.concatenate(rows))
    ]
    return ordered
