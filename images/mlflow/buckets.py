"""Brings the object store's buckets and users to the state that is stated here.

Each of the users named has one bucket, and the password of the variable S3_PASSWORD_<USER>. Safe to
repeat. The object store is MinIO, or what OBJECT_STORE says: versitygw.
"""

import json
import os
import sys
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from minio import Minio, MinioAdmin
from minio.credentials import EnvAWSProvider
from minio.error import MinioAdminException, MinioException
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError
from versitygw import RefusedError, VersitygwAdmin

# A store that starts refuses connections, then answers 503: about a minute in all.
PATIENCE = Retry(
    total=32,
    backoff_factor=0.5,
    backoff_max=2,
    status_forcelist=[HTTPStatus.SERVICE_UNAVAILABLE],
    allowed_methods=None,
    raise_on_status=False,
)
READ = ["s3:GetBucketLocation", "s3:GetObject", "s3:ListBucket"]
WRITE = [
    *READ,
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
]
USERS = {  # name: bucket, what it may do there
    "mlflow": ("mlflow", WRITE),
    "pipelines": ("pipelines", WRITE),
    "dvc": ("dvc", WRITE),
    "dvc-reader": ("dvc", READ),
}


def main(users: list[str]) -> None:
    """Wait for the object store at MLFLOW_S3_ENDPOINT_URL, then make what it lacks.

    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are its root's.
    """
    address = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    store = _connection(address)
    s3 = Minio(**store)
    try:
        _make_buckets(s3, users)
        if os.environ.get("OBJECT_STORE") == "versitygw":
            _make_versitygw_users(VersitygwAdmin(address, store["http_client"]), s3, users)
        else:
            _make_minio_users(MinioAdmin(**store), users)
    except (MinioException, MinioAdminException, RefusedError) as error:
        sys.exit(f"error: {address} refuses: {error}")
    except HTTPError as error:
        sys.exit(f"error: {address} does not answer: {error}")


def _connection(address: str) -> dict[str, Any]:
    parts = urlsplit(address)
    return {
        "endpoint": parts.netloc,
        "credentials": EnvAWSProvider(),
        "secure": parts.scheme == "https",
        "region": "us-east-1",
        "http_client": PoolManager(timeout=Timeout(connect=2, read=60), retries=PATIENCE),
    }


def _make_buckets(s3: Minio, users: list[str]) -> None:
    present = {bucket.name for bucket in s3.list_buckets()}
    for bucket in sorted({USERS[user][0] for user in users} - present):
        s3.make_bucket(bucket)
        print(f"created the bucket {bucket}")


def _make_minio_users(admin: MinioAdmin, users: list[str]) -> None:
    """Give each user its password and its policy, which has the user's name."""
    for user in users:
        admin.user_add(user, _password(user))
        admin.policy_add(user, policy=_policy([_statement(user)]))
        admin.policy_set(user, user=user)


def _make_versitygw_users(admin: VersitygwAdmin, s3: Minio, users: list[str]) -> None:
    """Give each user its password, and each bucket a policy with the rights of its users."""
    for user in users:
        admin.set_user(user, _password(user))
    for bucket in {USERS[user][0] for user in users}:
        statements = [
            {**_statement(user), "Principal": {"AWS": [user]}}
            for user in users
            if USERS[user][0] == bucket
        ]
        s3.set_bucket_policy(bucket, json.dumps(_policy(statements)))


def _password(user: str) -> str:
    return os.environ[f"S3_PASSWORD_{user.upper().replace('-', '_')}"]


def _statement(user: str) -> dict[str, object]:
    bucket, actions = USERS[user]
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def _policy(statements: list[dict[str, object]]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": statements}


if __name__ == "__main__":
    main(sys.argv[1:])
