"""Runs in containers against MLflow, PostgreSQL and an object store, each of which is killed."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from crossfold.step.full_disk import explain_full_disk
from crossfold.tracking import store

from ..pipeline.projects import STEPS, Project, small_settings, titles, wait_until, write_project
from .services import Services, healthy, prepared, wait
from .watch import watched

NAME = "outages"
PLACES = ("minio", "postgres")  # volumes
DISK = "200m"
RUN = ("crossfold", "run", "--on", "docker", "--set", "data.remote=minio")


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, str], services: Services
) -> Iterator[Project]:
    """A project whose data are in the object store; its commands log to the MLflow server."""
    project = write_project(tmp_path_factory.mktemp("outages") / "project")
    project.call("dvc", "remote", "modify", "minio", "endpointurl", services.s3_endpoint)
    settings = small_settings()
    settings["tracking"].update(experiment=NAME, model_name=NAME)  # other tests use the server too
    (project.root / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    with project.exported(services.environment()):
        project.call("dvc", "push", "--remote", "minio")
        yield project


@pytest.fixture
def client(services: Services, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    return MlflowClient()


def experiment_id(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    return str(experiment.experiment_id)


def logged(client: MlflowClient) -> dict[str, dict[str, Any]]:
    """Return what MLflow has of each run: parameters, metrics and the names of artifacts."""
    found = {}
    for run in client.search_runs([experiment_id(client)]):
        artifacts = {file.path: True for file in client.list_artifacts(run.info.run_id)}
        data = run.data
        found[run.info.run_id] = {
            **{f"param {key}": value for key, value in data.params.items()},
            **{f"metric {key}": value for key, value in data.metrics.items()},
            **artifacts,
        }
    return found


def num_folds_at_work(client: MlflowClient, run_id: str) -> int:
    folds = f"tags.crossfold.run_id = '{run_id}' and tags.crossfold.step = 'train_fold'"
    return len(
        client.search_runs([experiment_id(client)], f"{folds} and attributes.status = 'RUNNING'")
    )


def assert_kept(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> None:
    assert any(before.values())
    for run_id, entries in before.items():
        assert entries.items() <= after[run_id].items()


def test_data_that_cannot_be_fetched_fail_the_run_clearly(
    project: Project, services: Services
) -> None:
    services.kill("minio")
    output = project.call(*RUN, status=1)
    services.start("minio")
    first_failed = r"error: (fetch_data|fetch_weights resnet18): "  # neither waits for the other
    assert re.search(rf"{first_failed}the remote 'minio' \(s3://dvc\) cannot be used: ", output), (
        output
    )
    assert "Traceback" not in output
    for secret in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"):
        assert services.environment()[secret] not in output


def test_a_run_outlives_its_services(
    project: Project, services: Services, client: MlflowClient, engine: docker.DockerClient
) -> None:
    """Each service is killed and started again while a step is at work that needs it."""
    with watched(engine) as watch, project.started(*RUN) as process:
        before = []
        for step, service in (
            ("extract_features", "postgres"),
            ("train_fold 0", "mlflow"),
            ("register_model", "minio"),
        ):
            output = project.wait_for_step(process, step)
            before.append(logged(client))
            services.kill(service)
            services.start(service)
        assert process.stdout is not None
        output.append(process.stdout.read())
        assert process.wait() == 0, output
    after = logged(client)
    for snapshot in before:
        assert_kept(snapshot, after)

    run = project.runs()[-1]
    (parent,) = client.search_runs(
        [experiment_id(client)],
        f"tags.crossfold.run_id = '{run['id']}' and tags.crossfold.kind = 'pipeline'",
    )
    assert parent.info.status == "FINISHED"
    assert after[parent.info.run_id].keys() >= {"report.html", "plots", "metric test_macro_f1"}
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.tags["mlflow_parent_run"] == parent.info.run_id
    image = next((project.root / "data/3").iterdir())
    assert "\t3\t" in project.call("crossfold", "predict", str(image))

    # The object store's key is for the data; MLflow's artifacts go through its server.
    for title, attributes in watch.items():
        environment = "\n".join(attributes["Config"]["Env"])
        key = services.environment()["AWS_SECRET_ACCESS_KEY"]
        assert (key in environment) == title.startswith("fetch_")
        assert services.environment()["MLFLOW_TRACKING_PASSWORD"] in environment
        # Passwords of the services themselves are in no step, and none is in the list of processes.
        command = "\n".join([attributes["Path"], *attributes["Args"]])
        others = services.secrets() - set(services.environment().values())
        assert not [secret for secret in others if secret in environment]
        assert not [secret for secret in services.secrets() if secret in command]


def test_a_server_that_stays_away_fails_the_run_and_nothing_is_lost(
    project: Project, services: Services, client: MlflowClient
) -> None:
    change = ("--set", "training.num_epochs=1")
    # By default MLflow's client asks again for four minutes.
    impatient = {**services.environment(), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
    with project.exported(impatient), project.started(*RUN, *change) as process:
        project.wait_for_step(process, "train_fold 0")
        run_id = project.runs()[-1]["id"]
        wait_until(lambda: num_folds_at_work(client, run_id) == 2)
        before = logged(client)
        services.kill("mlflow")
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == 1
    services.start("mlflow")
    said = r"error: train_fold \d: the tracking server http://127.0.0.1:\d+ has not answered"
    assert re.search(said, output), output
    assert "Traceback" not in output, output
    assert project.runs()[-1]["status"] == "failed"
    continued = project.call(*RUN, *change)
    assert not {"fetch_data", "extract_features resnet18"} & set(titles(continued, "✓"))
    assert sorted(titles(continued, "✓") + titles(continued, "↺")) == sorted(STEPS)
    assert_kept(before, logged(client))


# Full disks of the services


@pytest.fixture(scope="module")
def small(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """Services of which PostgreSQL and the object store have small disks."""
    with prepared(tmp_path_factory.mktemp("small"), engine) as services:
        options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={DISK},uid=999,mode=0777"}
        volumes = {name: {"driver_opts": options} for name in PLACES}
        (services.root / "small.yaml").write_text(yaml.safe_dump({"volumes": volumes}))
        path = services.root / "services.env"
        files = "COMPOSE_FILE=compose.yaml:compose.test.yaml"
        path.write_text(path.read_text().replace(files, f"{files}:small.yaml"))
        services.up()
        yield services


@pytest.fixture(params=sorted(PLACES))
def full(small: Services, request: pytest.FixtureRequest) -> Iterator[Callable[[bool], None]]:
    """Fill the disk of one service with True, and empty it with False."""
    name = request.param
    volume = f"{small.project}_{name}"
    # It also keeps the disk, which would be lost if the service stopped.
    other = small.engine.containers.run(
        small.container("postgres").image,
        ["sleep", "600"],
        user="0",
        volumes={volume: {"bind": "/disk", "mode": "rw"}},
        detach=True,
    )

    def fill(is_full: bool) -> None:
        command = "dd if=/dev/zero of=/disk/fill bs=4k" if is_full else "rm /disk/fill"
        code, output = other.exec_run(["sh", "-c", command])
        assert (code, b"No space left" in output) == ((1, True) if is_full else (0, False)), output

    yield fill
    other.remove(force=True)


def test_a_full_disk_of_a_service_loses_nothing_that_was_acknowledged(
    small: Services,
    full: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for key, value in {**small.environment(), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}.items():
        monkeypatch.setenv(key, value)
    client = MlflowClient(small.tracking_uri, small.tracking_uri)
    experiment = client.get_experiment_by_name("full disk")
    run = client.create_run(
        experiment.experiment_id if experiment else client.create_experiment("full disk")
    )
    run_id, acknowledged = run.info.run_id, []

    def log(number: int) -> None:
        metrics = [Metric(f"metric {n}", n, n, number) for n in range(1000)]
        client.log_batch(run_id, metrics)
        client.log_text(run_id, f"of {number}" * 100_000, f"{number}.txt")
        acknowledged.append(number)

    log(0)
    full(True)
    with pytest.raises(MlflowException) as caught:
        for number in range(1, 200):
            log(number)
    assert "or only with errors" in store.lost_server(caught.value), caught.value
    assert not explain_full_disk(caught.value, tmp_path), "taken for the disk of this machine"
    full(False)
    wait(lambda: healthy(small.container("mlflow")))
    log(1000)
    history = client.get_metric_history(run_id, "metric 7")
    assert {metric.step for metric in history} >= set(acknowledged)
    folder = Path(client.download_artifacts(run_id, "", str(tmp_path)))
    for number in acknowledged:
        assert (folder / f"{number}.txt").read_text() == f"of {number}" * 100_000


def test_no_secret_is_in_what_runs_leave(project: Project, services: Services) -> None:
    left = {
        "MLflow's and its users' databases": services.dump(),
        **{f"log of {name}": services.container(name).logs() for name in ("postgres", "minio")},
        "log of mlflow": services.container("mlflow").logs(),
        **{f"s3://dvc/{key}": content for key, content in services.objects("dvc")},
        **{f"s3://mlflow/{key}": content for key, content in services.objects("mlflow")},
        **{str(path): path.read_bytes() for path in project.root.rglob("*") if path.is_file()},
    }
    assert any("report.html" in name for name in left)
    for secret in map(str.encode, services.secrets()):
        assert not [name for name, content in left.items() if secret in content]
