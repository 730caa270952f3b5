"""Kubeflow Pipelines' API: a pipeline's versions and runs."""

import contextlib
import io
import json
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3.exceptions

from crossfold.errors import UserError
from crossfold.infra.cluster.addresses import KUBEFLOW
from crossfold.infra.cluster.kubectl import Cluster

NAME = "crossfold"  # of the pipeline, and of the experiment
SERVICE_ACCOUNT = "crossfold-steps"


@dataclass(frozen=True)
class Version:
    """A version of the pipeline, and the experiment that its runs belong to, by their ids."""

    pipeline_id: str
    pipeline_version_id: str
    experiment_id: str


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[kfp.Client]:
    """Reach Kubeflow's API for the block.

    Raises:
        UserError: there is none, or it refuses what the block asks for.
    """
    with cluster.forwarded(KUBEFLOW, "ml-pipeline", 8888) as address, warnings.catch_warnings():
        # On its age, which is not ours to mend.
        warnings.filterwarnings("ignore", message="This client only works with Kubeflow Pipeline")
        try:
            # It prints addresses that are gone when the block has ended.
            with contextlib.redirect_stdout(io.StringIO()):
                yield kfp.Client(host=address, namespace=KUBEFLOW)
        except kfp_server_api.ApiException as error:
            raise UserError(f"Kubeflow Pipelines: {_reason(error)}") from None
        except urllib3.exceptions.HTTPError as error:
            raise UserError(f"Kubeflow Pipelines does not answer: {error}") from None


def _reason(error: kfp_server_api.ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def upload(client: kfp.Client, package: Path) -> Version:
    """Upload a compiled pipeline as a new version."""
    try:
        return _upload(client, package)
    except kfp_server_api.ApiException as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        return _upload(client, package)  # another run has just created the pipeline


def _upload(client: kfp.Client, package: Path) -> Version:
    pipeline_id = client.get_pipeline_id(NAME)
    if pipeline_id is None:
        pipeline_id = client.upload_pipeline(str(package), NAME).pipeline_id
        (version,) = client.list_pipeline_versions(pipeline_id).pipeline_versions
    else:
        version = client.upload_pipeline_version(
            str(package), f"{_now()} {secrets.token_hex(4)}", pipeline_id=pipeline_id
        )
    experiment = client.create_experiment(NAME)
    return Version(pipeline_id, version.pipeline_version_id, experiment.experiment_id)


def start(client: kfp.Client, version: Version, parameters: dict[str, Any]) -> str:
    """Start a run and return its id.

    The parameters are passed though they are the version's defaults too: Kubeflow's pages show
    only those of a run.
    """
    name = f"{NAME} {_now()}"
    run = client.run_pipeline(
        version.experiment_id,
        name,
        params=parameters,
        pipeline_id=version.pipeline_id,
        version_id=version.pipeline_version_id,
        service_account=SERVICE_ACCOUNT,
    )
    return str(run.run_id)


def run_of(version: Version, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a Run as Kubeflow's API takes it, without a name."""
    ids = asdict(version)
    return {
        "experiment_id": ids.pop("experiment_id"),
        "pipeline_version_reference": ids,
        "service_account": SERVICE_ACCOUNT,
        "runtime_config": {"parameters": parameters},
    }


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
