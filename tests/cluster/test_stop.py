"""`crossfold cluster down` and up again. The last tests of the services: they read all logs."""

import json

from crossfold.infra.cluster.addresses import KUBEFLOW, SERVICES
from crossfold.infra.cluster.kind import start_kind_cluster

from ..docker.services import wait
from .services import Services
from .test_command import crossfold
from .test_services import LOG_RUN, READ, READ_RUN

MIN_LENGTH = 8  # shorter values, as a user's name, are found anywhere


def test_no_log_has_a_secret_in_it(services: Services) -> None:
    namespaces = (*SERVICES, KUBEFLOW)
    secrets = {
        value
        for namespace in namespaces
        for secret in services.cluster.items("secrets", f"--namespace={namespace}")
        for key, value in (
            services.cluster.secret(namespace, secret["metadata"]["name"]) or {}
        ).items()
        if any(word in key.upper() for word in ("PASSWORD", "SECRET"))
    }
    assert len(secrets) > 10 and min(map(len, secrets)) >= MIN_LENGTH
    num_lines = 0
    pods = services.cluster.items("pods", "--all-namespaces")
    for pod in (found for found in pods if "deletionTimestamp" not in found["metadata"]):
        name, namespace = (pod["metadata"][key] for key in ("name", "namespace"))
        log = services.cluster.kubectl("logs", name, f"--namespace={namespace}", "--all-containers")
        num_lines += len(log.splitlines())
        assert not [secret for secret in secrets if secret in log], f"{namespace}/{name}"
    assert num_lines > 100


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
