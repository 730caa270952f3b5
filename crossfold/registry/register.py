"""Register a model in MLflow, once, and let the gate decide whether it becomes champion."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.data.examples import Examples
from crossfold.diagnosis.findings import Diagnosis
from crossfold.predict import file_hashes, signatures
from crossfold.records import Drawing, Evaluation, Leaderboard, Registration, Verdict
from crossfold.tracking import run, store
from crossfold.versioning.dvc import pointer_hash

from . import (
    aliases,
    gate,
    model_card,
    run_figures,
    run_log,
    signing,
    training_image_hashes,
    version_tags,
)
from .promotion_lock import promotion_turn

# torch, the packaging of a model and the drawing of figures take seconds to import, so functions
# import them when needed. A version that is already registered and champion needs neither torch nor
# the packaging.


@dataclass(frozen=True)
class _Model:
    """A trained model, its evaluation, and the tags of its version."""

    name: str
    network: Path
    exported: Path
    sets: Path
    table: Examples
    evaluated: Evaluation
    tags: Mapping[str, str]


def register_model(
    *,
    examples: Path,
    model: Path,
    exported: Path,
    sets: Path,
    leaderboard: Path,
    evaluation: Path,
    diagnosis: Path,
    model_name: str,
    rule: gate.Rule,
    lineage: Mapping[str, str],
    models_pointer: str,
    computed: Mapping[str, Any],
    num_threads: int,
    registration: Path,
    report_page: Path,
    summary: Path,
    run: run.Run,
) -> Registration:
    """Register the network as `challenger`, and as `champion` if the gate passes it.

    Reuses an existing version with the same weights and data, so a retry or an unchanged run
    creates no second version. Logs the run's outcome to the parent run in MLflow, because a cached
    step can't log it.

    Signs the version if `signatures.SIGNING_KEY` names a private key.

    `models_pointer` is the text of models.dvc. `computed` is the metadata of the model, which
    describes the machine that train_final ran on. `report_page` receives the run's report, and
    `summary` a short outcome with links to MLflow's pages.

    Raises:
        UserError: the current champion cannot be loaded or lacks a required signature, or the
            private key cannot be used; nothing is registered then.
    """
    board, evaluated = Leaderboard.read(leaderboard), Evaluation.read(evaluation)
    diagnosed = Diagnosis.read(diagnosis)
    table, settings, parent = Examples(examples), json.loads(lineage["settings"]), run.parent()
    run_log.log_results(
        parent, leaderboard=board, evaluation=evaluated, diagnosis=diagnosed, settings=settings
    )
    drawings = run_figures.log_figures(parent, board, evaluated, diagnosed, lineage["image_train"])
    tags = {
        **lineage,
        **version_tags.of_computing(computed),
        **version_tags.of_model(board, evaluated, table),
        **version_tags.of_settings(settings),
        **version_tags.of_run(parent),
        "models_hash": pointer_hash(models_pointer, "models.dvc"),
    }
    trained = _Model(model_name, model, exported, sets, table, evaluated, tags)
    registered = _register(run, trained, rule, num_threads)
    registered.write(registration)
    page = _describe(run.client, registered, board, evaluated, diagnosed, table, drawings)
    report_page.write_text(page, encoding="utf-8")
    summary.write_text(_summary(registered, parent), encoding="utf-8")
    run_log.log_registration(parent, registered, page)
    parent.finish()  # without Kubeflow's plugin, nothing else would end an unattended run
    return registered


def _register(run: run.Run, model: _Model, rule: gate.Rule, num_threads: int) -> Registration:
    """Judge a model, register and sign it unless that has been done, and set the aliases."""
    client, name, private = run.client, model.name, signatures.new_versions_key()
    _ensure_registered_model(client, name)
    version = _find_version(client, model)
    created = False
    while True:  # repeats if another process changes the champion in the meantime
        # Judge before registering: if the champion can't be loaded, no unjudged version is left.
        champion = aliases.find_champion(client, name)
        if champion and rule.signature_key:
            signatures.verify_version(champion, rule.signature_key)
        decision = _judge(version, champion, model, rule, num_threads)
        if version is None:
            new = _create_version(run, model)
            version = _find_version(client, model) or new
            created = version.run_id == new.run_id
        if private:
            signing.sign_version(client, version, private)
        decision = signing.hold_unsigned(decision, version, rule.signature_key)
        num_judged_before = _count_judged(client, model)
        if _apply(client, version, champion, decision, num_judged_before):
            break
        version = client.get_model_version(name, version.version)  # for the tags that it has now
    return Registration(
        name=name,
        version=str(version.version),
        aliases=tuple(sorted(client.get_model_version(name, version.version).aliases)),
        gate=decision.word,
        verdict=decision.verdict,
        reason=decision.reason,
        created=created,
        comparison=decision.comparison,
        num_judged_before=num_judged_before,
    )


def _describe(
    client: MlflowClient,
    registered: Registration,
    board: Leaderboard,
    evaluated: Evaluation,
    diagnosed: Diagnosis,
    table: Examples,
    drawings: Mapping[str, Drawing],
) -> str:
    """Write the version's model card to MLflow, and return the run's report as HTML."""
    from crossfold.evaluation import shown_images
    from crossfold.report import page, pictures

    tags = client.get_model_version(registered.name, registered.version).tags
    card = model_card.render(tags, board, evaluated, registered)
    client.update_model_version(registered.name, registered.version, card)
    mistakes = shown_images.confident_mistakes(evaluated)
    data_summary = pictures.summarise(table, mistakes, evaluated.activation_maps, diagnosed)
    return page.render(
        evaluated, board, diagnosed, data_summary, drawings, registration=registered, lineage=tags
    )


def _summary(registered: Registration, parent: run.Run) -> str:
    """Summarise version and decision as Markdown, with links to MLflow's pages if it has any."""
    name, version = registered.name, registered.version
    lines = [
        f"# {name} version {version}",
        f"Gate {registered.gate}: {registered.reason}.",
        f"Aliases: {', '.join(registered.aliases) or 'none'}.",
    ]
    if pages := store.pages():
        version_page = f"{pages}/#/models/{name}/versions/{version}"
        lines.append(f"In MLflow: [the run]({parent.page(pages)}), [the version]({version_page})")
    return "\n\n".join(lines) + "\n"


def _find_version(client: MlflowClient, model: _Model) -> ModelVersion | None:
    """Look up the version with the model's weights and data; None if there is none.

    There may be several: another run registered the same model at the same moment, or the answer to
    a creation was lost and MLflow's client asked again. The first one stays. Each process finds it
    and deletes the others, which have not been judged yet.
    """
    same = {key: model.tags[key] for key in ("weights_hash", "data_hash")}
    versions = client.search_model_versions(
        f"name = '{model.name}' and tags.weights_hash = '{same['weights_hash']}'"
    )
    alike = sorted(
        (version for version in versions if same.items() <= version.tags.items()),
        key=lambda version: ("gate" not in version.tags, int(version.version)),
    )
    for other in alike[1:]:
        if "gate" not in other.tags:
            _delete_version(client, other)
    return alike[0] if alike else None


def _delete_version(client: MlflowClient, version: ModelVersion) -> None:
    """Delete a version, which another process may have deleted already."""
    try:
        client.delete_model_version(version.name, version.version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _create_version(run: run.Run, model: _Model) -> ModelVersion:
    """Upload the model, then register it with all its tags in a single, final request.

    If the step is killed before that request, it leaves an upload without a version, and its retry
    starts from the beginning.
    """
    from mlflow.models import Model

    from .package import PackagedFiles, save_model

    client, scores = run.client, model.evaluated.metrics
    logged = client.create_logged_model(run.experiment_id, model.name, source_run_id=run.id)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        about = Model(model_id=logged.model_id, run_id=run.id)
        files = PackagedFiles(model.network, model.exported, model.sets)
        save_model(saved, files, model.table, about)
        hashes = file_hashes.hash_folder(saved)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    _log_output(client, run.id, logged.model_id)
    now = logged.creation_timestamp
    client.log_batch(
        run.id,
        [
            Metric(k, v, now, 0, model_id=logged.model_id)
            for k, v in model.evaluated.summary.items()
        ],
    )
    return client.create_model_version(
        model.name,
        logged.model_uri,
        run.id,
        tags={
            **model.tags,
            "training_images": training_image_hashes.FILE,
            file_hashes.TAG: json.dumps(hashes),
        },
        description=f"{model.tags['architecture']}, {model.tags['candidate']}: test macro F1 "
        f"{scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}",
        model_id=logged.model_id,
    )


def _log_output(client: MlflowClient, run_id: str, model_id: str) -> None:
    """Log a model as a run's output; MLflow refuses the repetition of a request that arrived."""
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    except MlflowException as error:
        if "unique constraint" not in str(error).lower():
            raise


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _judge(
    version: ModelVersion | None,
    champion: ModelVersion | None,
    model: _Model,
    rule: gate.Rule,
    num_threads: int,
) -> gate.Decision:
    """Judge a model against the champion; `version` is None before the model's registration.

    Raises:
        UserError: the champion cannot be loaded.
    """
    macro_f1 = model.evaluated.metrics["macro_f1"]
    if version and champion and str(champion.version) == str(version.version):
        if version.tags.get("gate_run") == store.pipeline_run_id():
            # An earlier try of this step made it champion.
            return version_tags.recorded_decision(version)
        return gate.without_champion(macro_f1, rule, is_champion=True)
    if champion is None:
        decision = gate.without_champion(macro_f1, rule, is_champion=False)
    else:
        decision = gate.judge(champion, model.evaluated, model.table, rule, num_threads)
    if version and (taken_back := version_tags.recorded_rollback(version)):
        return gate.hold(decision, version.version, taken_back)
    return decision


def _count_judged(client: MlflowClient, model: _Model) -> int:
    """Count the other models with a version that was judged on the same test split."""
    versions = client.search_model_versions(
        f"name = '{model.name}' and tags.split_hash = '{model.tags['split_hash']}'"
    )
    return len(
        {version.tags["weights_hash"] for version in versions} - {model.tags["weights_hash"]}
    )


def _apply(
    client: MlflowClient,
    version: ModelVersion,
    champion: ModelVersion | None,
    decision: gate.Decision,
    num_judged_before: int,
) -> bool:
    """Record the gate's decision, then set the aliases; safe to repeat after an interruption.

    Returns:
        False if the version should become champion, but the champion that it was judged against
        has been replaced in the meantime; True otherwise.
    """
    name, number = version.name, str(version.version)
    # A later SAME verdict must not overwrite the record of the decision that made it champion.
    known = "gate_verdict" in version.tags and version.tags.get("gate") == "passed"
    if not (known and decision.verdict is Verdict.SAME):
        for key, value in version_tags.of_decision(decision, num_judged_before).items():
            client.set_model_version_tag(name, number, key, value)
    aliases.set_challenger(client, name, number)
    if not decision.passed:
        return True
    with promotion_turn(client, name):
        if not aliases.is_champion(client, name, champion):
            return False
        aliases.set_champion(client, name, number)
    return True


def gate_metrics(registered: Registration) -> dict[str, float]:
    """Collect the numbers of a gate decision by name, for the step's Metrics artifact."""
    numbers: dict[str, float] = {
        "gate_passed": int(registered.gate == "passed"),
        "num_judged_before": registered.num_judged_before,
    }
    if compared := registered.comparison:
        low, high = compared.interval
        numbers |= {
            "compared_images": compared.num_images,
            "champion_macro_f1": compared.champion_macro_f1,
            "macro_f1_difference": compared.difference,
            "macro_f1_difference_low": low,
            "macro_f1_difference_high": high,
            "mcnemar_p": compared.mcnemar.p_value,
        }
    return numbers
