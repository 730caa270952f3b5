"""Start a scheduled run with a branch's present data.

This file runs in the cluster, in the image of fetch_data, which has no Kubeflow client and no git
program: `crossfold.runners.kubeflow.schedule` puts it there.
"""

import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import yaml
from dulwich import porcelain
from dulwich.client import HTTPUnauthorized
from dulwich.errors import GitProtocolError, NotGitRepository
from dulwich.object_store import tree_lookup_path
from dulwich.objects import Blob, Commit

from crossfold.errors import UserError
from crossfold.versioning.dvc import FOLDERS, pointer_hash

TIMEOUT = 60  # seconds until Kubeflow must respond
_REFUSED = (OSError, GitProtocolError, HTTPUnauthorized, NotGitRepository, KeyError, ValueError)


def main() -> None:
    """Start a run and print its id; all inputs come from environment variables."""
    repository, branch = os.environ["REPOSITORY"], os.environ["BRANCH"]
    try:
        parameters = pointers(repository, branch)
        run_id = start(os.environ["KUBEFLOW"], json.loads(os.environ["RUN"]), parameters)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"run {run_id}, with these pointers of {branch}:", *parameters.values(), sep="\n")


def pointers(repository: str, branch: str) -> dict[str, str]:
    """Fetch a branch's DVC pointers as parameters of the pipeline.

    Raises:
        UserError: the repository or branch cannot be fetched, or lacks valid pointers.
    """
    login: dict[str, Any] = {
        key: value
        for key in ("username", "password")
        if (value := os.environ.get(f"GIT_{key.upper()}"))
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            clone = porcelain.clone(
                repository,
                folder,
                bare=True,
                depth=1,
                branch=branch,
                errstream=BytesIO(),
                **login,
            )
        except _REFUSED as error:
            raise UserError(f"cannot fetch branch {branch} of {repository}: {error}") from error
        with clone:
            head = clone[clone.head()]
            assert isinstance(head, Commit)
            texts = {}
            for name in FOLDERS:
                try:
                    _, sha = tree_lookup_path(clone.__getitem__, head.tree, f"{name}.dvc".encode())
                except KeyError:
                    raise UserError(f"branch {branch} of {repository} has no {name}.dvc") from None
                blob = clone[sha]
                assert isinstance(blob, Blob)
                texts[name] = blob.data.decode()
    for name, text in texts.items():
        pointer_hash(text, f"{name}.dvc of branch {branch}")
    # In the format of `pipelines.arguments`: different text would change the cache key.
    return {
        f"{name}_pointer": json.dumps(yaml.safe_load(text), sort_keys=True)
        for name, text in texts.items()
    }


def start(kubeflow: str, run: dict[str, Any], pointers: dict[str, str]) -> str:
    """Start a run through Kubeflow's API and return its id.

    `run` is a Run in the API's format, without a name; `pointers` replace its parameters of the
    same names, and the pointers of its weights.

    Raises:
        UserError: Kubeflow does not respond, or rejects the run.
    """
    name = f"crossfold {datetime.now(UTC):%Y-%m-%d %H:%M:%S} (scheduled)"
    parameters = _with_pointers(run["runtime_config"]["parameters"], pointers)
    body = {**run, "display_name": name, "runtime_config": {"parameters": parameters}}
    request = urllib.request.Request(
        f"{kubeflow}/apis/v2beta1/runs",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return str(json.load(answer)["run_id"])
    except urllib.error.HTTPError as error:
        raise UserError(f"Kubeflow Pipelines: {error.code} {error.read().decode()}") from error
    except OSError as error:
        raise UserError(f"Kubeflow Pipelines at {kubeflow}: {error}") from error


def _with_pointers(parameters: dict[str, Any], pointers: dict[str, str]) -> dict[str, Any]:
    """Replace a run's pointers; those of single weights files only if models.dvc has changed.

    The list of the branch's files is in the remote, which this program does not read.
    """
    models = pointers["models_pointer"]
    if models == parameters["models_pointer"]:
        return {**parameters, **pointers}
    parts = [{**part, "weights_pointer": models} for part in parameters["parts"]]
    return {**parameters, **pointers, "weights_pointer": models, "parts": parts}


if __name__ == "__main__":
    main()
