"""Choosing among the candidates by what cross-validation says of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossfold.errors import UserError
from crossfold.network import tensorfile

from . import calibration, metrics
from .candidate_comparison import compare

_SCORES = ("macro_f1", "accuracy", "loss")


def aggregate_cv(
    *, predictions: Sequence[Path], architecture: str, leaderboard: Path
) -> dict[str, Any]:
    """Rank the candidates by mean macro F1 over the folds; of equal ones the lower loss wins.

    Writes the leaderboard as JSON: per candidate the mean, standard deviation and interval of its
    scores, with its folds and a comparison with the best; the index of the best; the epochs of its
    fits (None for a head); the temperature of its probabilities, fitted on all folds at once. A
    candidate that has diverged in any fold has no mean: it comes after the others, in a list of
    its own ("diverged"), with those folds and epochs.

    Returns:
        The leaderboard.

    Raises:
        UserError: every candidate has diverged.
    """
    folds = sorted(
        (tensorfile.read(path) for path in predictions),
        key=lambda fold: fold[1]["results"][0]["fold"],
    )
    by_candidate = list(zip(*(about["results"] for _, about in folds), strict=True))
    sound = [
        index
        for index, results in enumerate(by_candidate)
        if not any("diverged" in result for result in results)
    ]
    if not sound:
        names = ", ".join(results[0]["candidate"]["name"] for results in by_candidate)
        raise UserError(
            f"params.yaml candidates: every one diverged, its loss is no number: {names}. "
            "Lower their learning_rate."
        )
    candidates = [_summarise(by_candidate[index]) for index in sound]
    best = min(
        range(len(candidates)),
        key=lambda i: (-candidates[i]["mean"]["macro_f1"], candidates[i]["mean"]["loss"]),
    )
    arrays = [of_fold for of_fold, _ in folds]
    predicted = {
        position: np.concatenate([fold[f"probabilities_{index}"].argmax(axis=1) for fold in arrays])
        for position, index in enumerate(sound)
    }
    labels = np.concatenate([fold["label"] for fold in arrays])
    compared = compare(labels, predicted, best, len(folds[0][1]["classes"]))
    for position, candidate in enumerate(candidates):
        against = compared.get(position)
        candidate["against_best"] = against.to_json() if against else None
    board = {
        "architecture": architecture,
        "classes": folds[0][1]["classes"],
        "num_folds": len(folds),
        "candidates": candidates,
        "diverged": [
            _diverged(results) for index, results in enumerate(by_candidate) if index not in sound
        ],
        "best": best,
        "num_epochs": candidates[best]["folds"][0]["num_epochs"],
        "temperature": _temperature(arrays, sound[best]),
    }
    leaderboard.write_text(json.dumps(board))
    return board


def _temperature(folds: Sequence[dict[str, tensorfile.Array]], candidate: int) -> float:
    """Fit a candidate's temperature on images that the network of their fold did not see."""
    return calibration.fit_temperature(
        np.concatenate([arrays["label"] for arrays in folds]),
        np.concatenate([arrays[f"probabilities_{candidate}"] for arrays in folds]),
    )


def _diverged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a candidate with the folds in which it diverged, and the epochs."""
    folds = [
        {"fold": result["fold"], "epoch": result["diverged"]}
        for result in results
        if "diverged" in result
    ]
    return {"candidate": results[0]["candidate"], "folds": folds}


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
