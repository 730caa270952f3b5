"""A registered model in use: predicted with, served, asked, by the real commands and servers."""

import base64
import contextlib
import csv
import fcntl
import http.client
import io
import json
import os
import pickle
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image
from typer.testing import CliRunner

from crossfold.cli.console import console
from crossfold.cli.main import app
from crossfold.data.examples import TEST, TRAIN, Example, Examples, write_examples
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import Preprocessing
from crossfold.network import backbone, normalization, trained_network
from crossfold.network.openvino_engine import export
from crossfold.predict import file_hashes
from crossfold.registry.package import PackagedFiles, save_model
from crossfold.step.files import hash_file
from tests.unit.networks import IMAGENET
from tests.unit.references import write_reference
from tests.unit.registry.test_signing import write_key

from .projects import SOURCE, Project, alive, wait_until

CLASSES = ("cat", "dog", "owl")
SIZE = 32
JSON = {"Content-Type": "application/json"}


def _write_image(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _network() -> torch.nn.Module:
    """A random network that has seen some images and so tells one from the other."""
    network = backbone.build_network("shufflenet_v2_x0_5", len(CLASSES), seed=0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it sees
    seen = np.random.default_rng(9).integers(0, 255, (64, SIZE, SIZE, 3), np.uint8)
    with torch.inference_mode():
        network.train()(normalization.normalize(torch.from_numpy(seen), IMAGENET))
    return network.eval()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a champion, and with five images and one broken file."""
    root = tmp_path_factory.mktemp("use") / "project"
    (root / "images/more").mkdir(parents=True)
    (root / "runs").mkdir()
    shutil.copy(SOURCE / "params.yaml", root)
    for n in range(5):
        _write_image(root / "images" / ("more" if n > 2 else "") / f"{n}.png", n)
    (root / "images/broken.png").write_bytes(b"no image")
    (root / "good").mkdir()
    for n in range(3):
        shutil.copy(root / f"images/{n}.png", root / "good")

    image = (root / "images/0.png").read_bytes()
    rows = [
        Example(f"{n}.png", image, n % 3, f"{n:064x}", TEST if n else TRAIN, -1 if n else 0)
        for n in range(3)
    ]
    write_examples(root / "examples", rows, classes=CLASSES, data_hash="d")
    project = Project(root)
    _register(project, "crossfold", "", SIZE)
    project.client().set_registered_model_alias("crossfold", "champion", "1")
    return project


def _register(project: Project, name: str, suffix: str, image_size: int) -> None:
    """Register the network for images of a size; `suffix` is that of its files' names."""
    network, exported, model = (
        project.root / f"{file}{suffix}" for file in ("network", "exported", "model")
    )
    trained_network.save_network(
        network,
        _network(),
        architecture="shufflenet_v2_x0_5",
        classes=CLASSES,
        preprocessing=Preprocessing(image_size),
        precision="float32",
    )
    export(network, exported)
    sets = project.root / f"sets{suffix}"
    write_reference(sets, CLASSES)
    files = PackagedFiles(network, exported, sets)
    save_model(model, files, Examples(project.root / "examples"), Model())
    client = project.client()
    client.create_registered_model(name)
    tags = {file_hashes.TAG: json.dumps(file_hashes.hash_folder(model))}
    client.create_model_version(name, model.as_uri(), tags=tags)


@pytest.fixture(scope="module")
def expected(project: Project) -> dict[str, dict[str, float]]:
    """What the network says of each image, by the file's name."""
    paths = sorted(project.root.glob("images/**/[0-9].png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    found = trained_network.Network(project.root / "network").predict(pixels).tolist()
    return {
        path.name: dict(zip(CLASSES, probabilities, strict=True))
        for path, probabilities in zip(paths, found, strict=True)
    }


def _best(probabilities: dict[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


@pytest.mark.slow
def test_a_folder_with_a_broken_image_is_written_whole(
    project: Project, expected: dict[str, dict[str, float]]
) -> None:
    command = ("crossfold", "predict", "images", "--top-k", "3", "--output", "out.csv")
    said = project.call(*command, "--batch-size", "2", status=1)
    assert said == "error: 1 of 6 images cannot be used\n"
    rows = list(csv.DictReader(io.StringIO((project.root / "out.csv").read_text())))
    assert [row["path"] for row in rows] == [
        *(f"images/{n}.png" for n in range(3)),
        "images/broken.png",
        "images/more/3.png",
        "images/more/4.png",
    ]
    for row in rows:
        if row["path"] == "images/broken.png":
            assert row["error"] == "corrupt, or not an image in a known format"
            continue
        wanted = expected[Path(row["path"]).name]
        assert row["label"] == _best(wanted)
        ranks = ("", "_2", "_3")
        found = {row[f"label{n}"]: float(row[f"probability{n}"]) for n in ranks}
        assert found == pytest.approx(wanted, abs=1e-5)
        assert row["error"] == ""
    assert project.unfinished_files() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "no.png", "x*"], "no.png: no such file or folder\n  x*: matches nothing"),
        (["images", "--model", "crossfold@gone"], "crossfold@gone is not in the registry"),
        # The network's last feature map for 32 pixels has one position.
        (["images", "--explain", "maps"], "shufflenet_v2_x0_5 gives no class activation maps"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(
    project: Project, arguments: list[str], message: str
) -> None:
    before = sorted(project.root.iterdir())
    said = project.call("crossfold", "predict", *arguments, status=2)
    assert message in said
    assert said.startswith("error: "), "no row before it"
    assert sorted(project.root.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images", "--format", "parquet"], "--format parquet needs a file"),
        (["images", "--output", "no/out.csv"], "--output no/out.csv: not a file in a folder"),
        (["images", "--output", "out.doc"], "no format has this ending"),
        (["images", "-o", f"{'x' * 252}.csv"], "no file can be made there: File name too long"),
        # Of two mistakes, what is said is the one that takes no network to find.
        (
            ["images", "-o", "/proc/x.csv", "--model", "crossfold@gone"],
            "--output /proc/x.csv: no file can be made there",
        ),
        (["images", "--server", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["images", "--server", "http://127.0.0.1:1", "--model", "a/1"], "--model is for"),
        (["images", "--coverage", "95"], "--coverage 95.0: not between 0 and 1"),
        (["images", "--explain", "good"], "--explain good: the folder is not empty"),
        (["images", "--explain", "params.yaml"], "--explain params.yaml: not a new folder"),
        (["images", "--explain", "no/maps"], "--explain no/maps: not a new folder"),
        (["images", "--server", "http://127.0.0.1:1", "--explain", "x"], "--explain is for"),
    ],
)
def test_a_mistake_in_the_options_is_found_before_a_version_is_looked_up(
    project: Project, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: none of them reaches MLflow or a network."""
    printed = io.StringIO()
    monkeypatch.setattr(console, "file", printed)
    monkeypatch.chdir(project.root)
    before = sorted(project.root.iterdir())
    result = CliRunner().invoke(app, ["predict", *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert printed.getvalue() == "", "no row before it"
    assert sorted(project.root.iterdir()) == before


def test_each_prediction_is_explained_by_a_picture(project: Project) -> None:
    _register(project, "large", "-large", 4 * SIZE)
    command = ("crossfold", "predict", "images", "--model", "large/1", "--explain", "maps")
    project.call(*command, "--output", "explained.csv", status=1)
    rows = list(csv.DictReader(io.StringIO((project.root / "explained.csv").read_text())))
    assert [row["path"] for row in rows if row["error"]] == ["images/broken.png"]
    wanted = [
        f"{number}_{Path(row['path']).stem}_{row['label']}_{float(row['probability']):.4f}.png"
        for number, row in enumerate(rows, start=1)
        if not row["error"]
    ]
    pictures = sorted((project.root / "maps").iterdir())
    assert [path.name for path in pictures] == wanted and len(wanted) == 5
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (2 * 224, 224)
            left, right = (np.asarray(picture.crop((x, 0, x + 224, 224))) for x in (0, 224))
        assert np.abs(left.astype(int) - right).mean() > 20
    assert project.unfinished_files() == []


def _sets_of(probabilities: dict[str, float], coverage: float) -> list[str]:
    """The labels of a set: a p-value is the probability, in steps (see `write_reference`)."""
    return [name for name, share in probabilities.items() if share > 1 - coverage]


def test_a_coverage_gives_sets_and_an_old_version_has_none(
    project: Project, expected: dict[str, dict[str, float]]
) -> None:
    command = ("crossfold", "predict", "good", "--coverage", "0.7", "--format", "jsonl")
    for _ in range(2):  # the second one without MLflow
        rows = [json.loads(line) for line in project.call(*command).splitlines()]
        assert [row["set"] for row in rows] == [
            _sets_of(expected[Path(row["path"]).name], 0.7) for row in rows
        ]
        assert {row["novel"] for row in rows} == {None}
        for row in rows:
            assert row["decision"] == (row["set"][0] if len(row["set"]) == 1 else "unsure")
    client = project.client()
    hashes = file_hashes.registered_hashes(client.get_model_version("crossfold", "1").tags)
    assert hashes
    del hashes["artifacts/prediction_sets.safetensors"]
    client.create_registered_model("old")
    source = (project.root / "model").as_uri()
    client.create_model_version("old", source, tags={file_hashes.TAG: json.dumps(hashes)})
    for _ in range(2):
        said = project.call(*command, "--model", "old/1", status=2)
        assert "old version 1 has no prediction sets" in said and "Traceback" not in said


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@dataclass(frozen=True)
class Answer:
    """A scoring server's answer."""

    status: int
    origin: str | None
    text: str

    @property
    def content(self) -> Any:
        return json.loads(self.text)

    def one_row(self) -> dict[str, Any]:
        assert self.status == HTTPStatus.OK, self.text
        (row,) = self.content["predictions"]
        return dict(row)


def _ask(
    port: str,
    body: bytes | None,
    headers: dict[str, str] = JSON,
    path: str = "/invocations",
    method: str = "POST",
) -> Answer:
    """Ask a scoring server, as any client of MLflow's would."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        origin = answer.headers["X-Crossfold-Model"]
        return Answer(answer.status, origin, answer.read().decode())


def _records(images: list[Any]) -> bytes:
    return json.dumps({"dataframe_records": [{"image": image} for image in images]}).encode()


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _check_answers(
    project: Project, port: str, expected: dict[str, dict[str, float]], status: HTTPStatus
) -> None:
    """Ask for an image as base64, and for one by its path, which must not be opened."""
    path = project.root / "images/0.png"
    answer = _ask(port, _records([_base64(path), str(path), "AAAA"]))
    assert answer.status == status
    right, by_path, wrong = answer.content["predictions"]
    assert right["label"] == _best(expected["0.png"])
    assert right["probabilities"] == pytest.approx(expected["0.png"], abs=1e-5)
    assert right["error"] is None
    assert by_path["label"] is None
    assert "CROSSFOLD_IMAGE_ROOT names no folder" in by_path["error"]
    assert wrong["error"] == "corrupt, or not an image in a known format"


def _in_forms(path: Path) -> dict[str, tuple[bytes, dict[str, str]]]:
    """An image as clients send it: body and headers."""
    text = _base64(path)
    lines = base64.encodebytes(path.read_bytes()).decode()
    url_safe = base64.urlsafe_b64encode(path.read_bytes()).decode()
    assert lines.count("\n") > 1 and url_safe != text
    return {
        "in lines": (_records([lines]), JSON),
        "data: URL": (_records([f"data:image/png;base64,{text}"]), JSON),
        "URL-safe": (_records([url_safe.rstrip("=")]), JSON),
        "inputs, a column": (json.dumps({"inputs": {"image": [text]}}).encode(), JSON),
        "inputs, rows": (json.dumps({"inputs": [{"image": text}]}).encode(), JSON),
        "instances": (json.dumps({"instances": [text]}).encode(), JSON),
        "instances, rows": (json.dumps({"instances": [{"image": text}]}).encode(), JSON),
        "split": (
            json.dumps({"dataframe_split": {"columns": ["image"], "data": [[text]]}}).encode(),
            {"Content-Type": "application/json; charset=utf-8"},
        ),
        "CSV": (f"image\n{text}\n".encode(), {"Content-Type": "text/csv"}),
        "CSV in lines": (f'image\n"{lines}"\n'.encode(), {"Content-Type": "text/csv"}),
    }


def _check_forms(project: Project, port: str, expected: dict[str, dict[str, float]]) -> None:
    for form, (body, headers) in _in_forms(project.root / "images/0.png").items():
        row = _ask(port, body, headers).one_row()
        assert row["probabilities"] == pytest.approx(expected["0.png"], abs=1e-5), form


def _wait_for_line(process: "subprocess.Popen[str]", words: str) -> str:
    """Read what a server says until it says that it is ready."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            return "".join(said)
    raise AssertionError(f"the server has ended:\n{''.join(said)}")


@pytest.fixture(scope="module")
def served(project: Project) -> Iterator[str]:
    """The port at which `crossfold serve` answers; then it is ended as by Ctrl-C."""
    port = _free_port()
    temporary = project.root / "tmp"
    temporary.mkdir()
    with (
        project.exported({"TMPDIR": str(temporary)}),
        project.started("crossfold", "serve", "--port", port) as process,
    ):
        assert "crossfold version 1 " in _wait_for_line(process, f"ready: http://127.0.0.1:{port}/")
        assert [own.pid for own in project.processes()] == [process.pid], "it is one process"
        yield port
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert project.processes() == []
    assert list(temporary.iterdir()) == []


def test_a_served_model_answers_a_real_request(
    project: Project, served: str, expected: dict[str, dict[str, float]]
) -> None:
    _check_answers(project, served, expected, HTTPStatus.UNPROCESSABLE_ENTITY)


def test_a_served_model_takes_a_coverage(
    project: Project, served: str, expected: dict[str, dict[str, float]]
) -> None:
    server = ("--server", f"http://127.0.0.1:{served}", "--format", "jsonl")
    said = project.call("crossfold", "predict", "good", *server, "--coverage", "0.7")
    for row in map(json.loads, said.splitlines()):
        assert row["set"] == _sets_of(expected[Path(row["path"]).name], 0.7)
    refused = _ask(served, b'{"inputs": ["AAAA"], "params": {"coverage": 95}}')
    assert refused.status == HTTPStatus.BAD_REQUEST
    assert "between 0 and 1" in refused.content["message"]


def test_an_image_is_sent_in_any_form(
    project: Project, served: str, expected: dict[str, dict[str, float]]
) -> None:
    _check_forms(project, served, expected)


def test_an_unusable_image_is_named_and_the_others_are_predicted(
    project: Project, served: str, expected: dict[str, dict[str, float]]
) -> None:
    good = _base64(project.root / "images/0.png")
    answer = _ask(served, _records([good, "AAAA", good]))
    assert answer.status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert answer.content["message"].startswith("1 of 3 images cannot be used: predictions[1]: ")
    labels = [row["label"] for row in answer.content["predictions"]]
    assert labels == [_best(expected["0.png"]), None, _best(expected["0.png"])]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"{}", {"Content-Type": "image/png"}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"no JSON", JSON, HTTPStatus.BAD_REQUEST),
        (b"[" * 100_000, JSON, HTTPStatus.BAD_REQUEST),
        (b'{"inputs": {"pixels": ["AAAA"]}}', JSON, HTTPStatus.BAD_REQUEST),
        (b"no column\n", {"Content-Type": "text/csv"}, HTTPStatus.BAD_REQUEST),
        (_records(["x.png"]), JSON, HTTPStatus.UNPROCESSABLE_ENTITY),
        (_records([7]), JSON, HTTPStatus.UNPROCESSABLE_ENTITY),
        (b"", {**JSON, "Content-Length": str(2**40)}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    ],
)
def test_a_refused_request_is_one_line_with_its_status(
    served: str, body: bytes, headers: dict[str, str], status: HTTPStatus
) -> None:
    answer = _ask(served, body, headers)
    assert answer.status == status
    assert set(answer.content) - {"predictions"} == {"error_code", "message", "model", "version"}
    assert "\n" not in answer.content["message"]
    assert not re.search(r"Traceback|\.py|/tmp|/home|/usr", answer.text)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ping", HTTPStatus.OK),
        ("GET", "/health", HTTPStatus.OK),
        ("GET", "/version", HTTPStatus.OK),
        ("GET", "/invocations", HTTPStatus.METHOD_NOT_ALLOWED),
        ("POST", "/elsewhere", HTTPStatus.NOT_FOUND),
        ("POST", "/invocations", HTTPStatus.BAD_REQUEST),
    ],
)
def test_every_answer_names_model_and_version(
    served: str, method: str, path: str, status: HTTPStatus
) -> None:
    answer = _ask(served, b"{}", JSON, path, method)
    assert (answer.status, answer.origin) == (status, "crossfold/1")
    if status != HTTPStatus.OK:
        assert (answer.content["model"], answer.content["version"]) == ("crossfold", "1")


def test_clients_that_ask_at_once_each_get_their_own_answer(
    project: Project, served: str, expected: dict[str, dict[str, float]]
) -> None:
    names = sorted(expected) * 20

    def ask(name: str) -> dict[str, float]:
        (path,) = project.root.glob(f"images/**/{name}")
        answer = _ask(served, _records([_base64(path)]))
        assert (answer.content["model"], answer.content["version"]) == ("crossfold", "1")
        probabilities: dict[str, float] = answer.one_row()["probabilities"]
        return probabilities

    with ThreadPoolExecutor(4) as clients:
        for name, answer in zip(names, clients.map(ask, names), strict=True):
            assert answer == pytest.approx(expected[name], abs=1e-5)


def test_a_served_model_is_asked_by_the_command(
    project: Project, served: str, expected: dict[str, dict[str, float]]
) -> None:
    server = f"http://127.0.0.1:{served}"
    said = project.call("crossfold", "predict", "--server", server, "good", "images", status=1)
    rows = [line.split("\t") for line in said.splitlines()]
    assert [row[:2] for row in rows[:3]] == [
        [f"good/{n}.png", _best(expected[f"{n}.png"])] for n in range(3)
    ]
    assert float(rows[0][2]) == pytest.approx(max(expected["0.png"].values()), abs=1e-4)
    assert ["images/broken.png", "corrupt, or not an image in a known format"] in rows
    assert rows[-1] == ["error: 1 of 9 images cannot be used"]


def test_a_glob_into_a_pipe_that_is_closed_early(project: Project, served: str) -> None:
    server = f"--server http://127.0.0.1:{served}"
    command = f"crossfold predict 'images/**/[0-9].png' {server} --format json | head -n 1"
    (row,) = project.call("bash", "-c", command).splitlines()
    assert json.loads(row)["path"] == "images/0.png"


def test_a_terminal_shows_a_table_and_a_bar(project: Project, served: str) -> None:
    """The bar stands below the rows and is gone at the end."""
    terminal, other_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with project.started(
        *("crossfold", "predict", "images", "--server", f"http://127.0.0.1:{served}"),
        stdout=other_end,
        stderr=other_end,
        stdin=subprocess.DEVNULL,
    ) as process:
        os.close(other_end)
        shown = _read_all(terminal)
        assert process.wait() == 1
    assert "6/6" in shown
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).strip())
    assert any(re.fullmatch(r"image +class +probability +model *", line) for line in lines)
    assert any(
        re.fullmatch(r"images/more/4.png  (cat|dog|owl)    0\.\d{4} +crossfold/1 *", n)
        for n in lines
    )
    assert "corrupt, or not an image in a known format" in shown
    assert lines[-1] == "error: 1 of 6 images cannot be used"


def _read_all(terminal: int) -> str:
    content = b""
    with contextlib.suppress(OSError):  # its other end is closed
        while part := os.read(terminal, 65536):
            content += part
    os.close(terminal)
    return content.decode()


@pytest.mark.slow
def test_an_interrupted_prediction_leaves_no_file(project: Project, served: str) -> None:
    many = project.root / "many"
    many.mkdir()
    for n in range(20_000):
        (many / f"{n:05}.png").symlink_to(project.root / "images/0.png")
    output = project.root / "many.parquet"
    options = ("--server", f"http://127.0.0.1:{served}", "--output", output.name)
    with project.started("crossfold", "predict", "many", *options) as process:
        wait_until(lambda: output.with_name("many.parquet.part").exists())
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    shutil.rmtree(many)
    assert process.returncode == 128 + signal.SIGINT
    assert "interrupted; many.parquet is not written" in said
    assert not output.exists()
    assert project.unfinished_files() == []


def test_a_server_of_something_else_is_said(project: Project, served: str) -> None:
    server = f"http://127.0.0.1:{served}/elsewhere"
    said = project.call("crossfold", "predict", "--server", server, "good", status=2)
    assert server in said and "404" in said and "Traceback" not in said


class _FadingServer(BaseHTTPRequestHandler):
    """Predicts an image, refuses one, and then takes no more requests."""

    answers: Iterator[int]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if status := next(self.answers, None):
            self.send_response(status)
            self.end_headers()
            row = {"label": "cat", "probabilities": {"cat": 1.0}, "error": None}
            self.wfile.write(json.dumps({"predictions": [row]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("images", "said"),
    [(2, "1 of 2 images cannot be used"), (3, "Remote end closed")],
)
def test_a_server_that_fails_on_the_way(project: Project, images: int, said: str) -> None:
    _FadingServer.answers = iter((200, 500))
    files = [f"good/{n}.png" for n in range(images)]
    with ThreadingHTTPServer(("127.0.0.1", 0), _FadingServer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = ("--server", f"http://127.0.0.1:{server.server_port}")
        output = project.call("crossfold", "predict", *files, *address, "-o", "f.tsv", status=1)
        server.shutdown()
    assert output.startswith("error: ")
    assert said in output
    assert ("f.tsv is not written" in output) == (images == 3)
    assert project.unfinished_files() == []
    if images == 2:
        rows = (project.root / "f.tsv").read_text().splitlines()
        (project.root / "f.tsv").unlink()
        assert rows[1] == "good/1.png\tthe server answers 500 Internal Server Error"
    assert not (project.root / "f.tsv").exists()


def test_a_port_that_is_taken_is_said(project: Project, served: str) -> None:
    said = project.call("crossfold", "serve", "--port", served, status=2)
    assert f"port {served} is in use" in said


@pytest.mark.slow
def test_a_version_with_a_pickle_in_it_is_not_served(project: Project, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    swapped = Path(shutil.copytree(project.root / "model", tmp_path / "model"))
    payload = pickle.dumps(_Payload(proof))
    (swapped / "python_model.pkl").write_bytes(payload)
    (swapped / "artifacts/graph.safetensors").write_bytes(payload)
    client = project.client()
    tags = {file_hashes.TAG: json.dumps(file_hashes.hash_folder(project.root / "model"))}
    version = client.create_model_version("crossfold", swapped.as_uri(), tags=tags).version
    model = ("--model", f"crossfold/{version}")
    said = project.call("crossfold", "serve", "--port", _free_port(), *model, status=2)
    assert "graph.safetensors is damaged or has been modified" in said
    assert "Traceback" not in said
    client.delete_model_version("crossfold", version)
    assert not proof.exists()


def _register_folder(project: Project, name: str, folder: Path) -> None:
    """Register a folder as another version of a model, with the hashes of its files."""
    client = project.client()
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name)
    tags = {file_hashes.TAG: json.dumps(file_hashes.hash_folder(folder))}
    client.create_model_version(name, folder.as_uri(), tags=tags)


def _assert_used(project: Project, expected: dict[str, dict[str, float]], model: str) -> None:
    """Predict with a version and serve it."""
    port, use = _free_port(), ("--model", model)
    label = _best(expected["0.png"])
    assert f"\t{label}\t" in project.call("crossfold", "predict", "images/0.png", *use)
    with project.started("crossfold", "serve", "--port", port, *use) as process:
        _wait_for_line(process, "ready: ")
        row = _ask(port, _records([_base64(project.root / "images/0.png")])).one_row()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert row["label"] == label


def test_no_code_of_a_version_is_executed(
    project: Project, expected: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    proof, model = tmp_path / "executed", shutil.copytree(project.root / "model", tmp_path / "m")
    for code in model.rglob("*.py"):
        code.write_text(f"open({str(proof)!r}, 'w')\n")
    _register_folder(project, "code", model)
    _assert_used(project, expected, "code/1")
    assert not proof.exists()


@pytest.mark.slow
def test_mlflow_3_18_opens_the_store_and_may_refuse_to_execute_code(
    project: Project, expected: dict[str, dict[str, float]], next_mlflow: Path, tmp_path: Path
) -> None:
    """With a variable that MLflow knows since 3.18, which forbids it to load any pyfunc."""
    copy = Project(Path(shutil.copytree(project.root, tmp_path / "project")))
    variables = {"PYTHONPATH": str(next_mlflow), "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false"}
    load = (sys.executable, "-c", "import mlflow; mlflow.pyfunc.load_model('model')")
    with copy.exported(variables):
        _assert_used(copy, expected, "crossfold/1")
        assert "'MLFLOW_ALLOW_MODEL_CODE_EXECUTION' to 'true'" in copy.call(*load, status=1)
    # MLflow 3.18 has added its tables.
    assert "made by a newer version" in copy.call("crossfold", "models", status=2)


@pytest.mark.slow
def test_only_signed_versions_are_used_if_the_settings_ask_for_it(
    project: Project, tmp_path: Path
) -> None:
    strict = Project(Path(shutil.copytree(project.root, tmp_path / "project")))
    own, other = write_key(strict.root / "own.pem"), write_key(strict.root / "other.pem")
    settings = (strict.root / "params.yaml").read_text()
    settings = settings.replace("signature_key: null", "signature_key: own.pub")
    (strict.root / "params.yaml").write_text(settings)
    for folder in ("first", "second"):
        copied = Path(shutil.copytree(project.root / "model", tmp_path / folder))
        _register_folder(strict, "signed", copied)
    predict = ("crossfold", "predict", "images/0.png", "--model")
    assert "signed version 1 is not signed" in strict.call(*predict, "signed/1", status=2)
    assert "is not signed" in strict.call("crossfold", "verify", "signed/1", status=1)
    strict.call("crossfold", "sign", "signed/1", "--key", own.name)
    assert hash_file(own.with_suffix(".pub")) in strict.call("crossfold", "verify", "signed/1")
    assert "signed/1" in strict.call(*predict, "signed/1") == strict.call(*predict, "signed/1")
    public = other.with_suffix(".pub").name
    said = strict.call("crossfold", "verify", "signed/1", "--key", public, status=1)
    assert "signed version 1 is not signed with the key" in said
    for command in (("serve", "--port", _free_port(), "--model"), ("promote", "--yes")):
        said = strict.call("crossfold", *command, "signed/2", status=2)
        assert "signed version 2 is not signed" in said and "Traceback" not in said
    (tmp_path / "first/MLmodel").write_text("other")
    assert "MLmodel" in strict.call(*predict, "signed/1", status=2)
    assert "MLmodel" in strict.call("crossfold", "verify", "signed/1", status=1)


class _Payload:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def as_mlflow_knows_it(project: Project) -> Iterator[str]:
    """The champion's address, with MLflow's own commands told where the registry is."""
    store = f"sqlite:///{project.root / 'runs/mlflow.db'}"
    with project.exported({"MLFLOW_TRACKING_URI": store}):
        yield "models:/crossfold@champion"


@pytest.mark.slow
def test_mlflow_models_serve_answers_a_real_request(
    project: Project, as_mlflow_knows_it: str, expected: dict[str, dict[str, float]]
) -> None:
    port = _free_port()
    options = ("--env-manager", "local", "--host", "127.0.0.1", "--port", port)
    with project.started("mlflow", "models", "serve", "-m", as_mlflow_knows_it, *options) as server:
        _wait_for_line(server, "Uvicorn running")
        _check_answers(project, port, expected, HTTPStatus.OK)
        _check_forms(project, port, expected)
        (uvicorn,) = psutil.Process(server.pid).children()
    with contextlib.suppress(psutil.NoSuchProcess):
        wait_until(lambda: not alive([uvicorn]))


@pytest.mark.slow
def test_mlflow_models_predict_scores_a_file_of_paths(
    project: Project, as_mlflow_knows_it: str, expected: dict[str, dict[str, float]]
) -> None:
    """A batch without a server; paths are allowed below the folder that is named."""
    pd.DataFrame({"image": ["0.png", "1.png", "../network"]}).to_csv(project.root / "batch.csv")
    files = ("--input-path", "batch.csv", "--output-path", "batch.json", "--content-type", "csv")
    store = f"sqlite:///{project.root / 'runs/mlflow.db'}"
    variables = {"MLFLOW_TRACKING_URI": store, "CROSSFOLD_IMAGE_ROOT": "images"}
    with project.exported(variables):
        model = ("-m", as_mlflow_knows_it, "--env-manager", "local")
        project.call("mlflow", "models", "predict", *model, *files)
    rows = json.loads((project.root / "batch.json").read_text())["predictions"]
    assert [row["label"] for row in rows[:2]] == [_best(expected[f"{n}.png"]) for n in range(2)]
    assert "neither a file below CROSSFOLD_IMAGE_ROOT" in rows[2]["error"]
