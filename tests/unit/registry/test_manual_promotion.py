import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.records import Verdict
from crossfold.registry.aliases import find_champion, find_former_champion
from crossfold.registry.gate import Rule
from crossfold.registry.manual_promotion import judge_recorded, promote, rollback
from crossfold.registry.version_tags import recorded_promotions

RULE = Rule(min_macro_f1=0.5, margin=0.02)
NUM_IMAGES = 200


@pytest.fixture
def client(empty_store: Path, tmp_path: Path) -> MlflowClient:
    shutil.copy(empty_store, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_experiment("animals", (tmp_path / "mlartifacts").as_uri())
    client.create_registered_model("animals")
    return client


def register(
    client: MlflowClient, num_wrong: int, *, split: str = "s", **tags: str
) -> ModelVersion:
    """Register a version that has the first `num_wrong` test images wrong, and its evaluation."""
    labels = [n % 2 for n in range(NUM_IMAGES)]
    said = [1 - label if n < num_wrong else label for n, label in enumerate(labels)]
    evaluation = {
        "classes": ["cat", "dog"],
        "paths": [f"{n:03}.png" for n in range(NUM_IMAGES)],
        "labels": labels,
        "probabilities": [[1.0 - p, float(p)] for p in said],
        "weights_hash": str(num_wrong),
    }
    run = client.create_run("1").info.run_id
    client.log_dict(run, evaluation, "evaluation.json")
    version = client.create_model_version(
        "animals",
        "file:///nowhere",
        tags={
            "mlflow_parent_run": run,
            "split_hash": split,
            "weights_hash": str(num_wrong),
            "test_macro_f1": str(1 - num_wrong / NUM_IMAGES),
            **tags,
        },
    )
    return client.get_model_version("animals", version.version)


def http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url", response=response)


def make_champion(client: MlflowClient, version: ModelVersion) -> None:
    client.set_registered_model_alias("animals", "champion", str(version.version))


def aliases(client: MlflowClient) -> dict[str, int]:
    found = client.get_registered_model("animals").aliases
    return {name: int(number) for name, number in found.items()}


@pytest.mark.parametrize(
    ("num_wrong", "verdict"),
    [(2, Verdict.BETTER), (60, Verdict.WORSE), (20, Verdict.NOT_WORSE), (21, Verdict.UNDECIDED)],
)
def test_predictions_on_the_same_images_are_compared(
    client: MlflowClient, num_wrong: int, verdict: Verdict
) -> None:
    champion = register(client, 20)
    decision = judge_recorded(client, register(client, num_wrong), champion, RULE)
    assert decision.verdict == verdict
    assert decision.comparison is not None
    assert decision.comparison.num_images == NUM_IMAGES
    assert "200 test images" in decision.reason


def test_what_the_gate_found_counts_where_the_predictions_are_gone(client: MlflowClient) -> None:
    champion = register(client, 20)
    compared = judge_recorded(client, register(client, 2), champion, RULE).comparison
    assert compared is not None
    version = register(client, 2, split="other", gate_comparison=compared.to_json())
    decision = judge_recorded(client, version, champion, RULE)
    assert (decision.verdict, decision.comparison) == (Verdict.BETTER, compared)
    third = register(client, 30)
    assert judge_recorded(client, version, third, RULE).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("lost", ["split", "evaluation", "weights"])
def test_without_common_ground_nothing_is_decided(client: MlflowClient, lost: str) -> None:
    champion = register(client, 20)
    version = register(client, 2, split="other" if lost == "split" else "s")
    if lost == "evaluation":
        client.delete_run(version.tags["mlflow_parent_run"])
        shutil.rmtree(client.get_run(version.tags["mlflow_parent_run"]).info.artifact_uri[7:])
    if lost == "weights":
        client.set_model_version_tag("animals", str(version.version), "weights_hash", "others")
        version = client.get_model_version("animals", version.version)
    decision = judge_recorded(client, version, champion, RULE)
    assert (decision.verdict, decision.passed) == (Verdict.UNDECIDED, False)
    assert "version 2" in decision.reason and "version 1, the champion" in decision.reason


@pytest.mark.parametrize(
    ("method", "error", "code"),
    [
        ("list_artifacts", MlflowException("no answer"), "INTERNAL_ERROR"),
        ("list_artifacts", http_error(403), "PERMISSION_DENIED"),
        ("list_artifacts", http_error(500), "INTERNAL_ERROR"),
        ("download_artifacts", MlflowException("no answer"), "INTERNAL_ERROR"),
    ],
)
def test_an_evaluation_that_mlflow_does_not_give_is_not_one_that_is_gone(
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: Exception,
    code: str,
) -> None:
    champion, version = register(client, 20), register(client, 2)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(client, method, fail)
    with pytest.raises(MlflowException) as raised:
        judge_recorded(client, version, champion, RULE)
    assert raised.value.error_code == code


def test_an_evaluation_whose_run_was_purged_is_gone(client: MlflowClient) -> None:
    champion = register(client, 20)
    version = register(client, 2, mlflow_parent_run="0" * 32)
    assert judge_recorded(client, version, champion, RULE).verdict == Verdict.UNDECIDED


def test_the_floor_holds_by_hand_too(client: MlflowClient) -> None:
    version = register(client, 120)
    assert judge_recorded(client, version, None, RULE).verdict == Verdict.BELOW_FLOOR
    assert judge_recorded(client, register(client, 2), None, RULE).verdict == Verdict.FIRST
    champion = register(client, 150)
    assert judge_recorded(client, version, champion, RULE).verdict == Verdict.BELOW_FLOOR


def test_a_version_of_something_else_is_refused(client: MlflowClient) -> None:
    client.create_model_version("animals", "file:///nowhere")
    version = client.get_model_version("animals", "1")
    with pytest.raises(UserError, match="animals version 1 has no test score"):
        judge_recorded(client, version, None, RULE)


def test_a_promotion_moves_the_aliases_and_is_recorded(client: MlflowClient) -> None:
    champion, version = register(client, 20), register(client, 2)
    make_champion(client, champion)
    decision = judge_recorded(client, version, champion, RULE)
    promote(client, version, champion, decision, reason="it is quicker", forced=False)
    assert aliases(client) == {"champion": 2, "former-champion": 1}
    (entry,) = recorded_promotions(client.get_model_version("animals", "2"))
    assert (entry.action, entry.reason, entry.replaced) == ("promote", "it is quicker", "1")
    assert (entry.verdict, entry.forced) == ("better", False)
    assert entry.evidence == decision.reason
    assert entry.by
    assert entry.at.endswith("+00:00")


def test_a_champion_that_changed_since_the_comparison_is_not_replaced(
    client: MlflowClient,
) -> None:
    first, second, third = (register(client, number) for number in (20, 2, 3))
    make_champion(client, first)
    decision = judge_recorded(client, second, first, RULE)
    make_champion(client, third)
    with pytest.raises(UserError, match="animals got another champion"):
        promote(client, second, first, decision, reason="", forced=False)
    with pytest.raises(UserError, match="animals got another champion"):
        rollback(client, second, first, decision, reason="")
    assert aliases(client) == {"champion": 3}
    assert recorded_promotions(client.get_model_version("animals", "2")) == []


def test_a_rollback_swaps_the_two_and_another_one_swaps_them_back(client: MlflowClient) -> None:
    first, second = register(client, 20), register(client, 2)
    make_champion(client, first)
    with pytest.raises(UserError, match="`crossfold promote VERSION`"):
        find_former_champion(client, "animals")
    decision = judge_recorded(client, second, first, RULE)
    promote(client, second, first, decision, reason="", forced=False)

    def roll_back(reason: str) -> None:
        champion = find_champion(client, "animals")
        former = find_former_champion(client, "animals")
        weighed = judge_recorded(client, former, champion, RULE)
        rollback(client, former, champion, weighed, reason=reason)

    roll_back("odd on Mondays")
    assert aliases(client) == {"champion": 1, "former-champion": 2}
    taken_back = json.loads(client.get_model_version("animals", "2").tags["rolled_back"])
    assert taken_back["reason"] == "odd on Mondays"
    roll_back("it was the camera")
    assert aliases(client) == {"champion": 2, "former-champion": 1}
    found: dict[str, Any] = client.get_model_version("animals", "2").tags
    assert "rolled_back" not in found
    assert [entry["action"] for entry in json.loads(found["promotions"])] == ["promote", "rollback"]


def test_a_rollback_that_was_cut_off_says_how_to_go_on(client: MlflowClient) -> None:
    make_champion(client, register(client, 20))
    client.set_registered_model_alias("animals", "former-champion", "1")
    with pytest.raises(UserError, match="`crossfold promote VERSION`"):
        find_former_champion(client, "animals")
