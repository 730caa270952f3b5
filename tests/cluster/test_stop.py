"""`crossfold cluster down` and up again. The last tests: they read all that is left."""

import json

from crossfold.infra.cluster.addresses import KUBEFLOW, SERVICES
from crossfold.infra.cluster.kind import start_kind_cluster

from ..docker.services import wait
from .services import Services
from .test_command import crossfold
from .test_services import LOG_RUN, READ, READ_RUN

# Whose processes have which Secrets' values.
ENVIRONMENTS = {
    (KUBEFLOW, "client"): [(KUBEFLOW, "crossfold-mlflow")],
    (KUBEFLOW, "mysql"): [(KUBEFLOW, "mysql-secret")],
    (KUBEFLOW, "page"): [],
    (KUBEFLOW, "workflow-controller"): [],
    ("minio", "minio"): [("minio", "minio")],
    ("mlflow", "mlflow"): [("mlflow", "mlflow"), ("mlflow", "s3")],
    ("postgres", "postgres"): [("postgres", "postgres")],
}


def test_no_log_has_a_secret_in_it(services: Services) -> None:
    secrets = services.secrets()
    num_lines = 0
    pods = services.cluster.items("pods", "--all-namespaces")
    for pod in (found for found in pods if "deletionTimestamp" not in found["metadata"]):
        name, namespace = (pod["metadata"][key] for key in ("name", "namespace"))
        log = services.cluster.kubectl("logs", name, f"--namespace={namespace}", "--all-containers")
        num_lines += len(log.splitlines())
        assert not [secret for secret in secrets if secret in log], f"{namespace}/{name}"
    assert num_lines > 100


def test_no_database_and_no_object_has_a_secret_in_it(services: Services) -> None:
    services.python(LOG_RUN)
    login = 'PGPASSWORD="$POSTGRES_PASSWORD" pg_dump -h 127.0.0.1 -U mlflow mlflow'
    dump = ("exec", "postgres-0", "--namespace=postgres", "--", "sh", "-c", login)
    rows = services.mysql("mysqldump", "--hex-blob", "--all-databases")
    left = {
        "MLflow's and its users' database": services.cluster.kubectl(*dump).encode(),
        "Kubeflow's databases": rows.encode(),
        **{
            f"s3://{bucket}/{key}": content
            for bucket in ("dvc", "mlflow", "pipelines")
            for key, content in services.objects_of(bucket).items()
        },
    }
    assert b"learning_rate" in left["MLflow's and its users' database"]
    assert any("notes/text.txt" in name for name in left)
    for secret in map(str.encode, services.secrets()):
        assert not [name for name, content in left.items() if secret in content]


def test_a_process_has_the_secrets_that_it_needs_and_none_on_its_command_line(
    services: Services,
) -> None:
    cluster, secrets = services.cluster, services.secrets()
    for (namespace, name), sources in ENVIRONMENTS.items():
        values = {v for source in sources for v in (cluster.secret(*source) or {}).values()}
        pod = cluster.pods(namespace, name)[0]["metadata"]["name"]
        shell = ("exec", pod, f"--namespace={namespace}", "--", "sh", "-c")
        environments = cluster.kubectl(*shell, "cat /proc/[0-9]*/environ 2>/dev/null; true")
        assert {secret for secret in secrets if secret in environments} == secrets & values, name
        commands = cluster.kubectl(*shell, "cat /proc/[0-9]*/cmdline 2>/dev/null; true")
        assert commands and not [secret for secret in secrets if secret in commands], name


def test_a_stopped_cluster_goes_on_with_the_same_data(services: Services) -> None:
    run_id, _ = json.loads(services.python(LOG_RUN).splitlines()[-1])
    passwords = [services.cluster.secret(name, name) for name in SERVICES]
    services.s3("dvc").put_object(Bucket="dvc", Key="before", Body=b"data")
    assert "`crossfold cluster up`" in crossfold("down", status=0)
    start_kind_cluster(print)
    services.apply(services.objects())
    # For some moments after its start Kubernetes calls pods ready that are not there yet.
    wait(lambda: all(map(services.ready, SERVICES)), 120)
    assert [services.cluster.secret(name, name) for name in SERVICES] == passwords
    assert services.s3("dvc").get_object(Bucket="dvc", Key="before")["Body"].read() == b"data"
    assert json.loads(services.python(READ_RUN, run_id)) == READ
