"""Building the images; tests/docker/test_images.py has what needs a Docker engine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra import image_build, image_tags
from crossfold.infra.image_build import build_images, choose_arguments
from crossfold.infra.image_tags import BuildArguments, Torch, record_build_arguments

OTHER_BASE = "python:3.12-slim-bookworm"


class Index(BaseHTTPRequestHandler):
    """A package index that answers a HEAD request with the status that its path says."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def index() -> Iterator[str]:
    """The address of an index on this machine, to which a status is to be added."""
    with HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no image was built."""
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(image_tags, "ROOT", tmp_path)
    return tmp_path


def test_the_cpu_only_torch_is_taken_where_its_index_answers(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_build, "CPU_INDEX", f"{index}200")
    said: list[str] = []
    assert choose_arguments(None, None, said.append) == BuildArguments(torch=Torch.CPU)
    assert said == []


def test_else_the_package_indexs_torch_is_taken_and_it_is_said(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_build, "CPU_INDEX", f"{index}403")
    said: list[str] = []
    assert choose_arguments(None, None, said.append) == BuildArguments(torch=Torch.DEFAULT)
    (line,) = said
    assert "Forbidden" in line
    assert "--torch cpu" in line


@pytest.mark.parametrize("torch", Torch)
def test_what_is_given_is_taken_without_a_question(
    torch: Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_build, "CPU_INDEX", "http://127.0.0.1:0/")
    record_build_arguments(BuildArguments(torch=Torch.CPU))
    said: list[str] = []
    assert choose_arguments(torch, OTHER_BASE, said.append) == BuildArguments(OTHER_BASE, torch)
    assert said == []


def test_what_is_not_given_is_as_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_build, "CPU_INDEX", "http://127.0.0.1:0/")
    record_build_arguments(BuildArguments(OTHER_BASE, Torch.CPU))
    said: list[str] = []
    assert choose_arguments(None, None, said.append) == BuildArguments(OTHER_BASE, Torch.CPU)
    assert choose_arguments(Torch.DEFAULT, None, said.append).python_image == OTHER_BASE
    assert choose_arguments(None, "python:3.13-slim", said.append).torch is Torch.CPU
    assert said == []


def test_without_docker_it_is_said_how_to_get_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(UserError, match="install Docker"):
        build_images(Torch.CPU, None, print)
