"""Package a model for MLflow's registry: network files, code, signature and requirements."""

import base64
import shutil
import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import NamedTuple

import mlflow
import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Map

import crossfold
from crossfold.data.examples import Examples
from crossfold.network import GRAPH_FILE, NETWORK_FILE, SETS_FILE
from crossfold.predict.file_hashes import ARTIFACTS, TAG, hash_folder

from . import training_image_hashes

# Libraries that the packaged code imports, in addition to MLflow.
REQUIREMENTS = (
    "numpy",
    "openvino",
    "pandas",
    "pillow",
    "pillow-heif",
    "pylibjxl",
    "safetensors",
)
# Packages that predictions don't need; the images of the steps leave the same ones out.
_NOT_PACKAGED = shutil.ignore_patterns("__pycache__", "cli", "infra", "reproduce", "runners")


class PackagedFiles(NamedTuple):
    """The files of a model, as train_final wrote them."""

    network: Path
    exported: Path
    sets: Path


def save_model(folder: Path, files: PackagedFiles, table: Examples, about: Model) -> None:
    """Write an MLflow model folder: code, and the model's files as safetensors, no pickle.

    Args:
        folder: The folder to create; it must not exist.
        files: The model's files.
        table: The run's images. The first test image becomes the input example. The content hashes
            of the training images go into the folder, so that the model is never judged on them.
        about: MLflow's record of the model, which is completed.

    Models from code: https://mlflow.org/docs/latest/ml/model/models-from-code/
    """
    with tempfile.TemporaryDirectory() as staging:
        artifacts = Path(staging) / ARTIFACTS
        artifacts.mkdir()
        shutil.copyfile(files.network, artifacts / NETWORK_FILE)
        shutil.copyfile(files.exported, artifacts / GRAPH_FILE)
        shutil.copyfile(files.sets, artifacts / SETS_FILE)
        training_image_hashes.write(artifacts / training_image_hashes.FILE, table)
        package = Path(staging) / "crossfold"
        shutil.copytree(Path(crossfold.__file__).parent, package, ignore=_NOT_PACKAGED)
        ((_, image),) = table.test_files([0])
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(package / "predict/pyfunc_model.py"),
            artifacts={path.name: str(path) for path in artifacts.iterdir()},
            code_paths=[str(package)],
            signature=_signature(),
            input_example=pd.DataFrame({"image": [base64.b64encode(image).decode()]}),
            # Serving takes the full mlflow; a step's image has only a part of it.
            pip_requirements=[f"mlflow=={mlflow.__version__}", *map(_pinned, REQUIREMENTS)],
            mlflow_model=about,
            # Lets a process verify the folder without access to the registry.
            metadata={TAG: {f"{ARTIFACTS}/{k}": v for k, v in hash_folder(artifacts).items()}},
        )
    for compiled in folder.rglob("__pycache__"):
        shutil.rmtree(compiled)


def _signature() -> ModelSignature:
    return ModelSignature(
        # With a string column, MLflow's server can parse every form of request, CSV included. In
        # Python, a string column accepts bytes as well.
        Schema([ColSpec(DataType.string, "image")]),
        Schema(
            [
                ColSpec(DataType.string, "label", required=False),
                ColSpec(Map(DataType.double), "probabilities"),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
        # Without it, predictions have no sets.
        ParamSchema([ParamSpec("coverage", DataType.double, default=None)]),
    )


def _pinned(name: str) -> str:
    """Pin a library as `name==version`, without a local part such as +cpu that no index has."""
    return f"{name}=={installed_version(name).partition('+')[0]}"
