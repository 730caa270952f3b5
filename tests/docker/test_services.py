"""MLflow, PostgreSQL and the object store of compose.yaml, as a user and as an outage meet them."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import docker
import pytest
import requests
import yaml
from docker.models.containers import Container
from mlflow.entities import LoggedModelOutput, Metric, Param, ViewType
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.infra.services.compose import down, up, write_environment

from ..pipeline.projects import Project
from .services import PROJECT, Services, free_port, healthy, wait

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
A_FILE = f"{ARTIFACTS}/0/a_run/artifacts/a.txt"


@pytest.fixture
def client(services: Services, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """What a step has: MLflow's address and login, and no key of the object store."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name, value in services.environment().items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    return MlflowClient(services.tracking_uri, services.tracking_uri)


@pytest.fixture
def login(services: Services) -> tuple[str, str]:
    return _login(services, "TRACKING")


def _login(services: Services, role: str) -> tuple[str, str]:
    return (
        services.settings[f"MLFLOW_{role}_USERNAME"],
        services.settings[f"MLFLOW_{role}_PASSWORD"],
    )


def new_run(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    run_id: str = client.create_run(experiment).info.run_id
    return run_id


# Who gets in


def test_nothing_is_open_to_other_machines(services: Services) -> None:
    published = {
        (name, port): [binding["HostIp"] for binding in bindings]
        for name in ("postgres", "minio", "mlflow")
        for port, bindings in services.container(name).attrs["NetworkSettings"]["Ports"].items()
        if bindings
    }
    assert published == {
        ("minio", "9000/tcp"): ["127.0.0.1"],
        ("mlflow", "5000/tcp"): ["127.0.0.1"],
    }


@pytest.mark.parametrize("name", ["postgres", "minio", "mlflow"])
def test_a_service_has_no_capability_and_writes_to_its_volumes_only(
    services: Services, name: str
) -> None:
    container = services.container(name)
    script = "id -u; cat /proc/self/status; touch /x 2>&1; true"
    _, output = container.exec_run(["sh", "-c", script])
    uid, *status, refused = output.decode().splitlines()
    # MinIO's own image is root's; the one that the tests build is not.
    of_image = container.image.attrs["Config"]["User"].partition(":")[0] or "0"
    assert uid == {"postgres": "999", "mlflow": "65532"}.get(name, of_image)
    facts = dict(line.split(":", 1) for line in status)
    assert int(facts["CapEff"], 16) == 0
    assert (int(facts["NoNewPrivs"]), int(facts["Seccomp"])) == (1, 2)
    assert "Read-only file system" in refused


def test_mlflow_asks_for_a_login(services: Services, login: tuple[str, str]) -> None:
    def status(path: str, auth: tuple[str, str] | None, method: str = "GET") -> int:
        url = services.tracking_uri + path
        return int(requests.request(method, url, auth=auth, data=b"", timeout=20).status_code)

    assert status(SEARCH, login) == 200
    for auth in (None, (login[0], "wrong"), ("nobody", login[1])):
        assert status(SEARCH, auth) == 401
        assert status("/", auth) == 401
        assert status(A_FILE, auth) == 401
        assert status(A_FILE, auth, "PUT") == 401


def test_mlflow_answers_under_its_own_names_only(
    services: Services, login: tuple[str, str]
) -> None:
    def answer(host: str) -> requests.Response:
        url = services.tracking_uri + SEARCH
        return requests.get(url, auth=login, headers={"Host": host}, timeout=20)

    for host in ("localhost", "127.0.0.1", "host.docker.internal"):
        assert answer(host).status_code == 200
        assert answer(f"{host}:5001").status_code == 200
    for host in ("evil.example.org", "evil.example.org:5001", "localhost.example.org"):
        assert answer(host).status_code == 403
        assert "Invalid Host header" in answer(host).text


def test_users_are_in_postgresql_and_not_in_the_container(services: Services) -> None:
    users = services.psql("SELECT username, is_admin FROM auth.users WHERE username <> 'reader'")
    assert sorted(users) == ["admin|t", "pipeline|f"]
    written = [change["Path"] for change in services.container("mlflow").diff() or []]
    assert not [path for path in written if "db" in path or "sqlite" in path]


def test_only_the_administrator_makes_users_who_may_read(
    services: Services, client: MlflowClient, login: tuple[str, str]
) -> None:
    def post(path: str, auth: tuple[str, str], **content: str) -> int:
        url = f"{services.tracking_uri}/api/2.0/mlflow/{path}"
        return int(requests.post(url, auth=auth, json=content, timeout=20).status_code)

    reader = ("reader", "a reader's password")
    new_user = {"username": reader[0], "password": reader[1]}
    assert post("users/create", login, **new_user) == 403
    assert post("users/create", _login(services, "AUTH_ADMIN"), **new_user) == 200
    run_id = new_run(client, "read by others")
    address = f"{services.tracking_uri}/api/2.0/mlflow/runs/get?run_id={run_id}"
    assert requests.get(address, auth=reader, timeout=20).status_code == 200
    assert post("runs/set-tag", reader, run_id=run_id, key="a", value="b") == 403
    assert post("runs/set-tag", login, run_id=run_id, key="a", value="b") == 200


# What is kept where


@pytest.fixture(scope="session")
def a_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "weights.bin"
    path.write_bytes(os.urandom(20_000_000))
    return path


def test_all_that_a_run_writes_goes_through_mlflow(
    services: Services, client: MlflowClient, a_file: Path, tmp_path: Path
) -> None:
    assert not [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]
    run_id = new_run(client, "a run")
    run = client.get_run(run_id)
    client.log_batch(
        run_id,
        metrics=[Metric("loss", 1 / (step + 1), 0, step) for step in range(1000)],
        params=[Param("learning_rate", "0.01")],
    )
    client.log_artifact(run_id, str(a_file), "model")
    model = client.create_logged_model(run.info.experiment_id, "digits", source_run_id=run_id)
    client.log_model_artifacts(model.model_id, str(a_file.parent))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.create_registered_model("digits")
    version = client.create_model_version(
        "digits", model.model_uri, run_id, model_id=model.model_id
    )
    client.set_registered_model_alias("digits", "champion", version.version)
    client.set_model_version_tag("digits", version.version, "gate", "passed")
    client.set_terminated(run_id)
    client.delete_run(new_run(client, "a run"))

    found = client.get_model_version_by_alias("digits", "champion")
    assert (found.version, found.tags["gate"]) == (version.version, "passed")
    assert len(client.get_metric_history(run_id, "loss")) == 1000
    assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    copy = client.download_artifacts(run_id, "model/weights.bin", str(tmp_path))
    assert Path(copy).read_bytes() == a_file.read_bytes()

    listed = services.s3("mlflow").list_objects_v2(Bucket="mlflow")["Contents"]
    sizes = [entry["Size"] for entry in listed if entry["Key"].endswith("weights.bin")]
    assert sizes == [20_000_000, 20_000_000]
    counted = services.psql(f"SELECT count(*) FROM metrics WHERE run_uuid = '{run_id}'")
    assert counted == ["1000"]


def test_clients_are_not_sent_to_the_object_store(
    services: Services, client: MlflowClient, login: tuple[str, str], a_file: Path
) -> None:
    def ask(path: str) -> requests.Response:
        return requests.get(f"{services.tracking_uri}/api/{path}", auth=login, timeout=20)

    offered = ask("3.0/mlflow/server-info").json()
    assert not offered["multipart_downloads_enabled"]
    assert not offered["multipart_uploads_enabled"]
    run_id = new_run(client, "direct")
    client.log_artifact(run_id, str(a_file))
    folder = client.get_run(run_id).info.artifact_uri.removeprefix("mlflow-artifacts:")
    answer = ask(f"2.0/mlflow-artifacts/presigned{folder}/{a_file.name}")
    assert answer.status_code == 501
    assert "minio" not in answer.text


def test_the_data_outlive_the_containers_and_a_changed_password_holds(
    services: Services,
    client: MlflowClient,
    a_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = new_run(client, "before")
    client.log_metric(run_id, "loss", 0.5)
    client.log_artifact(run_id, str(a_file))
    services.s3().put_object(Bucket="dvc", Key="files/md5/00/aa", Body=b"data")
    before = services.container("mlflow").id
    old, new = services.settings["MLFLOW_TRACKING_PASSWORD"], "another-password"

    services.down()
    with pytest.raises(requests.ConnectionError):
        requests.get(services.tracking_uri, timeout=5)
    changed = (services.root / "services.env").read_text().replace(old, new)
    (services.root / "services.env").write_text(changed)
    services.up()

    assert (services.root / "services.env").read_text() == changed
    assert services.container("mlflow").id != before
    url = services.tracking_uri + SEARCH
    assert requests.get(url, auth=("pipeline", old), timeout=20).status_code == 401
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", new)
    assert client.get_run(run_id).data.metrics == {"loss": 0.5}
    copy = client.download_artifacts(run_id, "weights.bin", str(tmp_path))
    assert Path(copy).read_bytes() == a_file.read_bytes()
    stored = services.s3().get_object(Bucket="dvc", Key="files/md5/00/aa")
    assert stored["Body"].read() == b"data"


def test_starting_again_changes_nothing(services: Services) -> None:
    before = {name: services.container(name).id for name in ("postgres", "minio", "mlflow")}
    started = services.container("mlflow").attrs["State"]["StartedAt"]
    said = services.up()
    assert {name: services.container(name).id for name in before} == before
    assert services.container("mlflow").attrs["State"]["StartedAt"] == started
    assert services.tracking_uri in said
    assert not [
        value for name, value in services.settings.items() if "PASSWORD" in name and value in said
    ]


# Starting and stopping


@pytest.fixture
def create_server(services: Services) -> Iterator[Callable[..., Container]]:
    """Create further servers like the one of compose.yaml but for some variables."""
    configuration = services.container("mlflow").attrs["Config"]
    environment = dict(line.split("=", 1) for line in configuration["Env"])
    created = []

    def create(**changes: str) -> Container:
        container = services.engine.containers.create(
            configuration["Image"],
            init=True,
            read_only=True,
            tmpfs={"/tmp": ""},
            user="1000:1000",
            cap_drop=["ALL"],
            network=f"{services.project}_default",
            environment={**environment, **changes},
        )
        created.append(container)
        return container

    yield create
    for container in created:
        container.remove(force=True, v=True)


OLDER_TABLES = """
import sqlalchemy
from alembic import command
from mlflow.store.db import utils

engine = sqlalchemy.create_engine("postgresql://")
utils.InitialBase.metadata.create_all(engine)
config = utils._get_alembic_config("postgresql://")
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, "head-2")
"""


@pytest.mark.parametrize("database", ["empty", "older"])
def test_two_servers_that_start_at_once_make_the_tables_once(
    services: Services, create_server: Callable[..., Container], database: str
) -> None:
    services.psql(f"CREATE DATABASE {database}")
    if database == "older":
        command, where = ["python3", "-c", OLDER_TABLES], {"PGDATABASE": database}
        code, output = services.container("mlflow").exec_run(command, environment=where)
        assert code == 0, output.decode()
        assert version(services, database) != version(services, "mlflow")

    servers = [create_server(PGDATABASE=database) for _ in range(2)]
    for server in servers:
        server.start()
    for server in servers:
        wait(partial(healthy_or_gone, server))

    logs = [server.logs().decode() for server in servers]
    assert [server.status for server in servers] == ["running", "running"], logs
    assert sum(log.count("Creating initial MLflow database tables") for log in logs) == (
        database == "empty"
    )
    assert version(services, database) == version(services, "mlflow")
    users = services.psql("SELECT username FROM auth.users", database)
    assert sorted(users) == ["admin", "pipeline"]


def version(services: Services, database: str) -> list[str]:
    return services.psql("SELECT version_num FROM alembic_version", database)


def healthy_or_gone(server: Container) -> bool:
    return healthy(server) or server.status == "exited"


def test_a_server_says_what_it_lacks(
    services: Services, create_server: Callable[..., Container]
) -> None:
    cases = {
        "set the environment variables PGHOST, PGPASSWORD": {"PGHOST": "", "PGPASSWORD": ""},
        "Password must be at least 12 characters": {"MLFLOW_AUTH_ADMIN_PASSWORD": "short"},
    }
    for message, changes in cases.items():
        server = create_server(**changes)
        server.start()
        assert server.wait(timeout=60)["StatusCode"] == 1
        log = server.logs().decode()
        assert log.splitlines()[-1].startswith("error: ")
        assert message in log
        assert "Traceback" not in log


def test_a_server_that_is_stopped_answers_the_request_in_flight(
    services: Services, client: MlflowClient, login: tuple[str, str], tmp_path: Path
) -> None:
    run_id = new_run(client, "stopped")
    folder = client.get_run(run_id).info.artifact_uri.removeprefix("mlflow-artifacts:")
    server = services.container("mlflow")
    stopping = threading.Thread(target=lambda: server.stop(timeout=30))

    def slow_upload() -> Iterator[bytes]:
        yield b"begun "
        time.sleep(1)  # long enough for the server to have begun with it
        stopping.start()
        time.sleep(2)
        yield b"and ended"

    url = f"{services.tracking_uri}{ARTIFACTS}{folder}/slow.txt"
    answer = requests.put(url, auth=login, data=slow_upload(), timeout=60)
    answered = time.monotonic()
    stopping.join()
    assert answer.status_code == 200
    assert time.monotonic() - answered < 8
    server.reload()
    assert server.attrs["State"]["ExitCode"] == 0
    services.start("mlflow")
    copy = client.download_artifacts(run_id, "slow.txt", str(tmp_path))
    assert Path(copy).read_text() == "begun and ended"


# Outages


def test_without_postgresql_mlflow_is_unhealthy_and_judges_no_login(services: Services) -> None:
    server = services.container("mlflow")
    assert server.exec_run("python3 health.py").exit_code == 0
    services.kill("postgres")
    try:
        assert server.exec_run("python3 health.py").exit_code == 1
        assert requests.get(f"{services.tracking_uri}/health", timeout=20).status_code == 200
        # A client repeats what 503 answers, and takes 401 as final.
        login = ("pipeline", "never asked for before")
        for method, path in (("GET", SEARCH), ("GET", A_FILE), ("PUT", A_FILE)):
            url = services.tracking_uri + path
            answer = requests.request(method, url, auth=login, data=b"", timeout=20)
            assert answer.status_code == 503
    finally:
        services.start("postgres")
    assert server.exec_run("python3 health.py").exit_code == 0


def test_no_query_that_fails_is_taken_for_a_wrong_login(services: Services) -> None:
    server = services.container("mlflow")
    (network,) = server.attrs["NetworkSettings"]["Networks"]
    said = services.engine.containers.run(
        server.image,
        ["python3", "-c", (Path(__file__).parent / "failing_queries.py").read_text()],
        environment=[
            *server.attrs["Config"]["Env"],
            # As `mlflow server` tells its workers.
            "_MLFLOW_SERVER_FILE_STORE=postgresql://",
            "_MLFLOW_SGI_NAME=uvicorn",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS=true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT=mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION=s3://mlflow",
            "MLFLOW_SERVER_ALLOWED_HOSTS=127.0.0.1:5999",
        ],
        network=network,
        remove=True,
    )
    answers = json.loads(said.decode().splitlines()[-1])
    assert {status for _, number, status in answers if number == 0} == {200}
    failed = [(request, number, status) for request, number, status in answers if number]
    assert len({request for request, *_ in failed}) == 4
    assert [answer for answer in failed if answer[2] < 500] == []


@pytest.mark.parametrize("killed", ["postgres", "minio", "mlflow"])
def test_what_was_acknowledged_survives_an_outage(
    services: Services, client: MlflowClient, tmp_path: Path, killed: str
) -> None:
    run_id = new_run(client, "outage")
    logged: list[int] = []
    uploaded: list[int] = []

    def work() -> None:
        for step in range(40):
            client.log_metric(run_id, "loss", step, step=step)
            logged.append(step)
            client.log_text(run_id, f"of step {step}" * 10_000, f"{step}.txt")
            uploaded.append(step)

    worker = threading.Thread(target=work)
    worker.start()
    wait(lambda: len(uploaded) > 10)
    services.kill(killed)
    time.sleep(2)
    num_before = len(uploaded)
    assert services.container(killed).status == "exited"
    services.start(killed)
    worker.join()

    assert num_before < 40, "the outage came too late to be one"
    # MLflow's client repeats what fails for a while, so that a short outage is only a delay.
    assert logged == uploaded == list(range(40))
    history = client.get_metric_history(run_id, "loss")
    assert {metric.step for metric in history} == set(logged)
    folder = client.download_artifacts(run_id, "", str(tmp_path))
    for step in uploaded:
        assert (Path(folder) / f"{step}.txt").read_text() == f"of step {step}" * 10_000


# Old runs


def test_old_runs_are_deleted_with_their_objects(
    services: Services, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/weights.bin").write_bytes(b"weights")
    experiment = client.create_experiment("old runs")
    runs, models = [], []
    for _ in range(3):
        run = client.create_run(experiment, tags={"crossfold.kind": "pipeline"}).info.run_id
        model = client.create_logged_model(experiment, source_run_id=run)
        client.log_model_artifacts(model.model_id, str(tmp_path / "weights"))
        client.log_text(run, "a text", "a.txt")
        client.set_terminated(run)
        runs.append(run)
        models.append(model)
    client.create_registered_model("old runs")
    client.create_model_version("old runs", models[1].model_uri, model_id=models[1].model_id)

    def with_objects(ids: list[str]) -> list[bool]:
        keys = [key for key, _ in services.objects("mlflow")]
        return [any(id_ in key for key in keys) for id_ in ids]

    settings = yaml.safe_load((PROJECT / "params.yaml").read_text())
    settings["tracking"]["experiment"] = "old runs"
    (services.root / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    project = Project(services.root)
    with project.exported(services.environment()):
        assert "1 pipeline run can be" in project.call("crossfold", "clean-mlflow", "--keep", "1")
        assert with_objects(runs) == [True, True, True]
        project.call("crossfold", "clean-mlflow", "--keep", "1", "--delete")
    assert with_objects(runs) == [False, True, True]
    assert with_objects([model.model_id for model in models]) == [False, True, True]
    left = client.search_runs([experiment], run_view_type=ViewType.ALL)
    assert {run.info.run_id for run in left} == set(runs[1:])


# What stands in the way of `make services-up`


def test_a_port_in_use_is_named_before_anything_starts(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        write_environment(
            tmp_path / "services.env",
            project="crossfold-test-port",
            mlflow_port=free_port(),
            s3_port=port,
        )
        with pytest.raises(UserError, match=f"port {port} is in use .* change CROSSFOLD_S3_PORT"):
            up(tmp_path, print)
    label = {"label": "com.docker.compose.project=crossfold-test-port"}
    assert not services.engine.containers.list(all=True, filters=label)
    assert not services.engine.volumes.list(filters=label)


def test_data_without_their_passwords_get_no_new_ones(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    labels = {"com.docker.compose.project": "crossfold"}
    volume = engine.volumes.create(f"crossfold-test-{os.getpid()}-old", labels=labels)
    try:
        with pytest.raises(UserError, match=rf"Copy the file .* docker volume rm .*{volume.name}"):
            up(tmp_path, print)
    finally:
        volume.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_docker_without_compose_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\n[ "$1" != compose ] && exec {shutil.which("docker")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install docker-compose-plugin"):
        up(tmp_path, print)


def test_a_server_that_does_not_start_shows_its_log(services: Services, tmp_path: Path) -> None:
    write_environment(
        tmp_path / "services.env",
        project=f"{services.project}-fails",
        mlflow_port=free_port(),
        s3_port=free_port(),
    )
    # Of compose.yaml the server alone, which then lacks all that it needs.
    server = {"image": "${CROSSFOLD_MLFLOW_IMAGE}", "restart": "unless-stopped"}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump({"services": {"mlflow": server}}))
    try:
        with pytest.raises(UserError, match=r"(?s)MLflow .*MLFLOW_AUTH_ADMIN_USERNAME"):
            up(tmp_path, print)
    finally:
        down(tmp_path)
