"""Change the champion by hand: weigh the evidence, and record who did it, when and why."""

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

from . import gate
from .promotion_lock import promotion_turn
from .register import (
    CHAMPION,
    FORMER_CHAMPION,
    ROLLED_BACK,
    is_champion,
    recorded_comparison,
    set_champion,
)

PROMOTIONS = "promotions"
EVALUATION = "evaluation.json"  # in a version's MLflow run, see `registry.outcome.log_outcome`


class _RecordedEvaluation(PredictedImages):
    """The part of an evaluation that a comparison needs; older records may lack the rest."""

    weights_hash: str


def weigh(
    client: MlflowClient, version: ModelVersion, champion: ModelVersion | None, rule: gate.Rule
) -> gate.Decision:
    """Judge a version against the champion by recorded results, without predicting any image.

    Compares the recorded predictions if both versions were evaluated on the same test split.
    Otherwise falls back on the comparison that the gate recorded for these two versions.

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
    mine, theirs = (_evaluation(client, found) for found in (version, champion))
    if mine and theirs and macro_f1 >= rule.min_macro_f1:
        number, classes = str(champion.version), theirs.classes
        if refused := gate.other_classes(number, classes, mine.classes):
            return refused
    same_split = version.tags.get("split_hash") == champion.tags.get("split_hash")
    compared = (mine and theirs and same_split and _compare(mine, theirs, champion, rule)) or (
        _found_by_gate(version, champion, rule)
    )
    if compared is None:
        return gate.Decision(
            Verdict.UNDECIDED,
            f"there is nothing to compare version {version.version} with version "
            f"{champion.version}, the champion, by: they were tested on other images, or their "
            "evaluations are gone from MLflow; a run on the present data judges them",
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
        set_champion(client, version.name, str(version.version))


@contextmanager
def _unchanged(client: MlflowClient, name: str, champion: ModelVersion | None) -> Iterator[None]:
    """Let the block replace a champion, while no other process can change it.

    Raises:
        UserError: the champion has changed already.
    """
    with promotion_turn(client, name):
        if not is_champion(client, name, champion):
            raise UserError(
                f"the champion of {name} has changed since the versions were compared, so nothing "
                "was changed: run the command again to compare with the present one"
            )
        yield


def former_champion(client: MlflowClient, name: str) -> ModelVersion:
    """Look up the version with the alias `former-champion`.

    Raises:
        UserError: no version has the alias, or the champion itself has it.
    """
    aliases = client.get_registered_model(name).aliases
    number = aliases.get(FORMER_CHAMPION)
    if number is None:
        raise UserError(
            f"{name} has no former champion to roll back to: see `crossfold models`, and make a "
            "version champion by `crossfold promote VERSION`"
        )
    if number != aliases.get(CHAMPION):
        return client.get_model_version(name, number)
    raise UserError(
        f"{name} version {number} is the champion and the former one, so there is none to roll "
        "back to: make a version champion by `crossfold promote VERSION`"
    )


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
        set_champion(client, former.name, str(former.version))


def promotions(version: ModelVersion) -> list[Promotion]:
    """List the records of a version's promotions by hand, oldest first."""
    entries = json.loads(version.tags.get(PROMOTIONS, "[]"))
    return [Promotion.model_validate(entry) for entry in entries]


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
    history = json.dumps([earlier.model_dump() for earlier in [*promotions(version), entry]])
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
        found = _RecordedEvaluation.read(Path(path))
    return found if found.weights_hash == version.tags.get("weights_hash") else None


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


def _found_by_gate(
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
