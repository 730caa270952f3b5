"""The object stores that services and cluster can run: one S3 API, users and buckets."""

from enum import StrEnum

VERSITYGW_FILE = "compose.versitygw.yaml"


class ObjectStore(StrEnum):
    """The object store of the services (docs/object-store.md)."""

    MINIO = "minio"
    VERSITYGW = "versitygw"


def compose_files(present: str, store: ObjectStore) -> str:
    """Build Compose's variable COMPOSE_FILE for a store from its present value."""
    first, *others = present.split(":")
    kept = [file for file in others if file != VERSITYGW_FILE]
    return ":".join([first, *([VERSITYGW_FILE] if store is ObjectStore.VERSITYGW else []), *kept])
