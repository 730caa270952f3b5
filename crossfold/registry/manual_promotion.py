"""Change the champion by hand: judge by recorded evidence; record who did it, when and why."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import requests
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import HTTP_STATUS_TO_ERROR_CODE, MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.records import ChampionComparison, PredictedImages, Promotion, TakenBack, Verdict
from crossfold.step.user import user_name

from . import aliases, gate
from .promotion_lock import promotion_turn
from .version_tags import PROMOTIONS, ROLLED_BACK, recorded_comparison, recorded_promotions

EVALUATION = "evaluation.json"  # in a version's MLflow run, see `run_log.log_results`


class _RecordedEvaluation(PredictedImages):
    """The part of an evaluation that a comparison needs; older records may lack the rest."""

    weights_hash: str


def judge_recorded(
    client: MlflowClient, version: ModelVersion, champion: ModelVersion | None, rule: gate.Rule
) -> gate.Decision:
    """Judge a version against the champion by recorded results, without predicting any image.

    Compares the recorded predictions if both versions were evaluated on the same test split.
    Otherwise uses the comparison that the gate recorded for these two versions.

    Raises:
        UserError: the version was not registered by Crossfold.
        MlflowException: the records cannot be read from MLflow.
    """
    if "test_macro_f1" not in version.tags:
        raise UserError(
            f"{version.name} version {version.version} has no test score: it was not registered by "
            "Crossfold"
        )
    macro_f1 = float(version.tags["test_macro_f1"])
    if champion is None or champion.version == version.version:
        return gate.without_champion(macro_f1, rule, is_champion=champion is not None)
    mine, theirs = (_evaluation(client, evaluated) for evaluated in (version, champion))
    if mine and theirs and macro_f1 >= rule.min_macro_f1:
        number, classes = str(champion.version), theirs.classes
        if refused := gate.other_classes(number, classes, mine.classes):
            return refused
    same_split = version.tags.get("split_hash") == champion.tags.get("split_hash")
    compared = (mine and theirs and same_split and _compare(mine, theirs, champion, rule)) or (
        _recorded_by_gate(version, champion, rule)
    )
    if compared is None:
        return gate.Decision(
            Verdict.UNDECIDED,
            f"version {version.version} can't be compared with version {champion.version}, the "
            "champion: they were tested on different images, or MLflow no longer has their "
            "evaluations. Run `crossfold run` to judge a version on the current data",
        )
    return gate.against_champion(macro_f1, rule, compared)


def promote(
    client: MlflowClient,
    version: ModelVersion,
    champion: ModelVersion | None,
    decision: gate.Decision,
    *,
    reason: str,
    forced: bool,
) -> None:
    """Make a version champion and record the promotion; the old champion becomes the former one.

    Raises:
        UserError: the champion has changed since the decision.
    """
    with _unchanged(client, version.name, champion):
        _record(client, "promote", version, champion, decision, reason, forced=forced)
        aliases.set_champion(client, version.name, str(version.version))


@contextmanager
def _unchanged(client: MlflowClient, name: str, champion: ModelVersion | None) -> Iterator[None]:
    """Keep other processes from changing the champion while the block replaces it.

    Raises:
        UserError: the champion has changed already.
    """
    with promotion_turn(client, name):
        if not aliases.is_champion(client, name, champion):
            raise UserError(
                f"{name} got another champion after the comparison, so nothing was changed. Run "
                "the command again to compare with the new champion"
            )
        yield


def rollback(
    client: MlflowClient,
    former: ModelVersion,
    champion: ModelVersion | None,
    decision: gate.Decision,
    *,
    reason: str,
) -> None:
    """Swap the champion and the former champion, and record who did it and why.

    The replaced version is tagged as taken back, so the gate won't make it champion again.

    Raises:
        UserError: the champion has changed since the decision.
    """
    with _unchanged(client, former.name, champion):
        record = _record(client, "rollback", former, champion, decision, reason, forced=False)
        if champion:
            number = str(champion.version)
            taken_back = TakenBack(by=record.by, at=record.at, reason=record.reason)
            client.set_model_version_tag(former.name, number, ROLLED_BACK, taken_back.to_json())
        aliases.set_champion(client, former.name, str(former.version))


def _record(
    client: MlflowClient,
    action: Literal["promote", "rollback"],
    version: ModelVersion,
    champion: ModelVersion | None,
    decision: gate.Decision,
    reason: str,
    *,
    forced: bool,
) -> Promotion:
    entry = Promotion(
        action=action,
        by=user_name(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        replaced=str(champion.version) if champion else None,
        verdict=decision.verdict,
        evidence=decision.reason,
        forced=forced,
    )
    name, number = version.name, str(version.version)
    history = json.dumps(
        [earlier.model_dump() for earlier in [*recorded_promotions(version), entry]]
    )
    client.set_model_version_tag(name, number, PROMOTIONS, history)
    if ROLLED_BACK in version.tags:
        client.delete_model_version_tag(name, number, ROLLED_BACK)
    return entry


def _compare(
    mine: PredictedImages, theirs: PredictedImages, champion: ModelVersion, rule: gate.Rule
) -> ChampionComparison | None:
    """Compare two versions by their evaluations; None if the images or the classes differ."""
    if mine.paths != theirs.paths or set(mine.classes) != set(theirs.classes):
        return None
    classes = mine.classes
    return gate.compare(
        np.array(mine.labels),
        np.array(mine.probabilities).argmax(axis=1),
        gate.in_order(np.array(theirs.probabilities), theirs.classes, classes).argmax(axis=1),
        len(classes),
        margin=rule.margin,
        champion_version=str(champion.version),
    )


def _evaluation(client: MlflowClient, version: ModelVersion) -> PredictedImages | None:
    """Download a version's evaluation from its MLflow run; None if it no longer exists.

    An evaluation of other weights than the version's counts as missing.

    Raises:
        MlflowException: MLflow can't list or download the evaluation.
    """
    run_id = version.tags.get("mlflow_parent_run")
    if run_id is None or not _has_evaluation(client, run_id):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, EVALUATION, folder)
        evaluation = _RecordedEvaluation.read(Path(path))
    return evaluation if evaluation.weights_hash == version.tags.get("weights_hash") else None


def _has_evaluation(client: MlflowClient, run_id: str) -> bool:
    # Check first: a failed download doesn't say whether the file was missing.
    try:
        return EVALUATION in [file.path for file in client.list_artifacts(run_id)]
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the run was permanently deleted
            return False
        raise
    except requests.HTTPError as error:  # MLflow passes on errors of a server's artifact store
        name = HTTP_STATUS_TO_ERROR_CODE.get(error.response.status_code, "INTERNAL_ERROR")
        raise MlflowException(str(error), ErrorCode.Value(name)) from error


def _recorded_by_gate(
    version: ModelVersion, champion: ModelVersion, rule: gate.Rule
) -> ChampionComparison | None:
    """Read the gate's recorded comparison of these two versions, with the current margin.

    Returns:
        None if the gate compared the version with another champion, or with none.
    """
    recorded = recorded_comparison(version)
    if recorded is None or recorded.champion_version != str(champion.version):
        return None
    return recorded.model_copy(update={"margin": rule.margin})
