"""The pipeline's steps as functions, from the photos to the report, without its commands."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from crossfold.data.examples import Examples
from crossfold.diagnosis.diagnose_data import diagnose_data
from crossfold.diagnosis.findings import Diagnosis
from crossfold.diagnosis_settings import DIAGNOSIS
from crossfold.evaluation import cross_validation, shown_images, test_split
from crossfold.extraction.extract_features import extract_features
from crossfold.network import safetensors_file
from crossfold.records import Choice, Evaluation, Leaderboard, Registration, Verdict
from crossfold.report import drawings, page, pictures
from crossfold.training.train_final import train_final
from crossfold.training.train_fold import train_fold

from .dataset import Workspace
from .machine import THREADS
from .naive import Outcome, Split

WRITE_EXAMPLES = "write_examples"
WITH_EPOCHS = ("train_folds", "aggregate_cv", "train_final")  # their time depends on the epochs
# Those of the scale, where write_examples has its page: one process, as fetch_data is.
STEPS = (
    WRITE_EXAMPLES,
    "extract_features",
    *WITH_EPOCHS,
    "diagnose_data",
    "evaluate_test",
    "write_report",
)


def pipeline_steps(
    workspace: Workspace, folder: Path, precision: str, num_threads: int = THREADS
) -> dict[str, Callable[[], object]]:
    """List the steps in order, as functions that read and write files in `folder`.

    The folds are trained in turn, on the one thread that params.yaml gives each. The report is
    written, but not registered: MLflow is none of the benchmark's concern.
    """
    workload, model = workspace.workload, folder / "model"
    settings = workload.fit.model_copy(update={"precision": precision})
    features, leaderboard = folder / "features", folder / "leaderboard"

    def train_folds() -> None:
        for fold, predictions in enumerate(_predictions(workspace, folder)):
            train_fold(
                features=features,
                settings=settings,
                fold=fold,
                candidates=[workload.candidate],
                num_threads=1,
                predictions=predictions,
            )

    return {
        WRITE_EXAMPLES: workspace.write_examples,
        "write_data_page": workspace.write_data_page,
        "extract_features": partial(
            extract_features,
            examples=workspace.examples,
            weights=workspace.weights,
            backbone=workload.backbone,
            cuts=[workload.candidate.train_from],
            precision=precision,
            margin=0,
            num_threads=num_threads,
            features=features,
        ),
        "train_folds": train_folds,
        "aggregate_cv": partial(
            cross_validation.aggregate_cv,
            predictions=_predictions(workspace, folder),
            choice=Choice.BEST,
            leaderboard=leaderboard,
        ),
        "diagnose_data": partial(
            diagnose_data,
            examples=workspace.examples,
            features=features,
            predictions=_predictions(workspace, folder),
            leaderboard=leaderboard,
            settings=DIAGNOSIS,
            class_weights=settings.class_weights,
            num_threads=num_threads,
            diagnosis=folder / "diagnosis",
        ),
        "train_final": partial(
            train_final,
            features=features,
            predictions=_predictions(workspace, folder),
            leaderboard=leaderboard,
            settings=settings,
            num_threads=num_threads,
            model=model,
            exported=folder / "exported",
            sets=folder / "sets",
        ),
        "evaluate_test": partial(
            test_split.evaluate_test,
            examples=workspace.examples,
            model=model,
            exported=folder / "exported",
            sets=folder / "sets",
            num_threads=num_threads,
            evaluation=folder / "evaluation",
        ),
        "write_report": partial(_write_report, workspace, folder),
    }


def _write_report(workspace: Workspace, folder: Path) -> None:
    evaluated = Evaluation.read(folder / "evaluation")
    table, mistakes = Examples(workspace.examples), shown_images.confident_mistakes(evaluated)
    board = Leaderboard.read(folder / "leaderboard")
    found = Diagnosis.read(folder / "diagnosis")
    html = page.render(
        evaluated,
        board,
        found,
        pictures.summarise(table, mistakes, evaluated.activation_maps, found),
        drawings.draw(evaluated, board, found),
        registration=Registration(
            name="benchmark",
            version="1",
            aliases=(),
            gate="passed",
            verdict=Verdict.FIRST,
            reason="",
            created=True,
            comparison=None,
            num_judged_before=0,
        ),
        lineage={},
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def outcome(workspace: Workspace, folder: Path) -> Outcome:
    """Read what the steps predicted: each fold's images, and the test split."""
    folds = (safetensors_file.read(path)[0] for path in _predictions(workspace, folder))
    splits = [Split(np.array(f["label"]), np.array(f["probabilities_0"])) for f in folds]
    test = Evaluation.read(folder / "evaluation")
    probabilities = np.array(test.probabilities, np.float32)
    return [*splits, Split(np.array(test.labels), probabilities)]


def _predictions(workspace: Workspace, folder: Path) -> list[Path]:
    return [folder / f"predictions-{fold}" for fold in range(workspace.workload.split.num_folds)]
