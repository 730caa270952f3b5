"""Choosing among the candidates by what cross-validation says of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from crossfold import calibration, metrics, tensorfile
from crossfold.candidate_comparison import compare

_SCORES = ("macro_f1", "accuracy", "loss")


def aggregate_cv(
    *, predictions: Sequence[Path], architecture: str, leaderboard: Path
) -> dict[str, Any]:
    """Rank the candidates by mean macro F1 over the folds; of equal ones the lower loss wins.

    Writes the leaderboard as JSON: per candidate the mean, standard deviation and interval of its
    scores, with its folds and a comparison with the best; the index of the best; the epochs of the
    final fit, which are the mean over the folds of the best candidate's best epoch; the temperature
    of its probabilities, fitted on all folds at once.

    Returns:
        The leaderboard.
    """
    folds = sorted(
        (tensorfile.read(path) for path in predictions),
        key=lambda fold: fold[1]["results"][0]["fold"],
    )
    results = [about["results"] for _, about in folds]
    candidates = [_summarise(of_folds) for of_folds in zip(*results, strict=True)]
    best = min(
        range(len(candidates)),
        key=lambda i: (-candidates[i]["mean"]["macro_f1"], candidates[i]["mean"]["loss"]),
    )
    arrays = [of_fold for of_fold, _ in folds]
    _add_comparisons(candidates, arrays, best, len(folds[0][1]["classes"]))
    board = {
        "architecture": architecture,
        "classes": folds[0][1]["classes"],
        "num_folds": len(folds),
        "candidates": candidates,
        "best": best,
        "num_epochs": max(1, round(mean(f["best_epoch"] for f in candidates[best]["folds"]))),
        "temperature": _temperature(arrays, best),
    }
    leaderboard.write_text(json.dumps(board))
    return board


def _add_comparisons(
    candidates: Sequence[dict[str, Any]],
    folds: Sequence[dict[str, tensorfile.Array]],
    best: int,
    num_classes: int,
) -> None:
    """Compare each candidate with the best one; one that diverged has no predictions."""
    predicted = {
        index: np.concatenate([fold[f"probabilities_{index}"].argmax(axis=1) for fold in folds])
        for index in range(len(candidates))
        if all(f"probabilities_{index}" in fold for fold in folds)
    }
    labels = np.concatenate([fold["label"] for fold in folds])
    compared = compare(labels, predicted, best, num_classes)
    for index, candidate in enumerate(candidates):
        candidate["against_best"] = compared[index].to_json() if index in compared else None


def _temperature(folds: Sequence[dict[str, tensorfile.Array]], candidate: int) -> float:
    """Fit a candidate's temperature on images that the network of their fold did not see."""
    return calibration.fit_temperature(
        np.concatenate([arrays["label"] for arrays in folds]),
        np.concatenate([arrays[f"probabilities_{candidate}"] for arrays in folds]),
    )


def _summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one candidate's mean, spread and interval from its result on each fold."""
    figures = {
        name: metrics.mean_std_interval([r[name] for r in results], len(results))
        for name in _SCORES
    }
    return {
        "candidate": results[0]["candidate"],
        "mean": {name: figure.mean for name, figure in figures.items()},
        "std": {name: figure.std for name, figure in figures.items()},
        "interval": {name: figure.interval for name, figure in figures.items()},
        "folds": [{k: v for k, v in result.items() if k != "candidate"} for result in results],
    }
