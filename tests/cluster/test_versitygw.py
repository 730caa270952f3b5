"""versitygw in place of MinIO. The last tests: MinIO's data are gone afterwards."""

import docker
import pytest

from crossfold.infra.object_store import ObjectStore

from ..docker.services import BUCKETS, RIGHTS, object_store, rights, wait
from .services import Services, replacement, tagged

pytestmark = pytest.mark.timeout(2700)  # versitygw may have to be built

IMAGE = "ghcr.io/versity/versitygw"


@pytest.fixture(scope="module")
def versitygw(services: Services, engine: docker.DockerClient) -> Services:
    """The same services, on an empty volume and with another server."""
    _, built = object_store(ObjectStore.VERSITYGW)
    image = tagged(engine, built, "versitygw")
    services.cluster.load(image)
    for found in ("statefulset/minio", "persistentvolumeclaim/data-minio-0"):
        services.cluster.kubectl("delete", found, "--namespace=minio", "--request-timeout=0")
    components = ("kind", "versitygw", "small")  # in the order of `cluster up`
    services.apply(services.objects(images=[replacement(IMAGE, image)], components=components))
    return services


@pytest.mark.parametrize("user", RIGHTS)
def test_a_key_opens_its_own_bucket_only(versitygw: Services, user: str) -> None:
    client = versitygw.s3(user)
    assert tuple(rights(client, bucket) for bucket in BUCKETS) == RIGHTS[user]


def test_objects_outlive_the_pod(versitygw: Services) -> None:
    versitygw.s3("dvc").put_object(Bucket="dvc", Key="before", Body=b"data")
    versitygw.delete_pods("minio", 1)
    wait(lambda: versitygw.ready("minio"), 180)
    stored = versitygw.s3("dvc").get_object(Bucket="dvc", Key="before")
    assert stored["Body"].read() == b"data"
