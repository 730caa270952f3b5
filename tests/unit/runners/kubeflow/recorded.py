"""Workflows and pods of Kubeflow Pipelines 2.17.0 with Argo 4.0.5, reduced to what is read of them.

They have three folds.
"""

import json
from pathlib import Path

from crossfold.infra.cluster.kubectl import Object

FOLDER = Path(__file__).parent / "workflows"


def recorded(name: str) -> tuple[Object, list[Object]]:
    """Read a workflow and its pods."""
    content = json.loads((FOLDER / f"{name}.json").read_text())
    return content["workflow"], content["pods"]
