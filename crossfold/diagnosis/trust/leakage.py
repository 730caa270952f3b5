"""Measure how optimistic scores would be if folds divided images that belong together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from crossfold.data.examples import BATCH_SIZE, TRAIN, Examples
from crossfold.data.grouping.joining import join_images
from crossfold.diagnosis.evidence import Evidence, number_by_content
from crossfold.diagnosis.rounding import rounded
from crossfold.errors import UserError
from crossfold.imaging import decoding
from crossfold.imaging.near_duplicates import Index, shrink

from .head_fits import Numbers, out_of_fold, scores_of_folds
from .learning_curve import group_places
from .records import LeakageCheck, LeakageScores
from .repeated_cv import repeated_folds

NUM_REPEATS = 5
MAX_IMAGES = 5000  # with more, the fits take minutes


@dataclass(frozen=True)
class _Ties:
    """The group of each image, int64 [N], and what ties its images, in words."""

    groups: Numbers
    origin: str


def check_leakage(
    evidence: Evidence, progress: Callable[[float], None] = lambda share: None
) -> LeakageCheck:
    """Cross-validate the best head with folds that keep ties together, and that draw images alone.

    Ties are the run's groups. If it has none, near duplicates and copies are tied.

    Args:
        evidence: what the run knows of its images, with features.
        progress: is told the share that is done.

    Raises:
        UserError: nothing ties any images, or too much does for the folds.
    """
    ties = _ties(evidence)
    chosen = _some_groups(evidence.labels, ties.groups)
    _require_enough_groups(evidence, ties.groups[chosen], chosen)
    done = iter(np.arange(1, 2 * NUM_REPEATS + 1) / (2 * NUM_REPEATS))

    def score(groups: Numbers) -> LeakageScores:
        return _score(evidence, groups, chosen, lambda: progress(float(next(done))))

    # Threads that wait for products of small matrices take up to forty times as long.
    with threadpool_limits(limits=1, user_api="blas"):
        together, alone = score(ties.groups[chosen]), score(np.arange(len(chosen)))
    counts = evidence.table.facts
    return LeakageCheck(
        head=evidence.best_head.name,
        ties=ties.origin,
        num_images=len(chosen),
        num_groups=len(np.unique(ties.groups[chosen])),
        num_folds=evidence.leaderboard.num_folds,
        num_repeats=NUM_REPEATS,
        together=together,
        alone=alone,
        num_test=counts.num_test,
        num_test_near_training=counts.pair_counts.leaked,
    )


def _ties(evidence: Evidence) -> _Ties:
    if facts := evidence.table.facts.groups:
        return _Ties(evidence.groups, f"groups {facts.rule}" if facts.rule else "near duplicates")
    pairs = _near_duplicates(evidence.table)
    joined = join_images([evidence.groups.tolist()], pairs)
    groups = number_by_content(joined, evidence.content_hashes)
    if len(np.unique(groups)) == len(groups):
        raise UserError(
            "the training images have no groups, no copies and no near duplicates, so there is "
            "nothing that folds could divide. If several images show one patient, plant or "
            "camera, set data.groups and run again"
        )
    return _Ties(groups, "near duplicates and copies" if pairs else "copies")


def _near_duplicates(table: Examples) -> list[tuple[int, int]]:
    """Find near duplicates among the squares of the training images."""
    index = Index()
    for _, images, _ in table.batches(TRAIN, BATCH_SIZE, table.geometries[0]):
        for image in images:
            square = _decode(image) if isinstance(image, bytes) else Image.fromarray(image)
            index.add(np.asarray(shrink(square).convert("L")))
    first, second, _ = index.find(np.arange(table.count(TRAIN)))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _decode(data: bytes) -> Image.Image:
    with decoding.opened(data) as picture:
        return shrink(picture)


def _some_groups(labels: Numbers, groups: Numbers) -> Numbers:
    """Choose whole groups with about MAX_IMAGES images, the same share of each class."""
    rank = np.random.default_rng(0).permutation(groups.max() + 1)[groups]
    return np.flatnonzero(group_places(labels, rank) < MAX_IMAGES / len(labels))


def _require_enough_groups(evidence: Evidence, groups: Numbers, chosen: Numbers) -> None:
    labels, num_folds = evidence.labels[chosen], evidence.leaderboard.num_folds
    for label, name in enumerate(evidence.classes):
        number = len(np.unique(groups[labels == label]))
        if number < num_folds:
            raise UserError(
                f"class {name} has {number} sets of images that belong together, fewer than the "
                f"{num_folds} folds of the run. Run with fewer folds (data.num_folds), or set "
                "data.groups if the near duplicates show different things"
            )


def _score(
    evidence: Evidence, groups: Numbers, chosen: Numbers, repeated: Callable[[], None]
) -> LeakageScores:
    """Cross-validate the head on the chosen images; call `repeated` after each repetition."""
    features, labels = evidence.head_inputs[chosen], evidence.labels[chosen]
    contents = [evidence.content_hashes[image] for image in chosen]
    decay = np.array([evidence.best_head.weight_decay])
    macro_f1, accuracy = [], []
    num_folds = evidence.leaderboard.num_folds
    for folds in repeated_folds(labels, contents, groups, num_folds, NUM_REPEATS):
        predicted = out_of_fold(features, labels, folds, decay, evidence.class_weights)
        macro_f1.append(scores_of_folds(predicted, labels, folds).mean())
        accuracy.append((predicted[0] == labels).mean())
        repeated()
    return LeakageScores(
        macro_f1=rounded(np.mean(macro_f1)),
        lowest=rounded(min(macro_f1)),
        highest=rounded(max(macro_f1)),
        accuracy=rounded(np.mean(accuracy)),
    )
