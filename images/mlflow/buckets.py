"""Creates the buckets named on the command line, where they are not there yet."""

import os
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

TIMEOUT = 60  # seconds for the object store to answer


def main(names: list[str]) -> None:
    """Wait for the object store at MLFLOW_S3_ENDPOINT_URL, then create what it lacks."""
    endpoint = os.environ["MLFLOW_S3_ENDPOINT_URL"]
    quick = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1})
    s3 = boto3.client("s3", endpoint_url=endpoint, config=quick)
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
            break
        except ClientError as error:
            sys.exit(f"error: {endpoint} refuses the key: {error}")
        except BotoCoreError as error:
            if time.monotonic() > deadline:
                sys.exit(f"error: no answer from {endpoint} for {TIMEOUT} s: {error}")
            time.sleep(0.5)
    for name in names:
        if name not in present:
            s3.create_bucket(Bucket=name)
            print(f"created the bucket {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
