"""Fit one candidate: a head to convergence, any other suffix of the network by epochs."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import cutting, determinism
from crossfold.network.normalization import from_pixels
from crossfold.network.views import DrawnViews
from crossfold.settings import PIXELS

from .feature_rows import FeatureRows
from .head import fit_head
from .loop import DivergedError, Probabilities, evaluate, train_epochs
from .recipe import Recipe

# From this image size on, a network trains faster with its values in memory channels last.
CHANNELS_LAST_FROM = 128


def trainable_suffix(network: nn.Module, recipe: Recipe, preprocessing: Preprocessing) -> nn.Module:
    """Cut off the part of the network that the candidate trains; it shares the weights.

    From "pixels" on, that is the whole network, which draws its views itself.
    """
    stage, traced = recipe.candidate.train_from, cutting.trace(network)
    if stage != PIXELS:
        return cutting.suffix(traced, stage)
    if preprocessing.image_size >= CHANNELS_LAST_FROM:
        network.to(memory_format=torch.channels_last)
    views, predicted = recipe.settings.views, recipe.settings.predicted_views
    drawn = DrawnViews(views, predicted, preprocessing.image_size)
    return from_pixels(nn.Sequential(drawn, traced) if views else traced, preprocessing)


def fit(
    suffix: nn.Module,
    training: FeatureRows,
    validation: FeatureRows | None,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> tuple[list[dict[str, float]], Probabilities]:
    """Train a head to convergence, and any other candidate for all its epochs.

    No epoch is picked by the validation images, so their scores are not biased by such a pick.

    Returns:
        The history (see `train_epochs`; a head has none), and the trained suffix's probabilities
        for the validation rows; without these, for the training rows.

    Raises:
        DivergedError: the loss, or a probability, is NaN or infinite.
    """
    if recipe.candidate.is_head:
        history: list[dict[str, float]] = []
        rows = training.with_views()
        with determinism.one_thread():
            loss = fit_head(
                suffix,
                rows,
                recipe.candidate.weight_decay,
                progress,
                recipe.settings.class_weights,
            )
        if not math.isfinite(loss):
            raise DivergedError(None)
    else:
        history = train_epochs(suffix, training, validation, recipe, progress)
    predicted = training if validation is None else validation
    probabilities = evaluate(suffix, predicted, recipe)
    if not np.isfinite(probabilities).all():
        raise DivergedError(recipe.num_epochs)
    return history, probabilities
