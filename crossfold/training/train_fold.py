"""Train every candidate on all folds except one."""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from crossfold.evaluation import metrics
from crossfold.features.features_file import Features
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import determinism, safetensors_file
from crossfold.records import DivergedResult, FoldResult, FoldResults, NamedCandidate
from crossfold.settings import Candidate
from crossfold.step.progress import Progress

from .feature_rows import FeatureRows
from .fit import fit, trainable_suffix
from .loop import DivergedError, Probabilities
from .recipe import FitSettings, Recipe


def train_fold(
    *,
    features: Path,
    fold: int,
    candidates: Sequence[Candidate],
    settings: FitSettings,
    num_threads: int,
    predictions: Path,
) -> FoldResults:
    """Train every candidate on all folds except one, and predict that one.

    Writes one safetensors file: `row` and `label`, int64 [M], and for each candidate that has not
    diverged `probabilities_<index>`, float32 [M, K], the out-of-fold probabilities. Its metadata
    are the `FoldResults`.
    """
    determinism.prepare(num_threads, portable=settings.portable)
    stored = Features(features)
    held_out, others = np.flatnonzero(stored.folds == fold), np.flatnonzero(stored.folds != fold)
    outputs = {"row": held_out, "label": stored.labels[held_out]}
    results = []
    name, untrained = "", nn.Module()
    progress = Progress(len(candidates), "candidates")
    for index, candidate in enumerate(candidates):
        backbone = stored.backbone(candidate.backbone)
        if backbone.name != name:
            untrained = nn.Module()  # frees the last one before the next is loaded
            name, untrained = backbone.name, stored.network(backbone, settings.seed)
        values = stored.values(backbone, candidate.train_from)
        training, validation = (
            FeatureRows.of_images(values, stored.labels, images) for images in (others, held_out)
        )
        result, probabilities = _train_candidate(
            copy.deepcopy(untrained),
            training,
            validation,
            Recipe(candidate, settings),
            backbone.preprocessing,
            fold,
            partial(_report_share, progress, index),
        )
        results.append(result)
        if probabilities is not None:
            outputs[f"probabilities_{index}"] = probabilities
        progress.report(index + 1)
    found = FoldResults(classes=stored.classes, backbones=stored.backbones, results=tuple(results))
    safetensors_file.write(predictions, outputs, found.model_dump())
    return found


def _report_share(progress: Progress, done: int, share: float) -> None:
    progress.report(done + share)


def _train_candidate(
    network: nn.Module,
    training: FeatureRows,
    validation: FeatureRows,
    recipe: Recipe,
    preprocessing: Preprocessing,
    fold: int,
    progress: Callable[[float], None],
) -> tuple[FoldResult | DivergedResult, Probabilities | None]:
    """Train one candidate, and score it on the validation rows; it may diverge."""
    candidate = recipe.candidate
    about = {
        "candidate": NamedCandidate(name=candidate.name, **candidate.model_dump()),
        "fold": fold,
        "num_epochs": recipe.num_epochs,
    }
    suffix = trainable_suffix(network, recipe, preprocessing)
    try:
        history, probabilities = fit(suffix, training, validation, recipe, progress)
    except DivergedError as error:
        logging.warning("fold %d, %s: %s", fold, candidate.name, error)
        return DivergedResult.model_validate({**about, "diverged": error.epoch}), None
    scores = metrics.scores(validation.labels[validation.rows], probabilities)
    logging.info("fold %d, %s: macro F1 %.4f", fold, candidate.name, scores["macro_f1"])
    result = FoldResult.model_validate({**about, "history": history, **scores})
    return result, probabilities
