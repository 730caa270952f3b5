"""MLflow, PostgreSQL and the object store on a real Kubernetes, as steps and outages meet them."""

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
import requests
import yaml

from crossfold.infra.cluster.addresses import SERVICES
from crossfold.infra.cluster.kubectl import Object
from crossfold.infra.image_tags import MLFLOW

from ..docker.services import wait
from ..pipeline.projects import SOURCE
from .services import Services, replacement

STATUS = """
import json, os, sys, urllib.error, urllib.request
from base64 import b64encode

def status(path, login, host=None):
    headers = {"Host": host} if host else {}
    if login:
        headers["Authorization"] = "Basic " + b64encode(":".join(login).encode()).decode()
    url = os.environ["MLFLOW_TRACKING_URI"] + path
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code

login = [os.environ[f"MLFLOW_TRACKING_{part}"] for part in ("USERNAME", "PASSWORD")]
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/0/a_run/artifacts/a.txt"
"""

LOG_RUN = """
import json, mlflow, os
os.chdir("/tmp")
mlflow.set_experiment("cluster")
with mlflow.start_run() as run:
    mlflow.log_params({"learning_rate": 0.01})
    for step in range(100):
        mlflow.log_metric("loss", 1 / (step + 1), step)
    mlflow.log_text("of the run " * 100_000, "notes/text.txt")
print(json.dumps([run.info.run_id, run.info.artifact_uri]))
"""

READ_RUN = """
import json, mlflow, sys
client = mlflow.MlflowClient()
history = client.get_metric_history(sys.argv[1], "loss")
text = mlflow.artifacts.load_text(client.get_run(sys.argv[1]).info.artifact_uri + "/notes/text.txt")
print(json.dumps([len(history), client.get_run(sys.argv[1]).data.params, len(text)]))
"""
READ = [100, {"learning_rate": "0.01"}, 1_100_000]

# Prints what was acknowledged, as it comes.
WORK = """
import mlflow, sys
client = mlflow.MlflowClient()
found = client.get_experiment_by_name("outage")
experiment = found.experiment_id if found else client.create_experiment("outage")
run_id = client.create_run(experiment).info.run_id
print(run_id, flush=True)
for step in range(int(sys.argv[1])):
    client.log_metric(run_id, "loss", step, step=step)
    print("metric", step, flush=True)
    client.log_text(run_id, f"of step {step}" * 10_000, f"{step}.txt")
    print("file", step, flush=True)
"""

KEPT = """
import json, mlflow, sys
from pathlib import Path
client = mlflow.MlflowClient()
history = client.get_metric_history(sys.argv[1], "loss")
folder = Path(client.download_artifacts(sys.argv[1], ""))
files = [int(path.stem) for path in folder.iterdir()]
assert all((folder / f"{n}.txt").read_text() == f"of step {n}" * 10_000 for n in files)
print(json.dumps([sorted(metric.step for metric in history), sorted(files)]))
"""


class Work:
    """A step that logs, and what it was told is saved."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        self.process = process
        self.run_id = process.stdout.readline().strip()
        self.acknowledged: dict[str, list[int]] = {"metric": [], "file": []}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            kind, step = line.split()
            self.acknowledged[kind].append(int(step))

    def ends(self) -> int:
        self._reader.join(300)
        return self.process.wait(10)


# What is shipped


def test_the_images_are_those_of_compose() -> None:
    composed = yaml.safe_load((SOURCE / "compose.yaml").read_text())["services"]
    for name in ("minio", "postgres"):
        documents = yaml.safe_load_all((SOURCE / "manifests" / name / f"{name}.yaml").read_text())
        (workload,) = (found for found in documents if found["kind"] == "StatefulSet")
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert container["image"] == composed[name]["image"]


def test_the_api_server_takes_the_manifests_as_they_are_shipped(services: Services) -> None:
    for name in SERVICES:
        folder = str(SOURCE / "manifests" / name)
        strictly = ("--server-side", "--force-conflicts", "--validate=strict", "--dry-run=server")
        objects = list(yaml.safe_load_all(services.cluster.kubectl("kustomize", folder)))
        objects = [found for found in objects if found["kind"] != "Job"]  # there, not to be changed
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        said = services.cluster.kubectl("apply", *strictly, "--filename=-", given=content)
        assert "networkpolicy" in said and "resourcequota" in said


# Who gets in


def test_mlflow_asks_for_a_login(services: Services) -> None:
    code = """
for auth in (login, None, [login[0], "wrong"], ["nobody", login[1]]):
    print(status(SEARCH, auth), status("/", auth), status(ARTIFACT, auth) == 401)
"""
    right, *wrong = services.python(STATUS + code).splitlines()
    assert right == "200 200 False"
    assert wrong == ["401 401 True"] * 3


def test_mlflow_answers_under_the_names_of_its_service_only(services: Services) -> None:
    names = ["mlflow.mlflow.svc.cluster.local", "mlflow.mlflow.svc", "mlflow.mlflow", "mlflow"]
    others = ["evil.example.org", "mlflow.example.org", "mlflow.evil.svc.cluster.local"]
    code = "print(*(status(SEARCH, login, f'{name}:5000') for name in sys.argv[1:]))"
    said = services.python(STATUS + code, *names, *others)
    assert said.split() == ["200"] * 4 + ["403"] * 3


def test_a_user_reaches_the_pages_by_port_forward(services: Services) -> None:
    secret = services.cluster.secret("mlflow", "mlflow")
    assert secret
    login = (secret["MLFLOW_TRACKING_USERNAME"], secret["MLFLOW_TRACKING_PASSWORD"])
    with services.forwarded("mlflow", 5000) as address:
        assert requests.get(address, timeout=20).status_code == 401
        page = requests.get(address, auth=login, timeout=20)
    assert page.status_code == 200
    assert "<title>MLflow</title>" in page.text


# What is kept where


def test_a_step_logs_to_postgresql_and_s3_without_a_key(services: Services) -> None:
    held = services.python("import os; print(*os.environ)").split()
    assert not [name for name in held if name.startswith("AWS_")]
    run_id, address = json.loads(services.python(LOG_RUN).splitlines()[-1])
    assert address.startswith("mlflow-artifacts:/")
    assert json.loads(services.python(READ_RUN, run_id)) == READ
    assert services.psql(f"SELECT count(*) FROM metrics WHERE run_uuid = '{run_id}'") == ["100"]
    listed = services.s3("mlflow").list_objects_v2(Bucket="mlflow")["Contents"]
    (size,) = (found["Size"] for found in listed if run_id in found["Key"])
    assert size == 1_100_000


def test_the_buckets_are_there_and_making_them_again_changes_nothing(services: Services) -> None:
    def buckets() -> dict[str, Any]:
        found = services.s3("crossfold").list_buckets()["Buckets"]
        return {bucket["Name"]: bucket["CreationDate"] for bucket in found}

    before = buckets()
    assert sorted(before) == ["dvc", "mlflow", "pipelines"]
    services.s3("dvc").put_object(Bucket="dvc", Key="kept", Body=b"data")
    services.apply(services.objects())  # with the Job, which was deleted and runs anew
    assert sorted(buckets()) == sorted(before)
    assert services.s3("dvc").get_object(Bucket="dvc", Key="kept")["Body"].read() == b"data"


def test_applying_again_changes_no_pod_and_no_password(services: Services) -> None:
    def state() -> list[Any]:
        pods = [
            pod["metadata"]["uid"] for name in SERVICES for pod in services.cluster.pods(name, name)
        ]
        return [sorted(pods), *(services.cluster.secret(name, name) for name in SERVICES)]

    before = state()
    services.apply(services.objects())
    assert state() == before


# Outages


@pytest.mark.parametrize(
    ("name", "number"), [("postgres", 1), ("minio", 1), ("mlflow", 1), ("mlflow", 2)]
)
def test_what_was_acknowledged_survives_the_loss_of_pods(
    services: Services, name: str, number: int
) -> None:
    with services.started(WORK, "150") as process:
        work = Work(process)
        wait(lambda: len(work.acknowledged["file"]) > 10)
        # A second, then SIGKILL. Without that second Kubernetes would not wait for the old pod's
        # end, and two PostgreSQLs would have the same files.
        services.delete_pods(name, number, "--grace-period=1")
        num_before = len(work.acknowledged["file"])
        wait(lambda: services.ready(name), 180)
        assert work.ends() == 0
    if (name, number) != ("mlflow", 1):
        assert num_before < 150, "the outage came too late to be one"
    check_nothing_is_lost(services, work, 150)


def check_nothing_is_lost(services: Services, work: Work, num_steps: int) -> None:
    # MLflow's client repeats what fails for a while, so that a short outage is only a delay.
    steps = list(range(num_steps))
    assert work.acknowledged == {"metric": steps, "file": steps}
    metrics, files = json.loads(services.python(KEPT, work.run_id).splitlines()[-1])
    assert sorted(set(metrics)) == files == steps


def test_without_postgresql_mlflow_is_not_ready_and_goes_on_living(services: Services) -> None:
    def restarts() -> list[int]:
        pods = services.cluster.pods("mlflow", "mlflow")
        return [pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods]

    before = restarts()
    scale = ("scale", "statefulset/postgres", "--namespace=postgres")
    services.cluster.kubectl(*scale, "--replicas=0")
    try:
        wait(lambda: not services.cluster.pods("postgres", "postgres"))
        wait(lambda: services.num_ready("mlflow") == 0, 90)
    finally:
        services.cluster.kubectl(*scale, "--replicas=1")
    wait(lambda: services.ready("mlflow"), 120)
    assert restarts() == before


# Another version of the manifests


def changed(kind: str, name: str, *operations: Object) -> Object:
    return {"target": {"kind": kind, "name": name}, "patch": yaml.safe_dump(list(operations))}


@pytest.fixture
def another_image(engine: docker.DockerClient, images: dict[str, str]) -> Iterator[str]:
    """MLflow's image under the name of another."""
    name, tag = images[MLFLOW].split(":")
    engine.images.get(images[MLFLOW]).tag(name, f"{tag}-next")
    yield f"{name}:{tag}-next"
    engine.images.remove(f"{name}:{tag}-next")


def test_another_version_of_the_manifests_keeps_the_data(
    services: Services, another_image: str
) -> None:
    run_id, _ = json.loads(services.python(LOG_RUN).splitlines()[-1])
    services.s3("dvc").put_object(Bucket="dvc", Key="before", Body=b"data")
    before = {
        name: {p["metadata"]["uid"] for p in services.cluster.pods(name, name)} for name in SERVICES
    }
    container = "/spec/template/spec/containers/0"
    memory = {"op": "replace", "path": f"{container}/resources/requests/memory", "value": "300Mi"}
    variable = {"name": "MLFLOW_HTTP_REQUEST_TIMEOUT", "value": "60"}
    patches = [
        *(changed("StatefulSet", name, memory) for name in ("minio", "postgres")),
        changed(
            "Deployment", "mlflow", {"op": "add", "path": f"{container}/env/-", "value": variable}
        ),
        changed("ResourceQuota", ".*", {"op": "replace", "path": "/spec/hard/pods", "value": "8"}),
    ]
    services.cluster.load(another_image)
    image = replacement("crossfold-mlflow", another_image)
    with services.started(WORK, "150") as process:
        work = Work(process)
        wait(lambda: len(work.acknowledged["file"]) > 5)
        services.apply(services.objects(*patches, images=[image]))
        assert work.ends() == 0
    check_nothing_is_lost(services, work, 150)
    for name in SERVICES:
        pods = services.cluster.pods(name, name)
        assert not before[name] & {pod["metadata"]["uid"] for pod in pods}
    for pod in services.cluster.pods("mlflow", "mlflow"):
        assert pod["spec"]["containers"][0]["image"] == another_image
    assert json.loads(services.python(READ_RUN, run_id)) == READ
    assert services.s3("dvc").get_object(Bucket="dvc", Key="before")["Body"].read() == b"data"
    services.apply(services.objects())  # and back
    assert json.loads(services.python(READ_RUN, run_id)) == READ


def test_an_update_of_mlflow_alone_refuses_no_request(services: Services) -> None:
    # One after another, each on a new connection, none repeated.
    code = """
print("started", flush=True)
import time
for number in range(600):
    print("metric" if status(SEARCH, login) == 200 else "file", number, flush=True)
    time.sleep(0.05)
"""
    with services.started(STATUS + code) as process:
        work = Work(process)
        restart = ("rollout", "restart", "deployment/mlflow", "--namespace=mlflow")
        services.cluster.kubectl(*restart)
        services.rolled_out("mlflow")
        assert len(work.acknowledged["metric"]) < 600, "the requests ended before the update"
        assert work.ends() == 0
    assert work.acknowledged["file"] == []
