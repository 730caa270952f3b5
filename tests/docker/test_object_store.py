"""What both object stores do alike, and the move from one to the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import docker
import pytest
import requests
from botocore.exceptions import ClientError

from crossfold.infra.object_store import ObjectStore
from crossfold.infra.services.compose_project import ComposeProject

from ..pipeline.projects import Project
from .services import BUCKETS, RIGHTS, Services, object_store, prepared, rights, s3_client, wait
from .test_backup import contents, register_something

pytestmark = pytest.mark.timeout(2700)  # versitygw may have to be built

PASSWORD = "another-users-password"  # for the users that only a cluster has
MIN_PART = 5 * 2**20  # bytes, S3's limit for all parts but the last
UNSIGNED = {
    "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "x-amz-decoded-content-length": "4",
    "x-amz-trailer": "x-amz-checksum-crc32",
    "content-encoding": "aws-chunked",
}
CHUNKS = b"4\r\ndata\r\n0\r\nx-amz-checksum-crc32:rfPzYw==\r\n\r\n"


@dataclass(frozen=True)
class Move:
    """The services with versitygw, and what MinIO had before."""

    services: Services
    before: dict[str, Any]


@pytest.fixture(scope="module")
def move(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Move]:
    """Data moved from MinIO to versitygw, as docs/object-store.md says."""
    _, image = object_store(ObjectStore.VERSITYGW)
    with prepared(tmp_path_factory.mktemp("move"), engine) as services:
        services.up()
        register_something(services)
        before = contents(services)
        project = Project(services.root)
        project.call("crossfold", "backup", "moved")
        with (services.root / "services.env").open("a") as settings:
            settings.write(f"CROSSFOLD_TEST_S3={image}\n")
        project.call("crossfold", "services", "up", "--object-store", "versitygw")
        assert not list(services.objects("dvc"))
        project.call("crossfold", "restore", "--replace", "moved")
        yield Move(services, before)


@pytest.fixture(params=ObjectStore)
def store(request: pytest.FixtureRequest) -> Services:
    """The services with each object store."""
    if request.param is ObjectStore.MINIO:
        minio: Services = request.getfixturevalue("services")
        return minio
    moved: Move = request.getfixturevalue("move")
    return moved.services


def test_a_move_brings_all_runs_artifacts_and_data(move: Move) -> None:
    assert contents(move.services) == move.before


def test_up_starts_a_killed_versitygw_with_what_it_confirmed(move: Move) -> None:
    before = move.services.container("minio")
    assert "versitygw" in before.attrs["Config"]["Image"]
    move.services.kill("minio")
    move.services.up()
    wait(move.services.s3_answers)
    assert move.services.container("minio").id == before.id
    assert contents(move.services) == move.before


def test_versitygw_has_no_capability_and_writes_to_its_volume_only(move: Move) -> None:
    script = "cat /proc/self/status; touch /x 2>&1; true"
    _, output = move.services.container("minio").exec_run(["sh", "-c", script])
    *status, refused = output.decode().splitlines()
    facts = dict(line.split(":", 1) for line in status)
    assert int(facts["CapEff"], 16) == 0
    assert (int(facts["NoNewPrivs"]), int(facts["Seccomp"])) == (1, 2)
    assert "Read-only file system" in refused


def test_versitygw_takes_no_write_with_a_wrong_signature(move: Move) -> None:
    """GHSA-9c4q-hq6p-c237 and GHSA-hv4r-mvr4-25vw are such writes that MinIO takes."""
    endpoint, where = move.services.s3_endpoint, {"Bucket": "dvc", "Key": "forged"}
    signed = s3_client(endpoint, "dvc", "wrong").generate_presigned_url("put_object", Params=where)
    now = datetime.now(UTC)
    forged = {
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        "x-amz-meta-snowball-auto-extract": "true",
        "authorization": f"AWS4-HMAC-SHA256 Credential=dvc/{now:%Y%m%d}/us-east-1/s3/aws4_request, "
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={'0' * 64}",
    }
    for address, headers in ((signed, UNSIGNED), (f"{endpoint}/dvc/forged", UNSIGNED | forged)):
        answer = requests.put(address, data=CHUNKS, headers=headers, timeout=20)
        assert answer.status_code == 403
    assert "forged" not in dict(move.services.objects("dvc"))


def test_a_key_of_versitygw_opens_its_own_bucket_only(move: Move) -> None:
    """MinIO's keys: tests/cluster/test_keys.py."""
    store = move.services
    passwords = {
        "mlflow": store.settings["S3_PASSWORD_MLFLOW"],
        "dvc": store.settings["AWS_SECRET_ACCESS_KEY"],
        "pipelines": PASSWORD,
        "dvc-reader": PASSWORD,
    }
    names = ("S3_PASSWORD_PIPELINES", "S3_PASSWORD_DVC_READER")
    given = [word for name in names for word in ("-e", f"{name}={PASSWORD}")]
    compose = ComposeProject.find(store.root, store.settings)
    # Safe to repeat: two of the users are there.
    compose.call("run", "--rm", "-T", *given, "buckets", "python3", "buckets.py", *RIGHTS)
    found = {
        user: tuple(rights(s3_client(store.s3_endpoint, user, password), name) for name in BUCKETS)
        for user, password in passwords.items()
    }
    assert found == RIGHTS


def test_nothing_is_given_without_a_key(store: Services) -> None:
    store.s3("mlflow").put_object(Bucket="mlflow", Key="a-file", Body=b"secret")
    for path in ("", "/mlflow", "/mlflow/a-file"):
        assert requests.get(store.s3_endpoint + path, timeout=20).status_code == 403
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3_client(store.s3_endpoint, "mlflow", "wrong").list_objects_v2(Bucket="mlflow")
    store.s3("mlflow").delete_object(Bucket="mlflow", Key="a-file")


def test_an_object_in_parts_is_whole(store: Services) -> None:
    client, where = store.s3(), {"Bucket": "dvc", "Key": "in/parts"}
    parts = [b"a" * MIN_PART, b"b"]
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    tags = [
        client.upload_part(**where, PartNumber=number, Body=part)["ETag"]
        for number, part in enumerate(parts, 1)
    ]
    done = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})
    where.pop("UploadId")
    assert client.get_object(**where)["Body"].read() == b"".join(parts)
    middle = client.get_object(**where, Range=f"bytes={MIN_PART - 1}-{MIN_PART}")
    assert middle["Body"].read() == b"ab"
    client.delete_object(**where)


def test_a_conditional_write_replaces_nothing(store: Services) -> None:
    client, where = store.s3(), {"Bucket": "dvc", "Key": "once"}
    client.put_object(**where, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(**where, Body=b"second", IfNoneMatch="*")
    assert client.get_object(**where)["Body"].read() == b"first"
    client.delete_object(**where)


def test_a_signed_address_opens_one_object(store: Services) -> None:
    client, where = store.s3(), {"Bucket": "dvc", "Key": "signed"}
    client.put_object(**where, Body=b"data")
    address = client.generate_presigned_url("get_object", Params=where)
    assert requests.get(address, timeout=20).content == b"data"
    assert requests.get(address.replace("signed", "other", 1), timeout=20).status_code == 403
    client.delete_object(**where)
