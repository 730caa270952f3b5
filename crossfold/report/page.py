"""Render the report of a run: one self-contained HTML page without scripts."""

from collections.abc import Mapping

import jinja2

from crossfold.data.samples.sample import weights_warning
from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis.labels import outliers
from crossfold.evaluation import metrics, shown_images
from crossfold.evaluation.metrics import Metric
from crossfold.html.jinja_environment import template_environment
from crossfold.records import Drawing, Evaluation, Interval, Leaderboard, Registration

from . import content, lineage_rows, palette, test_split_reuse
from .pictures import MAX_DIAGNOSED, DataSummary
from .predictions import predictions

FEW_MISTAKES = 10  # with fewer, bootstrap intervals are too narrow (docs/decisions/021)


def render(
    evaluation: Evaluation,
    leaderboard: Leaderboard,
    diagnosis: Diagnosis,
    data_summary: DataSummary,
    drawings: Mapping[str, Drawing],
    *,
    registration: Registration,
    lineage: Mapping[str, str],
) -> str:
    """Render the report as HTML.

    `drawings` are the figures of this evaluation, leaderboard and diagnosis, see `drawings.draw`.
    `lineage` are the version's tags.
    """
    weights = leaderboard.chosen.backbone.weights
    test = predictions(evaluation)
    pictures = data_summary.tested, data_summary.overlays
    mistakes = shown_images.confident_mistakes(evaluation)
    explained = [one.position for one in evaluation.activation_maps]
    right = [i for i in explained if test.predicted[i] == test.labels[i]]
    page = _environment().get_template("report.html")
    return page.render(
        evaluation=evaluation,
        weights_warning=weights_warning(evaluation.data_hash, weights),
        leaderboard=leaderboard,
        diagnosis=diagnosis,
        metrics=metrics.METRICS,
        fold_metrics=metrics.fold_metrics(),
        test=test,
        accuracy_interval=metrics.wilson_interval(test.num_right, len(test.labels)),
        class_rows=content.class_rows(test, evaluation.class_f1_intervals),
        left_out=[(test.classes[i], reason) for i, reason in test.roc.left_out.items()],
        mistakes=content.tested_images(test, mistakes, *pictures),
        right=content.tested_images(test, right, *pictures),
        baseline=content.majority_baseline(test, data_summary.counts["train"]),
        without_leaked=content.scores_without(test, data_summary.facts.leaked),
        num_mistakes=len(test.labels) - test.num_right,
        few_mistakes=FEW_MISTAKES,
        data_rows=content.data_rows(test.classes, data_summary.counts),
        data_summary=data_summary,
        max_diagnosed=MAX_DIAGNOSED,
        num_neighbours=outliers.NUM_NEIGHBOURS,
        max_z_score=outliers.MAX_Z_SCORE,
        drawings=drawings,
        max_candidates_drawn=palette.MAX_CANDIDATES_DRAWN,
        max_classes_drawn=palette.MAX_CLASSES_IN_LEGEND,
        num_worst_classes=palette.NUM_WORST_CLASSES,
        registration=registration,
        best_of=test_split_reuse.best_of(
            registration.num_judged_before + 1,
            evaluation.metrics["macro_f1"],
            evaluation.intervals["macro_f1"],
        ),
        started=lineage.get("started", "")[:10],
        lineage_rows=lineage_rows.rows(lineage),
        lineage_details=lineage_rows.details(lineage),
    )


def _environment() -> jinja2.Environment:
    environment = template_environment("crossfold.report")
    environment.filters["capitalised"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["percent"] = _percent
    environment.filters["score"] = _score
    environment.filters["fixed"] = lambda number, digits=4: f"{number:.{digits}f}"
    environment.filters["signed"] = lambda number: f"{round(number, 4) + 0.0:+.4f}"  # no -0
    environment.filters["signed_points"] = lambda number: f"{round(number, 1) + 0.0:+.1f}"
    environment.filters["interval"] = lambda ends: " to ".join(f"{end:.4f}" for end in ends)
    environment.filters["score_interval"] = lambda ends, metric: " to ".join(
        _score(end, metric) for end in ends
    )
    environment.filters["share_interval"] = _share_interval
    environment.filters["p_value"] = lambda p: f"{p:.4f}" if p >= 0.0001 else "< 0.0001"
    return environment


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _score(value: float, metric: Metric) -> str:
    return _percent(value) if metric.in_percent else f"{value:.4f}"


def _share_interval(interval: Interval) -> str:
    low, high = interval
    return f"{max(low, 0):.4f} to {min(high, 1):.4f}"
