"""The folder that is registered holds no pickle, and one that is put there is not loaded."""

import json
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.models import Model

from crossfold.data.examples import Examples
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, safetensors_file, trained_network
from crossfold.network.openvino_engine import export
from crossfold.predict.model import open_network
from crossfold.registry.package import PackagedFiles, save_model
from tests.unit.references import write_reference

LOAD = """
import sys, mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pandas.DataFrame({"image": [b"junk"]})).to_json())
"""

LOAD_WITH_COVERAGE = """
import base64, io, json, sys, mlflow.pyfunc, pandas
from PIL import Image
model = mlflow.pyfunc.load_model(sys.argv[1])
file = io.BytesIO()
Image.new("RGB", (32, 32), "red").save(file, format="PNG")
frame = pandas.DataFrame({"image": [file.getvalue(), b"junk"]})
asked = model.predict(frame, params={"coverage": 0.5})
assert model.predict(frame).equals(asked[["label", "probabilities", "error"]])
print(asked.to_json(orient="records"))
for wrong in (1.5, "0.9"):
    try:
        model.predict(frame, params={"coverage": wrong})
    except mlflow.exceptions.MlflowException as error:
        assert error.error_code == "INVALID_PARAMETER_VALUE" and "coverage" in str(error)
    else:
        raise AssertionError(wrong)
"""


class Payload:
    """What makes a file, as soon as it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Path:
    """A folder as it is registered; to be copied, not changed."""
    parent = tmp_path_factory.mktemp("saved")
    network = parent / "network"
    trained_network.save_network(
        network,
        backbone.build_network("shufflenet_v2_x0_5", 3, seed=0),
        architecture="shufflenet_v2_x0_5",
        classes=("red", "green", "blue"),
        preprocessing=Preprocessing(32),
        precision="float32",
    )
    export(network, parent / "exported")
    folder = parent / "model"
    write_reference(parent / "sets", ("red", "green", "blue"))
    files = PackagedFiles(network, parent / "exported", parent / "sets")
    save_model(folder, files, Examples(examples), Model())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def load(folder: Path, script: str = LOAD, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Load the folder in a process of its own, as MLflow does, and predict with it."""
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env={**os.environ, **variables},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_model_that_mlflow_loads_takes_a_coverage(folder: Path) -> None:
    done = load(folder, LOAD_WITH_COVERAGE)
    assert done.returncode == 0, done.stderr
    row, broken = json.loads(done.stdout)
    # The p-value of a label is its probability, see `write_reference`.
    wanted = [name for name, share in row["probabilities"].items() if share > 0.5]
    assert row["set"] == wanted
    assert row["decision"] == (wanted[0] if wanted else "unsure")
    assert row["novel"] is None
    assert broken["error"] and broken["decision"] is broken["set"] is None


def test_the_scores_for_sets_are_verified(folder: Path) -> None:
    write_reference(folder / "artifacts/prediction_sets.safetensors", ("blue", "green", "red"))
    done = load(folder)
    assert done.returncode != 0
    assert "prediction_sets.safetensors " in done.stderr and "SHA-256" in done.stderr


def is_pickle(path: Path) -> bool:
    """Tell a pickle of any protocol, or an archive such as torch.save's, by its content."""
    if zipfile.is_zipfile(path):
        return True
    try:
        return len(list(pickletools.genops(path.read_bytes()))) > 1  # "." alone begins CSS too
    except Exception:
        return False


def test_no_file_is_a_pickle_and_none_is_named(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".py", ".html", ".css", ".js", ".json", ".yaml"} | {
        ".safetensors",
        ".txt",
        "",
    }
    assert [path.name for path in files if not path.suffix] == ["MLmodel"]
    assert [path for path in files if is_pickle(path)] == []
    flavors = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]
    assert flavors.keys() == {"python_function"}
    assert "python_model" not in flavors["python_function"], "MLflow's entry for a cloudpickle"
    assert flavors["python_function"]["artifacts"].keys() == {
        "graph.safetensors",
        "network.safetensors",
        "prediction_sets.safetensors",
        "training_images.safetensors",
    }
    assert flavors["python_function"]["model_code_path"].endswith("/pyfunc_model.py")


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """A path at which something is as soon as a payload has run."""
    return tmp_path / "executed"


@pytest.fixture
def payload(proof: Path) -> bytes:
    return pickle.dumps(Payload(proof))


def test_the_payload_is_one(payload: bytes, proof: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(payload)
    assert is_pickle(tmp_path / "file")
    pickle.loads(payload)
    assert proof.exists()


def test_pickles_that_lie_beside_the_network_are_not_loaded(
    folder: Path, payload: bytes, proof: Path
) -> None:
    for name in ("python_model.pkl", "model.pkl", "artifacts/extra.pkl", "code/crossfold/x.pkl"):
        (folder / name).write_bytes(payload)
    done = load(folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["error"]["0"]
    assert not proof.exists()


@pytest.mark.parametrize("archive", [False, True], ids=["pickle", "torch.save"])
def test_a_pickle_in_the_networks_place_is_refused(
    folder: Path, payload: bytes, proof: Path, archive: bool
) -> None:
    network = folder / "artifacts/graph.safetensors"
    network.write_bytes(payload)
    if archive:
        with zipfile.ZipFile(network, "w") as file:
            file.writestr("archive/data.pkl", payload)
            file.writestr("archive/version", "3")
    done = load(folder)
    assert done.returncode != 0
    assert "graph.safetensors " in done.stderr and "SHA-256" in done.stderr
    assert not proof.exists()


def test_a_folder_alone_tells_that_its_graph_was_replaced_by_another(folder: Path) -> None:
    graph = folder / "artifacts/graph.safetensors"
    arrays, about = safetensors_file.read(graph)
    safetensors_file.write(folder / "other", arrays, {**about, "classes": ["blue", "green", "red"]})
    (folder / "other").replace(graph)
    done = load(folder)
    assert done.returncode != 0
    assert f"{folder}: graph.safetensors " in done.stderr and "SHA-256" in done.stderr


def test_a_graph_that_the_engine_cannot_compute_is_not_called_modified(folder: Path) -> None:
    graph = folder / "artifacts/graph.safetensors"
    arrays, about = safetensors_file.read(graph)
    safetensors_file.write(folder / "other", arrays, {**about, "xml": "<net"})
    with pytest.raises(UserError, match=r"openvino [\d.]+.* other\b") as raised:
        open_network(folder / "other")
    assert "SHA-256" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_where_pickles_are_not_allowed_none_is_loaded_though_mlmodel_names_it(
    folder: Path, payload: bytes, proof: Path
) -> None:
    """The variable that the docs advise, since MLmodel may have been altered too."""
    (folder / "python_model.pkl").write_bytes(payload)
    about = yaml.safe_load((folder / "MLmodel").read_text())
    flavor = about["flavors"]["python_function"]
    del flavor["model_code_path"]
    flavor["loader_module"] = "mlflow.pyfunc.model"
    flavor["python_model"] = "python_model.pkl"
    (folder / "MLmodel").write_text(yaml.safe_dump(about))
    refused = load(folder, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    assert "using pickle is disallowed" in refused.stderr
    assert not proof.exists()
    load(folder, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")
    assert proof.exists(), "the test would not have found it"
