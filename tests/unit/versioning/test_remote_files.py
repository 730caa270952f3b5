"""Reading from a folder, and from a server that can fail; test_gdrive.py has Google's."""

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.imaging.decoding import BadImage
from crossfold.versioning import remotes
from crossfold.versioning.dvc import Pointer, object_key
from crossfold.versioning.remote_files import RemoteError, remote_files

FILES = {f"cat/{number}.png": f"image {number}".encode() for number in range(20)}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def place(remote: Path, path: str) -> Path:
    return remote / object_key(md5(FILES[path]))


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder remote with the files, in DVC's layout."""
    files = [{"md5": md5(content), "relpath": path} for path, content in FILES.items()]
    listed = json.dumps(files).encode()
    objects = {md5(content): content for content in FILES.values()} | {f"{md5(listed)}.dir": listed}
    for name, content in objects.items():
        path = tmp_path / object_key(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setenv(remotes.REMOTE, json.dumps({"url": str(tmp_path)}))
    return tmp_path


@pytest.fixture
def pointer(remote: Path) -> Pointer:
    (path,) = remote.rglob("*.dir")
    return Pointer(path.parent.name + path.name, "data", 200, len(FILES))


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        if self.path in self.server.forbidden:
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *arguments: object) -> None:
        """Write nothing to standard error."""


class _Server(http.server.ThreadingHTTPServer):
    forbidden: tuple[str, ...] = ()


@pytest.fixture
def server(remote: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """A server of the folder, which the remote's address names."""
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(remote))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv(remotes.REMOTE, json.dumps({"url": url}))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()


def read_all(pointer: Pointer) -> dict[str, bytes]:
    with remote_files(pointer, "data", "any") as files, ThreadPoolExecutor(4) as threads:
        return dict(zip(files.hashes, threads.map(files.read, files.hashes), strict=True))


def test_files_are_read_in_threads(pointer: Pointer) -> None:
    assert read_all(pointer) == FILES


def test_files_are_read_from_a_server(pointer: Pointer, server: _Server) -> None:
    assert read_all(pointer) == FILES


def test_all_missing_and_damaged_files_are_named_at_once(remote: Path, pointer: Pointer) -> None:
    place(remote, "cat/3.png").unlink()
    place(remote, "cat/7.png").write_bytes(b"image")
    with remote_files(pointer, "data", "any") as files:
        for path in FILES:
            if path in ("cat/3.png", "cat/7.png"):
                with pytest.raises(OSError, match="in the remote"):
                    files.read(path)
            else:
                files.read(path)
        with pytest.raises(UserError) as caught:
            files.require_whole()
    message = str(caught.value)
    assert "data/cat/3.png is missing" in message and "data/cat/7.png is truncated" in message
    assert message.count("cat/") == 2
    assert object_key(pointer.md5) in message


def test_a_server_that_fails_for_a_while_is_no_fault_of_the_file(
    pointer: Pointer, server: _Server
) -> None:
    server.forbidden = ("/" + object_key(md5(FILES["cat/5.png"])),)
    with remote_files(pointer, "data", "any") as files:
        assert files.read("cat/4.png") == FILES["cat/4.png"]
        with pytest.raises(RemoteError, match=r"'any' .*data/cat/5\.png.*403") as caught:
            files.read("cat/5.png")
        files.require_whole()
    assert not isinstance(caught.value, OSError)  # else the image would count as unusable


@pytest.mark.parametrize("num_bytes", [0, 2**41])
def test_a_file_that_is_too_large_is_not_read(
    remote: Path, pointer: Pointer, num_bytes: int
) -> None:
    os.truncate(place(remote, "cat/0.png"), 2**40)  # it takes no space
    version = Pointer(pointer.md5, "data", num_bytes)
    with remote_files(version, "data", "any") as files:
        with pytest.raises(BadImage, match="too large: 1099511627776 bytes"):
            files.read("cat/0.png")
        with pytest.raises(BadImage, match="too large: 7 bytes, at most 6"):
            files.read("cat/1.png", at_most=6)
        files.require_whole()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        '["a.png"]',
        '[{"md5": "MD5"}]',
        '[{"md5": "../../../keys", "relpath": "a.png"}]',
        '[{"md5": 1, "relpath": "a.png"}]',
        '[{"md5": "MD5", "relpath": 1}]',
        '[{"md5": "MD5", "relpath": "/a.png"}]',
        '[{"md5": "MD5", "relpath": "cat/../../a.png"}]',
        '[{"md5": "MD5", "relpath": "cat/./a.png"}]',
    ],
)
def test_a_list_that_is_none_is_refused_even_if_its_hash_is_right(
    remote: Path, content: str
) -> None:
    data = content.replace("MD5", md5(b"")).encode()
    name = f"{md5(data)}.dir"
    path = remote / object_key(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with (
        pytest.raises(UserError, match=r"data\.dvc's list of files is truncated or modified"),
        remote_files(Pointer(name, "data"), "data", "any"),
    ):
        pass
