import pytest

from crossfold.errors import UserError
from crossfold.runners.base import RunnerName, create_runner
from crossfold.runners.kubeflow.runner import KubeflowRunner


@pytest.mark.parametrize("name", RunnerName)
def test_every_name_has_a_runner(name: RunnerName) -> None:
    assert callable(create_runner(name, context=None, registry=None).run)


def test_a_runner_gets_the_options_that_were_given() -> None:
    assert create_runner(RunnerName.CLUSTER, context="team") == KubeflowRunner(context="team")


@pytest.mark.parametrize("name", [RunnerName.LOCAL, RunnerName.DOCKER])
@pytest.mark.parametrize("option", ["context", "registry"])
def test_a_runner_refuses_the_options_of_another(name: RunnerName, option: str) -> None:
    with pytest.raises(UserError, match="--context and --registry are for --on cluster"):
        create_runner(name, **{option: "team"})
