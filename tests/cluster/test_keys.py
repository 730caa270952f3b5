"""Keys of the object store: which opens what, who holds which, and where none may be seen."""

import itertools
import json

import pytest
import yaml

from crossfold.infra.cluster.addresses import KUBEFLOW, SERVICES
from crossfold.infra.cluster.kubectl import Object

from ..docker.services import BUCKETS, RIGHTS, rights
from ..pipeline.projects import SOURCE
from .services import Services

HOLDERS = {
    ("mlflow", "s3"): "mlflow",
    (KUBEFLOW, "mlpipeline-minio-artifact"): "pipelines",
    (KUBEFLOW, "crossfold-dvc-remote"): "dvc-reader",
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")


@pytest.mark.parametrize("user", RIGHTS)
def test_a_key_opens_its_own_bucket_only(services: Services, user: str) -> None:
    client = services.s3(user)
    assert tuple(rights(client, bucket) for bucket in BUCKETS) == RIGHTS[user]


def values(services: Services, namespace: str, name: str) -> set[str]:
    found = services.cluster.secret(namespace, name)
    assert found
    return set(found.values())


def test_each_holds_one_users_key(services: Services) -> None:
    users = services.cluster.secret("minio", "users")
    assert users
    by_password = {password: name for name, password in users.items()}
    for (namespace, name), user in HOLDERS.items():
        held = values(services, namespace, name)
        assert [by_password[value] for value in held if value in by_password] == [
            f"S3_PASSWORD_{user.upper().replace('-', '_')}"
        ]
        assert user in held


def test_no_account_may_touch_a_secret_but_a_step_read_its_own(services: Services) -> None:
    found = {
        kind: [
            (namespace, item["metadata"]["name"])
            for namespace in (*SERVICES, KUBEFLOW)
            for item in services.cluster.items(kind, f"--namespace={namespace}")
        ]
        for kind in ("serviceaccounts", "secrets")
    }
    assert (KUBEFLOW, "crossfold-steps") in found["serviceaccounts"]
    tried = list(itertools.product(found["serviceaccounts"], found["secrets"], VERBS))
    reviews = [_review(account, secret, verb) for account, secret, verb in tried]
    answers = services.cluster.kubectl(
        "create",
        "--filename=-",
        "--output=jsonpath={.status.allowed}{'\\n'}",
        given=json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews}),
    ).splitlines()
    allowed = [what for what, answer in zip(tried, answers, strict=True) if answer == "true"]
    of_steps = (KUBEFLOW, "crossfold-steps"), (KUBEFLOW, "mlpipeline-minio-artifact"), "get"
    assert allowed == [of_steps]


def _review(account: tuple[str, str], secret: tuple[str, str], verb: str) -> Object:
    """Return the question whether a service account may do this to a Secret."""
    groups = ["serviceaccounts", f"serviceaccounts:{account[0]}", "authenticated"]
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": ":".join(("system:serviceaccount", *account)),
            "groups": [f"system:{group}" for group in groups],
            "resourceAttributes": {
                "namespace": secret[0],
                "resource": "secrets",
                "name": secret[1],
                "verb": verb,
            },
        },
    }


def test_the_root_key_of_an_earlier_version_is_replaced(services: Services) -> None:
    cluster = services.cluster
    store = cluster.secret("minio", "minio")
    assert store
    root = store["MINIO_ROOT_PASSWORD"]

    def change(namespace: str, name: str, keys: dict[str, str]) -> None:
        patch = json.dumps({"stringData": keys})
        where = ("secret", name, f"--namespace={namespace}", "--type=merge", f"--patch={patch}")
        cluster.kubectl("patch", *where)

    s3 = {"AWS_ACCESS_KEY_ID": store["MINIO_ROOT_USER"], "AWS_SECRET_ACCESS_KEY": root}
    change("mlflow", "mlflow", s3)
    change(KUBEFLOW, "mlpipeline-minio-artifact", {"accesskey": "crossfold", "secretkey": root})
    change(KUBEFLOW, "crossfold-dvc-remote", s3)
    for namespace, name in (("mlflow", "s3"), ("minio", "users")):
        cluster.kubectl("delete", "secret", name, f"--namespace={namespace}")
    # The pods of that version read one Secret.
    patch = json.dumps([{"op": "remove", "path": "/spec/template/spec/containers/0/envFrom/1"}])
    where = ("deployment", "mlflow", "--namespace=mlflow", "--type=json", f"--patch={patch}")
    cluster.kubectl("patch", *where)
    services.rolled_out("mlflow")  # else the pods from before, with a key that is gone, would stay
    services.apply(services.objects())
    for namespace in (*SERVICES, KUBEFLOW):
        for secret in cluster.items("secrets", f"--namespace={namespace}"):
            name = secret["metadata"]["name"]
            if (namespace, name) != ("minio", "minio"):
                assert root not in values(services, namespace, name)
    test_each_holds_one_users_key(services)
    for pod in cluster.pods("mlflow", "mlflow"):
        key = ("exec", pod["metadata"]["name"], "--namespace=mlflow", "--", "printenv")
        assert cluster.kubectl(*key, "AWS_ACCESS_KEY_ID") == "mlflow\n"


def test_kubeflows_page_has_a_secret_of_its_own_to_print() -> None:
    patch: Object = yaml.safe_load((SOURCE / "manifests" / "kubeflow" / "ui.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    (variable,) = (
        found for found in container["env"] if found["name"] == "TENSORBOARD_PROXY_SIGNING_SECRET"
    )
    assert variable["valueFrom"]["secretKeyRef"]["name"] == "ml-pipeline-ui"
