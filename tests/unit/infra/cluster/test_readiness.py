from typing import Any

import pytest

from crossfold.infra.cluster.readiness import is_ready


def deployment(**status: int) -> dict[str, Any]:
    metadata = {"name": "mlflow", "generation": 2}
    return {
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 2, **status},
    }


READY = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, False),
        (READY, True),
        (READY | {"observedGeneration": 1}, False),  # the change was not seen yet
        (READY | {"updatedReplicas": 1}, False),
        (READY | {"replicas": 3}, False),  # an old one is still there
        (READY | {"availableReplicas": 1}, False),
    ],
)
def test_a_workload_is_ready_when_the_new_one_is(status: dict[str, int], ready: bool) -> None:
    assert is_ready(deployment(**status)) is ready


def test_a_deployment_that_is_switched_off_is_ready() -> None:
    found = deployment()
    found["spec"]["replicas"] = 0
    assert is_ready(found)


@pytest.mark.parametrize("state", [{}, {"active": 1}, {"failed": 1}])
def test_a_job_is_ready_when_it_succeeded(state: dict[str, int]) -> None:
    assert not is_ready({"kind": "Job", "status": state})
    assert is_ready({"kind": "Job", "status": {**state, "succeeded": 1}})
