"""Choose among the candidates by their results in cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossfold.errors import UserError
from crossfold.network import safetensors_file
from crossfold.records import (
    BackboneFacts,
    Choice,
    DivergedEntry,
    DivergedFold,
    DivergedResult,
    FoldResult,
    FoldResults,
    Leaderboard,
    LeaderboardEntry,
    backbone_of,
)

from . import calibration, metrics
from .candidates.choice import Rule, corrected_score
from .candidates.comparison import compare


@dataclass(frozen=True)
class _Fold:
    """One fold's out-of-fold predictions and results."""

    arrays: dict[str, safetensors_file.Array]
    about: FoldResults

    @property
    def results(self) -> tuple[FoldResult | DivergedResult, ...]:
        return self.about.results

    @property
    def number(self) -> int:
        return self.results[0].fold


def aggregate_cv(*, predictions: Sequence[Path], choice: Choice, leaderboard: Path) -> Leaderboard:
    """Rank the candidates by mean macro F1 over the folds, choose one, write the leaderboard.

    The choice is the best one, or the smallest that is nearly as good (see `Rule`). The lower loss
    breaks ties. The temperature is fitted on the out-of-fold predictions of all folds together. A
    candidate that diverged in any fold has no mean and is listed separately.

    Raises:
        UserError: every candidate diverged.
    """
    folds = sorted((_read(path) for path in predictions), key=lambda fold: fold.number)
    scored, diverged = _by_candidate(folds)
    if not scored:
        names = ", ".join(entry.candidate.name for entry in diverged)
        raise UserError(
            "params.yaml candidates: the loss of every candidate became NaN or infinite: "
            f"{names}. Lower their learning_rate."
        )
    about = folds[0].about
    entries = {index: _summarise(results, about.backbones) for index, results in scored.items()}
    by_loss = sorted(entries, key=lambda index: entries[index].mean["loss"])
    rule = Rule.of(choice, [entries[index] for index in by_loss])
    means = np.array([entries[index].mean["macro_f1"] for index in by_loss])
    (position,) = rule.choose(means[:, None])
    chosen = by_loss[position]
    predicted = {index: _out_of_fold(folds, index).argmax(axis=1) for index in entries}
    true = np.concatenate([fold.arrays["label"] for fold in folds])
    compared = compare(true, predicted, chosen, len(about.classes))
    board = Leaderboard(
        choice=choice,
        classes=about.classes,
        num_folds=len(folds),
        candidates=tuple(
            entry.model_copy(update={"against_chosen": compared.get(index)})
            for index, entry in entries.items()
        ),
        diverged=tuple(diverged),
        chosen_index=list(entries).index(chosen),
        num_epochs=scored[chosen][0].num_epochs,
        # Out-of-fold predictions: each image is new to the network that predicted it.
        temperature=calibration.fit_temperature(true, _out_of_fold(folds, chosen)),
        corrected=corrected_score(
            true,
            np.stack([predicted[index] for index in by_loss]),
            rule,
            chosen=int(position),
            score=float(means[position]),
            num_classes=len(about.classes),
        ),
    )
    board.write(leaderboard)
    return board


def _read(path: Path) -> _Fold:
    arrays, metadata = safetensors_file.read(path)
    return _Fold(arrays, FoldResults.model_validate(metadata))


def _by_candidate(
    folds: Sequence[_Fold],
) -> tuple[dict[int, list[FoldResult]], list[DivergedEntry]]:
    """Collect each candidate's results by its index; separate candidates that diverged."""
    scored, diverged = {}, []
    for index, results in enumerate(zip(*(fold.results for fold in folds), strict=True)):
        failed = [result for result in results if isinstance(result, DivergedResult)]
        if failed:
            diverged.append(
                DivergedEntry(
                    candidate=results[0].candidate,
                    folds=tuple(DivergedFold(fold=r.fold, epoch=r.diverged) for r in failed),
                )
            )
        else:
            scored[index] = [result for result in results if isinstance(result, FoldResult)]
    return scored, diverged


def _out_of_fold(folds: Sequence[_Fold], candidate: int) -> safetensors_file.Array:
    """Concatenate a candidate's probabilities of all folds, float32 [N, K]."""
    return np.concatenate([fold.arrays[f"probabilities_{candidate}"] for fold in folds])


def _summarise(
    results: Sequence[FoldResult], backbones: Sequence[BackboneFacts]
) -> LeaderboardEntry:
    """Compute a candidate's mean, standard deviation and interval over the folds."""
    spreads = {
        metric.name: metrics.mean_std_interval(
            [result.scores[metric.name] for result in results], len(results)
        )
        for metric in metrics.fold_metrics()
    }
    return LeaderboardEntry(
        candidate=results[0].candidate,
        backbone=backbone_of(results[0].candidate, backbones),
        mean={name: spread.mean for name, spread in spreads.items()},
        std={name: spread.std for name, spread in spreads.items()},
        interval={name: spread.interval for name, spread in spreads.items()},
        folds=tuple(result.without_candidate for result in results),
        against_chosen=None,
    )
