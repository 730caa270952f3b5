"""Registering a model in MLflow, once, and deciding whether it becomes the champion."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold import metrics, report, tracking
from crossfold.examples import Examples
from crossfold.prediction import EXPORTED, load_version

if TYPE_CHECKING:
    from crossfold.classifier import Classifier

# torch, and what packs a model, take seconds to import: functions that need them do it. A version
# that is registered already and is champion needs neither.

CHAMPION = "champion"
CHALLENGER = "challenger"
FORMER_CHAMPION = "former-champion"


@dataclass(frozen=True)
class Decision:
    """What the gate says of a version, and what the champion of that moment was worth."""

    passed: bool
    reason: str
    champion_macro_f1: float | None = None


def register_model(
    *,
    examples: Path,
    model: Path,
    exported: Path,
    leaderboard: Path,
    evaluation: Path,
    report_draft: Path,
    report_page: Path,
    model_name: str,
    min_macro_f1: float,
    lineage: Mapping[str, str],
    num_threads: int,
    registration: Path,
    links: Path,
    run: tracking.Run,
) -> dict[str, Any]:
    """Register the network as `challenger`; as `champion` if the gate lets it through.

    A version with the same weights and data is used again, so a retry or an unchanged run makes no
    second one. What the run found goes to its parent in MLflow, which a cached step cannot write.

    `links` becomes a page with the outcome and the way to MLflow's pages.

    Returns:
        What is also written to `registration`: name, version, aliases, gate ("passed" or
        "refused"), reason, created (whether the version is new) and champion_macro_f1 (what the
        champion of before scored on this test split; None where none was scored).

    Raises:
        UserError: the present champion cannot be loaded.
    """
    board = json.loads(leaderboard.read_text())
    evaluated = json.loads(evaluation.read_text())
    tracking.log_outcome(
        run.parent(),
        leaderboard=board,
        evaluation=evaluated,
        settings=json.loads(lineage["settings"]),
    )
    table = Examples(examples)
    tags = _tags(board, evaluated, lineage, run)
    version = _find_version(run.client, model_name, tags)
    created = version is None
    if version is None:
        version = _create_version(
            run, model_name, (model, exported), table, evaluated["metrics"], tags
        )
    decision = _judge(
        run.client, version, evaluated["metrics"]["macro_f1"], min_macro_f1, table, num_threads
    )
    _apply(run.client, version, decision)
    registered = {
        "name": model_name,
        "version": str(version.version),
        "aliases": sorted(run.client.get_model_version(model_name, version.version).aliases),
        "gate": _word(decision),
        "reason": decision.reason,
        "created": created,
        "champion_macro_f1": decision.champion_macro_f1,
        "verdict": "first" if decision.passed else "below floor",
        "comparison": None,
        "num_judged_before": 0,
    }
    draft = report_draft.read_text(encoding="utf-8")
    page = report.complete(draft, registration=registered, lineage=tags)
    report_page.write_text(page, encoding="utf-8")
    run.parent().log_artifact(page, "report.html")
    registration.write_text(json.dumps(registered))
    parent = run.parent()
    parent.log_artifact(registration.read_bytes(), "registration.json")
    links.write_text(_links(registered, parent))
    parent.finish()  # a run that nobody watches would stay open where no plugin ends it
    return registered


def _links(registered: Mapping[str, Any], parent: tracking.Run) -> str:
    """Return the outcome as Markdown, with links to MLflow's pages where there are any."""
    name, version = registered["name"], registered["version"]
    lines = [
        f"# {name} version {version}",
        f"Gate {registered['gate']}: {registered['reason']}.",
        f"Aliases: {', '.join(registered['aliases']) or 'none'}.",
    ]
    if pages := tracking.pages():
        run_page = f"{pages}/#/experiments/{parent.experiment_id}/runs/{parent.id}"
        version_page = f"{pages}/#/models/{name}/versions/{version}"
        lines.append(f"In MLflow: [the run]({run_page}), [the version]({version_page})")
    return "\n\n".join(lines) + "\n"


def _tags(
    board: Mapping[str, Any],
    evaluated: Mapping[str, Any],
    lineage: Mapping[str, str],
    run: tracking.Run,
) -> dict[str, str]:
    best = board["candidates"][board["best"]]
    return {
        **lineage,
        "weights_hash": evaluated["weights_hash"],
        "data_hash": evaluated["data_hash"],
        EXPORTED: evaluated["export"]["by"],
        "architecture": board["architecture"],
        "candidate": best["candidate"]["name"],
        "cv_macro_f1": str(best["mean"]["macro_f1"]),
        **{f"test_{name}": str(value) for name, value in evaluated["metrics"].items()},
        "mlflow_parent_run": str(run.parent_id),
    }


def _find_version(
    client: MlflowClient, model_name: str, tags: Mapping[str, str]
) -> ModelVersion | None:
    same = {key: tags[key] for key in ("weights_hash", "data_hash")}
    found = client.search_model_versions(
        f"name = '{model_name}' and tags.weights_hash = '{same['weights_hash']}'"
    )
    return next((version for version in found if same.items() <= version.tags.items()), None)


def _create_version(
    run: tracking.Run,
    model_name: str,
    networks: tuple[Path, Path],
    table: Examples,
    scores: Mapping[str, float],
    tags: Mapping[str, str],
) -> ModelVersion:
    """Upload the model and register it with all its tags in one request, the last one.

    Killed before it, a step leaves an upload that no version names, and is repeated whole.
    """
    from mlflow.models import Model

    from crossfold.packaging import save_model

    client = run.client
    logged = client.create_logged_model(run.experiment_id, model_name, source_run_id=run.id)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        save_model(saved, *networks, table, Model(model_id=logged.model_id, run_id=run.id))
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.id, [LoggedModelOutput(logged.model_id, step=0)])
    now = logged.creation_timestamp
    client.log_batch(
        run.id,
        [Metric(f"test_{k}", v, now, 0, model_id=logged.model_id) for k, v in scores.items()],
    )
    _ensure_registered_model(client, model_name)
    return client.create_model_version(
        model_name,
        logged.model_uri,
        run.id,
        tags=dict(tags),
        description=f"{tags['architecture']}, {tags['candidate']}: test macro F1 "
        f"{scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}",
        model_id=logged.model_id,
    )


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _judge(
    client: MlflowClient,
    version: ModelVersion,
    macro_f1: float,
    floor: float,
    table: Examples,
    num_threads: int,
) -> Decision:
    champion = _champion(client, version.name)
    stays = champion is not None and champion.version == version.version
    if macro_f1 < floor:
        remark = "; it stays champion until another takes its place" if stays else ""
        return Decision(False, f"macro F1 {macro_f1:.4f} is below the floor of {floor:g}{remark}")
    above = f"macro F1 {macro_f1:.4f} is at or above the floor of {floor:g}"
    if champion is None:
        return Decision(True, f"{above}, and there was no champion yet")
    if stays:
        return Decision(True, f"{above}, and it is the champion already")
    theirs = _score(load_version(champion, num_threads), table, num_threads)
    against = f"version {champion.version}, the champion, with {theirs:.4f} on the same test images"
    if champion.tags.get("data_hash") != table.data_hash:
        against += " (it was trained on other data, which may hold some of them)"
    if macro_f1 < theirs:
        return Decision(False, f"macro F1 {macro_f1:.4f} is worse than {against}", theirs)
    return Decision(True, f"{above}, and not worse than {against}", theirs)


def _champion(client: MlflowClient, model_name: str) -> ModelVersion | None:
    number = client.get_registered_model(model_name).aliases.get(CHAMPION)
    return None if number is None else client.get_model_version(model_name, number)


def _score(network: "Classifier", table: Examples, num_threads: int) -> float:
    """Return the macro F1 of another network on the test split, over the table's classes.

    Its classes are matched by name: what it says of a class that the table does not have is left
    out, and a class that it does not know has probability 0.
    """
    from crossfold.evaluation import score

    _, labels, theirs = score(network, table, num_threads)
    probabilities = np.zeros((len(labels), len(table.classes)), np.float32)
    for index, name in enumerate(table.classes):
        if name in network.classes:
            probabilities[:, index] = theirs[:, network.classes.index(name)]
    return metrics.scores(labels, probabilities)["macro_f1"]


def _apply(client: MlflowClient, version: ModelVersion, decision: Decision) -> None:
    """Record the decision, then act on it; cut off in between, a retry decides the same again."""
    name, number = version.name, str(version.version)
    client.set_model_version_tag(name, number, "gate", _word(decision))
    client.set_model_version_tag(name, number, "gate_reason", decision.reason)
    client.set_registered_model_alias(name, CHALLENGER, number)
    champion = _champion(client, name)
    if not decision.passed or (champion and str(champion.version) == number):
        return
    if champion:
        client.set_registered_model_alias(name, FORMER_CHAMPION, str(champion.version))
    client.set_registered_model_alias(name, CHAMPION, number)


def _word(decision: Decision) -> str:
    return "passed" if decision.passed else "refused"
