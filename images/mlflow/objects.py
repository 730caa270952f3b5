"""Copies a bucket's objects to a tar archive on standard output, or from one on standard input.

`objects.py save BUCKET` and `objects.py load BUCKET`. Objects pass through in parts, so the memory
does not depend on their sizes or their number. Loading overwrites objects and deletes none.
"""

import os
import sys
import tarfile
from contextlib import closing
from typing import BinaryIO
from urllib.parse import urlsplit

from minio import Minio
from minio.credentials import EnvAWSProvider
from minio.error import S3Error
from urllib3.exceptions import HTTPError


def main(action: str, bucket: str) -> None:
    """Copy the bucket of the object store at MLFLOW_S3_ENDPOINT_URL."""
    address = urlsplit(os.environ["MLFLOW_S3_ENDPOINT_URL"])
    secure = address.scheme == "https"
    s3 = Minio(address.netloc, credentials=EnvAWSProvider(), secure=secure, region="us-east-1")
    try:
        if action == "save":
            save(s3, bucket, sys.stdout.buffer)
        else:
            load(s3, bucket, sys.stdin.buffer)
    except (S3Error, HTTPError, tarfile.TarError, OSError) as error:
        sys.exit(f"error: bucket {bucket}: {error}")


def save(s3: Minio, bucket: str, target: BinaryIO) -> None:
    """Write every object to a tar archive."""
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for listed in s3.list_objects(bucket, recursive=True):
            with closing(s3.get_object(bucket, listed.object_name)) as content:
                member = tarfile.TarInfo(listed.object_name)
                member.size = int(content.headers["Content-Length"])
                archive.addfile(member, content)
            archive.members.clear()  # tarfile would remember every object


def load(s3: Minio, bucket: str, source: BinaryIO) -> None:
    """Put every member of a tar archive into the bucket."""
    with tarfile.open(fileobj=source, mode="r|") as archive:
        while (member := archive.next()) is not None:
            s3.put_object(bucket, member.name, archive.extractfile(member), member.size)
            archive.members.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
