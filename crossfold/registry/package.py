"""The folder that is registered: a network's file, the code that uses it, and what MLflow asks."""

import base64
import shutil
import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map

import crossfold
from crossfold.data.examples import TEST, Examples
from crossfold.predict.file_hashes import ARTIFACTS, TAG, hash_folder
from crossfold.predict.model import GRAPH_FILE, NETWORK_FILE

from . import training_images

# What the registered code imports, beside MLflow itself.
REQUIREMENTS = (
    "numpy",
    "openvino",
    "pandas",
    "pillow",
    "pillow-heif",
    "pylibjxl",
    "safetensors",
)


# The rooms that an image of a step has not either.
_NOT_PACKAGED = shutil.ignore_patterns("__pycache__", "cli", "infra", "reproduce", "runners")


def save_model(folder: Path, model: Path, exported: Path, table: Examples, about: Model) -> None:
    """Write MLflow's model folder: code, the network as safetensors and as a graph; no pickle.

    Args:
        folder: Where to write; it must not exist.
        model: The network's file, as train_final wrote it.
        exported: Its graph, as train_final wrote it.
        table: Its first test image becomes the input example; the content hashes of its training
            images go with the model, so that it is never judged on one of them.
        about: MLflow's record of the model, to be completed.

    Models from code: https://mlflow.org/docs/latest/ml/model/models-from-code/
    """
    code = Path("registry/pyfunc_model.py")
    with tempfile.TemporaryDirectory() as staging:
        artifacts = Path(staging) / ARTIFACTS
        artifacts.mkdir()
        shutil.copyfile(model, artifacts / NETWORK_FILE)
        shutil.copyfile(exported, artifacts / GRAPH_FILE)
        training_images.write(artifacts / training_images.FILE, table)
        package = Path(staging) / "crossfold"
        shutil.copytree(Path(crossfold.__file__).parent, package, ignore=_NOT_PACKAGED)
        _, (image, *_), _ = next(table.batches(TEST, 1))
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(package / code),
            artifacts={path.name: str(path) for path in artifacts.iterdir()},
            code_paths=[str(package)],
            signature=_signature(),
            input_example=pd.DataFrame({"image": [base64.b64encode(image).decode()]}),
            # The whole of MLflow, for who serves the model; a step's image has a part of it.
            pip_requirements=[f"mlflow=={mlflow.__version__}", *map(_pinned, REQUIREMENTS)],
            mlflow_model=about,
            # For a process that has the folder alone, and no registry to ask.
            metadata={TAG: {f"{ARTIFACTS}/{k}": v for k, v in hash_folder(artifacts).items()}},
        )
    for compiled in folder.rglob("__pycache__"):
        shutil.rmtree(compiled)


def _signature() -> ModelSignature:
    return ModelSignature(
        # MLflow's server parses every form of a request for a string, CSV included, and in Python
        # a column of strings takes bytes as well.
        Schema([ColSpec(DataType.string, "image")]),
        Schema(
            [
                ColSpec(DataType.string, "label", required=False),
                ColSpec(Map(DataType.double), "probabilities"),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
    )


def _pinned(name: str) -> str:
    """Return `name==version`, without a local part such as +cpu that no index has."""
    return f"{name}=={installed_version(name).partition('+')[0]}"
