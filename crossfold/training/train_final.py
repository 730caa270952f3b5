"""Train the chosen candidate on every image outside the test split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossfold.errors import UserError
from crossfold.evaluation.prediction_sets.build import build_reference
from crossfold.features.features_file import Features
from crossfold.network import determinism, openvino_engine, trained_network
from crossfold.records import Leaderboard, Scores
from crossfold.settings import AUTO, FLOAT32, INT8, Candidate
from crossfold.step.progress import Progress

from .feature_rows import FeatureRows
from .fit import fit, trainable_suffix
from .loop import DivergedError, fold_scores
from .recipe import FitSettings, Recipe


def train_final(
    *,
    features: Path,
    predictions: Sequence[Path],
    leaderboard: Path,
    settings: FitSettings,
    num_threads: int,
    model: Path,
    exported: Path,
    sets: Path,
) -> Scores:
    """Train the chosen candidate as in the folds, on all their images.

    Writes the network, its export, and the file that prediction sets are told from. In int8, the
    export has the quantized graph that computed the features.

    Returns:
        The fold metrics of the trained network on the training images.

    Raises:
        UserError: the fit diverges; no network is written then.
    """
    determinism.prepare(num_threads, portable=settings.portable)
    board = Leaderboard.read(leaderboard)
    candidate = Candidate(**board.chosen.candidate.hyper_parameters)
    stored = Features(features)
    backbone = stored.backbone(candidate.backbone)
    network = stored.network(backbone, settings.seed)
    labels = stored.labels
    rows = FeatureRows.of_images(
        stored.values(backbone, candidate.train_from), labels, np.arange(len(labels))
    )
    recipe = Recipe(candidate, settings)
    suffix = trainable_suffix(network, recipe, backbone.preprocessing)
    progress = Progress(100, "percent")
    try:
        _, probabilities = fit(
            suffix,
            rows,
            None,
            recipe,
            lambda share: progress.report(100 * share),
        )
    except DivergedError as error:
        raise UserError(
            f"params.yaml candidates: {candidate.name} {error}. It diverged in no fold, only in "
            "the final fit on more images. Lower its learning_rate."
        ) from None
    frozen = stored.graph(backbone, candidate.train_from)
    trained_network.save_network(
        model,
        network,
        architecture=backbone.architecture,
        classes=stored.classes,
        preprocessing=backbone.preprocessing,
        precision=_precision(settings.precision, is_quantized=frozen is not None),
        temperature=board.temperature,
        views=settings.predicted_views,
    )
    openvino_engine.export(model, exported, frozen)
    build_reference(stored, predictions, board).write(sets)
    return fold_scores(labels, probabilities)


def _precision(asked: str, *, is_quantized: bool) -> str:
    """Name the trained network's precision; without a frozen part, nothing is quantized."""
    if asked in (INT8, AUTO):
        return INT8 if is_quantized else FLOAT32
    return asked
