"""Artifacts in S3 that clients get from MLflow and from nowhere else.

MLflow tells clients, and its own pages, to fetch artifacts from S3 with addresses that it has
signed. There is no setting against it, and an object store that only the server can reach leaves
them waiting for minutes. MLflow offers it for stores that can sign; this one can't.
plugins.ini puts it in the place of MLflow's own for s3:// addresses.
"""

from typing import Any

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository


class ServedS3ArtifactRepository(ArtifactRepository):
    """MLflow's artifacts in S3 without the addresses for direct access."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._s3: Any = S3ArtifactRepository(
            artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri
        )

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file."""
        self._s3.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store a folder's files."""
        self._s3.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the entries of a folder."""
        found: list[FileInfo] = self._s3.list_artifacts(path)
        return found

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._s3._download_file(remote_file_path, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete a file, or all of a folder."""
        self._s3.delete_artifacts(artifact_path)
