"""Upload pipeline versions and start runs through Kubeflow Pipelines' API."""

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

NAME = "crossfold"  # the pipeline's and the experiment's
SERVICE_ACCOUNT = "crossfold-steps"


@dataclass(frozen=True)
class Version:
    """Ids of a pipeline version and of the experiment that its runs belong to."""

    pipeline_id: str
    pipeline_version_id: str
    experiment_id: str


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[kfp.Client]:
    """Connect to Kubeflow's API for the block.

    Raises:
        UserError: the API cannot be reached, or rejects a request of the block.
    """
    with cluster.forwarded(KUBEFLOW, "ml-pipeline", 8888) as address, warnings.catch_warnings():
        # A warning about the client's age, which users cannot change.
        warnings.filterwarnings("ignore", message="This client only works with Kubeflow Pipeline")
        try:
            # The client prints addresses that stop working when the block ends.
            with contextlib.redirect_stdout(io.StringIO()):
                yield kfp.Client(host=address, namespace=KUBEFLOW)
        except kfp_server_api.ApiException as error:
            raise UserError(f"Kubeflow Pipelines: {_reason(error)}") from None
        except urllib3.exceptions.HTTPError as error:
            raise UserError(f"Kubeflow Pipelines does not respond: {error}") from None


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

    The request repeats parameters that equal the version's defaults: Kubeflow's pages show only the
    run's own.
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
    """Build a Run in the format of Kubeflow's API, without a name."""
    ids = asdict(version)
    return {
        "experiment_id": ids.pop("experiment_id"),
        "pipeline_version_reference": ids,
        "service_account": SERVICE_ACCOUNT,
        "runtime_config": {"parameters": parameters},
    }


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
