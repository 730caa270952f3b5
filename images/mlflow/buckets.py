"""Brings MinIO's buckets and users to the state that is stated here, for the users named.

Each user has one bucket, and the password of the variable S3_PASSWORD_<USER>. Safe to repeat.
"""

import os
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from minio import Minio, MinioAdmin
from minio.credentials import EnvAWSProvider
from minio.error import MinioAdminException, S3Error
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

TIMEOUT = 60  # seconds for the object store to answer
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
    address = urlsplit(os.environ["MLFLOW_S3_ENDPOINT_URL"])
    store: dict[str, Any] = {
        "endpoint": address.netloc,
        "credentials": EnvAWSProvider(),
        "secure": address.scheme == "https",
        "region": "us-east-1",
        "http_client": PoolManager(timeout=Timeout(connect=2, read=60), retries=False),
    }
    s3, admin = Minio(**store), MinioAdmin(**store)
    try:
        present = _buckets(s3)
        for user in users:
            bucket, actions = USERS[user]
            if bucket not in present:
                s3.make_bucket(bucket)
                present.add(bucket)
                print(f"created the bucket {bucket}")
            _make_user(admin, user, bucket, actions)
    except (S3Error, MinioAdminException) as error:
        sys.exit(f"error: {address.netloc} refuses: {error}")
    except HTTPError as error:
        sys.exit(f"error: {address.netloc} stopped answering: {error}")


def _buckets(s3: Minio) -> set[str]:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return {bucket.name for bucket in s3.list_buckets()}
        except HTTPError as error:
            if time.monotonic() > deadline:
                sys.exit(f"error: the object store does not answer for {TIMEOUT} s: {error}")
            time.sleep(0.5)


def _make_user(admin: MinioAdmin, user: str, bucket: str, actions: list[str]) -> None:
    """Give a user its password and its policy, which has the user's name."""
    admin.user_add(user, os.environ[f"S3_PASSWORD_{user.upper().replace('-', '_')}"])
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
    admin.policy_add(user, policy={"Version": "2012-10-17", "Statement": [statement]})
    admin.policy_set(user, user=user)


if __name__ == "__main__":
    main(sys.argv[1:])
