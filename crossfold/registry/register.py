"""Register a model in MLflow, once, and let the gate decide whether it becomes champion."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.data.dvc import pointer_hash
from crossfold.data.examples import Examples
from crossfold.predict import file_hashes
from crossfold.records import (
    ChampionComparison,
    Evaluation,
    Leaderboard,
    Registration,
    TakenBack,
    Verdict,
)
from crossfold.tracking import run, store

from . import gate, model_card, outcome, training_images, version_tags
from .promotion_lock import promotion_turn

# torch, the packaging of a model and the drawing of figures take seconds to import, so functions
# import them when needed. A version that is already registered and champion needs neither torch nor
# the packaging.

CHAMPION = "champion"
CHALLENGER = "challenger"
FORMER_CHAMPION = "former-champion"

# Tag of a version that a person has taken back: who, when and why, as JSON.
ROLLED_BACK = "rolled_back"


def register_model(
    *,
    examples: Path,
    model: Path,
    exported: Path,
    leaderboard: Path,
    evaluation: Path,
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

    `models_pointer` is the text of models.dvc. `computed` is the metadata of the model, which
    describes the machine that train_final ran on. `report_page` receives the run's report, and
    `summary` a short outcome with links to MLflow's pages.

    Raises:
        UserError: the current champion cannot be loaded; nothing is registered then.
    """
    from crossfold.report import content, pictures
    from crossfold.report.page import render

    board, evaluated = Leaderboard.read(leaderboard), Evaluation.read(evaluation)
    parent, client = run.parent(), run.client
    outcome.log_outcome(
        parent,
        leaderboard=board,
        evaluation=evaluated,
        settings=json.loads(lineage["settings"]),
    )
    table = Examples(examples)
    tags = {
        **lineage,
        **version_tags.of_computing(computed),
        **version_tags.of_model(board, evaluated, table),
        **version_tags.of_settings(json.loads(lineage["settings"])),
        **version_tags.of_run(parent),
        "models_hash": pointer_hash(models_pointer, "models.dvc"),
    }
    _ensure_registered_model(client, model_name)
    version = _find_version(client, model_name, tags)
    created = version is None
    while True:  # repeats if another process changes the champion in the meantime
        # Judge before registering: if the champion can't be loaded, no unjudged version is left.
        champion = find_champion(client, model_name)
        decision = _judge(version, champion, evaluated, table, rule, num_threads)
        if version is None:
            networks = (model, exported)
            version = _create_version(run, model_name, networks, table, evaluated, tags)
        num_judged_before = _count_judged(client, model_name, tags)
        if _apply(client, version, champion, decision, num_judged_before):
            break
    found = client.get_model_version(model_name, version.version)
    registered = Registration(
        name=model_name,
        version=str(version.version),
        aliases=tuple(sorted(found.aliases)),
        gate=decision.word,
        verdict=decision.verdict,
        reason=decision.reason,
        created=created,
        comparison=decision.comparison,
        num_judged_before=num_judged_before,
    )
    card = model_card.render(found.tags, board, evaluated, registered)
    client.update_model_version(model_name, version.version, card)
    registered.write(registration)
    data_summary = pictures.summarise(table, content.confident_mistakes(evaluated))
    page = render(evaluated, board, data_summary, registration=registered, lineage=found.tags)
    report_page.write_text(page, encoding="utf-8")
    summary.write_text(_summary(registered, parent))
    _log_outcome(parent, registered, page)
    parent.finish()  # without Kubeflow's plugin, nothing else would end an unattended run
    return registered


def _log_outcome(parent: run.Run, registered: Registration, page: str) -> None:
    parent.set_tags(
        {
            "crossfold.version": f"{registered.name}/{registered.version}",
            "crossfold.gate": registered.gate,
            "crossfold.gate_verdict": registered.verdict.value,
            "crossfold.gate_reason": registered.reason,
        }
    )
    parent.log_artifact(page, "report.html")
    parent.log_artifact(registered.to_json(), "registration.json")


def _summary(registered: Registration, parent: run.Run) -> str:
    """Write the outcome as Markdown, with links to MLflow's pages if MLflow has any."""
    name, version = registered.name, registered.version
    lines = [
        f"# {name} version {version}",
        f"Gate {registered.gate}: {registered.reason}.",
        f"Aliases: {', '.join(registered.aliases) or 'none'}.",
    ]
    if pages := store.pages():
        run_page = f"{pages}/#/experiments/{parent.experiment_id}/runs/{parent.id}"
        version_page = f"{pages}/#/models/{name}/versions/{version}"
        lines.append(f"In MLflow: [the run]({run_page}), [the version]({version_page})")
    return "\n\n".join(lines) + "\n"


def _find_version(
    client: MlflowClient, model_name: str, tags: Mapping[str, str]
) -> ModelVersion | None:
    same = {key: tags[key] for key in ("weights_hash", "data_hash")}
    found = client.search_model_versions(
        f"name = '{model_name}' and tags.weights_hash = '{same['weights_hash']}'"
    )
    return next((version for version in found if same.items() <= version.tags.items()), None)


def _create_version(
    run: run.Run,
    model_name: str,
    networks: tuple[Path, Path],
    table: Examples,
    evaluated: Evaluation,
    tags: Mapping[str, str],
) -> ModelVersion:
    """Upload the model, then register it with all its tags in a single, final request.

    If the step is killed before that request, it leaves an upload without a version, and its retry
    starts from the beginning.
    """
    from mlflow.models import Model

    from .package import save_model

    client = run.client
    logged = client.create_logged_model(run.experiment_id, model_name, source_run_id=run.id)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model"
        save_model(saved, *networks, table, Model(model_id=logged.model_id, run_id=run.id))
        hashes = file_hashes.hash_folder(saved)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.id, [LoggedModelOutput(logged.model_id, step=0)])
    now = logged.creation_timestamp
    client.log_batch(
        run.id,
        [Metric(k, v, now, 0, model_id=logged.model_id) for k, v in evaluated.summary.items()],
    )
    return client.create_model_version(
        model_name,
        logged.model_uri,
        run.id,
        tags={**tags, "training_images": training_images.FILE, file_hashes.TAG: json.dumps(hashes)},
        description=f"{tags['architecture']}, {tags['candidate']}: test macro F1 "
        f"{evaluated.metrics['macro_f1']:.4f}, accuracy {evaluated.metrics['accuracy']:.4f}",
        model_id=logged.model_id,
    )


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _judge(
    version: ModelVersion | None,
    champion: ModelVersion | None,
    evaluated: Evaluation,
    table: Examples,
    rule: gate.Rule,
    num_threads: int,
) -> gate.Decision:
    """Judge a version against the champion; `version` is None before its registration.

    Raises:
        UserError: the champion cannot be loaded.
    """
    macro_f1 = evaluated.metrics["macro_f1"]
    if version and champion and str(champion.version) == str(version.version):
        if version.tags.get("gate_run") == store.pipeline_run_id():
            return recorded_decision(version)  # an earlier try of this step made it champion
        return gate.without_champion(macro_f1, rule, is_champion=True)
    if champion is None:
        decision = gate.without_champion(macro_f1, rule, is_champion=False)
    else:
        decision = gate.judge(champion, evaluated, table, rule, num_threads)
    if version is None or ROLLED_BACK not in version.tags:
        return decision
    taken_back = TakenBack.model_validate_json(version.tags[ROLLED_BACK])
    return gate.hold(decision, version.version, taken_back)


def find_champion(client: MlflowClient, model_name: str) -> ModelVersion | None:
    """Look up the version with the alias `champion`; None if no version has it."""
    number = client.get_registered_model(model_name).aliases.get(CHAMPION)
    return None if number is None else client.get_model_version(model_name, number)


def recorded_decision(version: ModelVersion) -> gate.Decision:
    """Read the gate's last decision on a version from its tags."""
    return gate.Decision(
        Verdict(version.tags["gate_verdict"]),
        version.tags["gate_reason"],
        recorded_comparison(version),
    )


def recorded_comparison(version: ModelVersion) -> ChampionComparison | None:
    """Read the gate's last comparison of a version from its tags; None without a comparison."""
    text = version.tags.get("gate_comparison", "null")
    return None if text == "null" else ChampionComparison.model_validate_json(text)


def _count_judged(client: MlflowClient, model_name: str, tags: Mapping[str, str]) -> int:
    found = client.search_model_versions(
        f"name = '{model_name}' and tags.split_hash = '{tags['split_hash']}'"
    )
    return len({version.tags["weights_hash"] for version in found} - {tags["weights_hash"]})


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
    compared = decision.comparison
    # A later SAME verdict must not overwrite the record of the decision that made it champion.
    known = "gate_verdict" in version.tags and version.tags.get("gate") == "passed"
    if not (known and decision.verdict is Verdict.SAME):
        tags = {
            "gate": decision.word,
            "gate_verdict": decision.verdict.value,
            "gate_reason": decision.reason,
            "gate_comparison": compared.to_json() if compared else "null",
            "num_judged_before": str(num_judged_before),
            "gate_run": store.pipeline_run_id(),  # set last: its presence means all are set
        }
        for key, value in tags.items():
            client.set_model_version_tag(name, number, key, value)
    client.set_registered_model_alias(name, CHALLENGER, number)
    if not decision.passed:
        return True
    with promotion_turn(client, name):
        if not is_champion(client, name, champion):
            return False
        set_champion(client, name, number)
    return True


def is_champion(client: MlflowClient, name: str, version: ModelVersion | None) -> bool:
    """Check whether a version is currently the champion; for None, whether no champion exists."""
    found = find_champion(client, name)
    return (found and str(found.version)) == (version and str(version.version))


def set_champion(client: MlflowClient, name: str, number: str) -> None:
    """Make a version champion and the old champion the former one; call in a promotion turn."""
    champion = find_champion(client, name)
    if champion and str(champion.version) == number:
        return
    if champion:
        client.set_registered_model_alias(name, FORMER_CHAMPION, str(champion.version))
    client.set_registered_model_alias(name, CHAMPION, number)


def figures(registered: Registration) -> dict[str, float]:
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
