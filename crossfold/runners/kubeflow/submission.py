"""Prepare a run on the cluster: upload the compiled pipeline, push the data."""

import contextlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfold.infra.cluster.kubectl import Cluster
from crossfold.infra.cluster.passwords import dvc_writer
from crossfold.infra.image_tags import registry_name
from crossfold.infra.secret_names import REMOTE_SECRET
from crossfold.runners.base import RunnerName
from crossfold.runners.display import Display
from crossfold.runners.lineage import lineage
from crossfold.runners.pre_run_checks import CheckedModel
from crossfold.settings import Settings
from crossfold.versioning import dvc, remotes
from pipelines.arguments import arguments
from pipelines.compilation import NO_STORAGE, compile_pipeline
from pipelines.storage import estimate_storage

from . import api
from .access import reach, required_secret

if TYPE_CHECKING:
    import kfp


def upload(
    client: "kfp.Client",
    root: Path,
    settings: Settings,
    model: CheckedModel,
    registry: str | None,
    *,
    caching: bool,
    small: bool,
    present_data: bool,
) -> tuple[api.Version, dict[str, Any]]:
    """Compile and upload the pipeline; return its version and the parameters for its runs.

    Only if the runs have the present data is the disk of their pods estimated from its size.
    """
    origin = lineage(root, settings, RunnerName.CLUSTER)
    parameters = arguments(settings, root, origin, model.geometries)
    # Outside the project: two commands that start together would overwrite each other's file.
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        compile_pipeline(
            package,
            parameters,
            image=partial(registry_name, registry=registry),
            caching=caching,
            small=small,
            resources=settings.resources,
            storage=(
                estimate_storage(
                    parameters,
                    model.num_bytes_stored,
                    dvc.known_files(root, "data", settings.data.remote) or (),
                )
                if present_data
                else NO_STORAGE
            ),
        )
        return api.upload(client, package), parameters


def push_data(cluster: Cluster, root: Path, display: Display) -> None:
    """Push the data to the cluster's own object store; users push to other remotes themselves."""
    keys = required_secret(cluster, REMOTE_SECRET)
    config = json.loads(keys[remotes.REMOTE])
    with contextlib.ExitStack() as stack:
        endpoint = reach(cluster, config.get("endpointurl", ""), stack)
        if endpoint is None:
            return
        writer = dvc_writer(cluster) or keys
        key = {
            "access_key_id": writer["AWS_ACCESS_KEY_ID"],
            "secret_access_key": writer["AWS_SECRET_ACCESS_KEY"],
        }
        if num_files := dvc.push(root, {**config, **key, "endpointurl": endpoint}):
            display.say(f"{num_files} files of data and models pushed to the cluster")
