"""The remote on Google Drive: real DVC, PyDrive2 and Google client against a stand-in for Google.

The stand-in is a local server that gives out tokens and serves a folder as Drive's API does. The
token's address is in each key; the API's is changed in the client's description of it, which is
the one mock.
"""

import base64
import json
import logging
import re
import shutil
import socket
import threading
import traceback
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from googleapiclient import discovery_cache
from pydrive2.fs import GDriveFileSystem

from crossfold.errors import UserError
from crossfold.versioning import dvc, remotes
from crossfold.versioning.remote_files import remote_files

PROJECT = Path(__file__).parents[3]
FOLDER = "your-folder-id"  # as in .dvc/config
KEY_FILE = "gdrive_service_account_json_file_path"
VARIABLE = "GDRIVE_CREDENTIALS_DATA"
TOKEN = "ya29.token"

PRIVATE = rsa.generate_private_key(65537, 2048)
PEM = PRIVATE.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


# Google


class Google(ThreadingHTTPServer):
    """Gives a token for any assertion, and serves a folder to those who have one."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths = {FOLDER: folder}
        for path in folder.rglob("*"):
            self.paths["-".join(path.relative_to(folder).parts)] = path
        self.ids = {path: name for name, path in self.paths.items()}
        self.assertions: list[str] = []
        self.token: tuple[int, Any] = (200, {"access_token": TOKEN, "expires_in": 3600})
        self.shared = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def key(self, **changes: Any) -> dict[str, Any]:
        """A service account's key as Google Cloud gives it."""
        return {
            "type": "service_account",
            "project_id": "some-project",
            "private_key_id": "5ec7e70123456789abcdef0123456789abcdef01",
            "private_key": PEM,
            "client_email": "robot@some-project.iam.gserviceaccount.com",
            "client_id": "123456789012345678901",
            "token_uri": f"{self.url}token",
        } | changes

    def files(self, name: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """What Drive's API answers to a GET of `files`, a list, or of one file in it."""
        if not self.shared:
            return 404, {"error": {"code": 404, "message": f"File not found: {FOLDER}"}}
        if not name:
            return 200, {"items": [self._item(path) for path in self._found(query["q"][0])]}
        path = self.paths[name]
        return 200, path.read_bytes() if query["alt"] == ["media"] else self._item(path)

    def _found(self, query: str) -> list[Path]:
        (pattern,) = re.findall(r"title='([^']*)'", query) or ["*"]
        folders = re.findall(r"'([^']*)' in parents", query)
        return [path for folder in folders for path in self.paths[folder].glob(pattern)]

    def _item(self, path: Path) -> dict[str, Any]:
        kind = "application/vnd.google-apps.folder" if path.is_dir() else "application/octet-stream"
        return {
            "id": self.ids[path],
            "title": path.name,
            "parents": [{"id": self.ids.get(path.parent, "root")}],
            "mimeType": kind,
            "fileSize": str(path.stat().st_size),
        }


class _Handler(BaseHTTPRequestHandler):
    server: Google
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.assertions += parse_qs(body)["assertion"]
        self._answer(*self.server.token)

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, {"error": {"code": 401, "message": "Login Required."}})
        url = urlsplit(self.path)
        name = url.path.removeprefix("/drive/v2/files").removeprefix("/")
        return self._answer(*self.server.files(name, parse_qs(url.query)))

    def _answer(self, status: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Write nothing to standard error."""


# A project whose data are on Drive


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose folder remote has what its pointers describe; to be copied, not changed."""
    root = tmp_path_factory.mktemp("template") / "project"
    (root / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore"):
        shutil.copy(PROJECT / name, root / name)
    for name, content in (("data/cat/1.png", b"a cat"), ("models/small", b"weights")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(content)
    dvc.add(root / "data")
    dvc.add(root / "models")
    dvc.ensure_pushed(root, "sample")
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in the working directory."""
    root = Path(shutil.copytree(template, tmp_path / "project"))
    for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in (VARIABLE, remotes.REMOTE, "GDRIVE_NON_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def google(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    server = Google(project / "dvc-remote")
    api = discovery_cache.get_static_doc("drive", "v2")
    here = api.replace("https://www.googleapis.com/", server.url)
    monkeypatch.setattr(discovery_cache, "get_static_doc", lambda *_: here)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    GDriveFileSystem.clear_instance_cache()  # or a key would be good for a token it never got
    yield server
    server.shutdown()
    server.server_close()


Give = Callable[[str | bytes], None]


@pytest.fixture
def in_variable(monkeypatch: pytest.MonkeyPatch) -> Give:
    return lambda key: monkeypatch.setenv(VARIABLE, key if isinstance(key, str) else key.decode())


@pytest.fixture
def in_file(project: Path) -> Give:
    def give(key: str | bytes) -> None:
        path = project.parent / "key.json"
        path.write_bytes(key.encode() if isinstance(key, str) else key)
        configure(project, **{KEY_FILE: str(path)})

    return give


@pytest.fixture(params=["in_variable", "in_file"])
def give(request: pytest.FixtureRequest) -> Give:
    """Give DVC a key, in one of the two ways."""
    found: Give = request.getfixturevalue(request.param)
    return found


def configure(root: Path, **options: str) -> None:
    lines = ["['remote \"gdrive\"']", *(f"    {name} = {value}" for name, value in options.items())]
    (root / ".dvc" / "config.local").write_text("\n".join(lines) + "\n")


def read_all(root: Path) -> dict[str, bytes]:
    """Read all files of both folders."""
    read: dict[str, bytes] = {}
    for name in dvc.FOLDERS:
        pointer = dvc.parse_pointer((root / f"{name}.dvc").read_text())
        with remote_files(pointer, name, "gdrive") as files:
            read |= {f"{name}/{path}": files.read(path) for path in files.hashes}
    return read


@dataclass(frozen=True)
class Refusal:
    message: str
    shown: str  # everything that a terminal, a traceback or a log has of it

    def hides(self, key: str | bytes) -> bool:
        """Whether no sixteen characters on end of any word of the key are shown."""
        text = key.decode(errors="replace") if isinstance(key, bytes) else key
        words = re.findall(r"[\w+/=@.-]{16,}", text.replace("\\n", " "))
        parts = {word[at : at + 16] for word in words for at in range(len(word) - 15)}
        return not any(part in self.shown for part in parts)


Refuse = Callable[[], Refusal]


@pytest.fixture
def refused(
    project: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Refuse:
    def refuse() -> Refusal:
        with caplog.at_level(logging.DEBUG), pytest.raises(UserError) as caught:
            read_all(project)
        traces = "".join(traceback.format_exception(caught.value))
        return Refusal(str(caught.value), traces + caplog.text + "".join(capfd.readouterr()))

    return refuse


# A key that Google takes


def claims(assertion: str) -> dict[str, Any]:
    """What the account claims, if the key signed it."""
    signed, _, signature = assertion.rpartition(".")
    PRIVATE.public_key().verify(
        _decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    found: dict[str, Any] = json.loads(_decoded(signed.partition(".")[2]))
    return found


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check_read(contents: dict[str, bytes], google: Google) -> None:
    assert contents == {"data/cat/1.png": b"a cat", "models/small": b"weights"}
    for assertion in google.assertions:
        found = claims(assertion)
        assert found["iss"] == google.key()["client_email"]
        assert found["aud"] == f"{google.url}token"
        assert "https://www.googleapis.com/auth/drive" in found["scope"].split()
    assert google.assertions


def test_the_account_of_the_key_reads(project: Path, google: Google, give: Give) -> None:
    give(json.dumps(google.key()))
    check_read(read_all(project), google)


def test_a_container_reads_with_the_key_of_the_file(
    project: Path, google: Google, in_file: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file(json.dumps(google.key()))
    environment = remotes.remote_environment(project, "gdrive")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    (project.parent / "key.json").unlink()
    shutil.rmtree(project / ".dvc")
    check_read(read_all(project), google)


def test_of_two_keys_the_file_is_taken(
    project: Path, google: Google, in_file: Give, in_variable: Give
) -> None:
    in_file(json.dumps(google.key()))
    in_variable("{}")
    check_read(read_all(project), google)


# No key


def test_no_key_is_refused(refused: Refuse) -> None:
    message = refused().message
    assert VARIABLE in message
    assert KEY_FILE in message


def test_a_file_that_is_not_there_is_refused(project: Path, refused: Refuse) -> None:
    configure(project, **{KEY_FILE: "/nowhere/key.json"})
    assert f"{KEY_FILE}: /nowhere/key.json cannot be read: No such file" in refused().message


def test_no_browser_is_opened(
    project: Path, refused: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gdrive_use_service_account PyDrive2 asks a person, and waits for the answer."""

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(webbrowser, "open", opened)
    configure(project, gdrive_use_service_account="false")
    refusal = refused()
    assert "gdrive_use_service_account" in refusal.message
    assert "AssertionError" not in refusal.shown


# What is no key


def without(field: str) -> Callable[[dict[str, Any]], Any]:
    return lambda key: {name: value for name, value in key.items() if name != field}


def replaced(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda key: key | changes


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(list, id="a list"),
        pytest.param(lambda key: key["private_key"], id="the private key alone"),
        pytest.param(replaced(type="authorized_user"), id="a user's"),
        pytest.param(without("client_email"), id="no account"),
        pytest.param(without("client_id"), id="no client"),
        pytest.param(without("private_key_id"), id="no name of the private key"),
        pytest.param(without("private_key"), id="no private key"),
        pytest.param(replaced(private_key=5), id="a number"),
        pytest.param(replaced(private_key=PEM[: len(PEM) // 2]), id="half a private key"),
        pytest.param(replaced(private_key=PEM.replace("\n", " ")), id="no line ends"),
        pytest.param(replaced(private_key=PEM.replace("\n", "\\n")), id="escaped twice"),
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(
    google: Google, give: Give, refused: Refuse, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    text = json.dumps(spoil(google.key()))
    give(text)
    refusal = refused()
    assert "is not a service account's key" in refusal.message
    assert VARIABLE in refusal.message or KEY_FILE in refusal.message
    assert refusal.hides(text)
    assert not google.assertions


def test_text_that_is_cut_is_refused_and_not_shown(
    google: Google, give: Give, refused: Refuse
) -> None:
    text = json.dumps(google.key())[:1500]
    give(text)
    refusal = refused()
    assert "is not a service account's key" in refusal.message
    assert refusal.hides(text)


def test_a_file_that_is_no_text_is_refused_and_not_shown(in_file: Give, refused: Refuse) -> None:
    in_file(b"\x89\xff a word of a secret kind: topsecrettopsecrettopsecret")
    refusal = refused()
    assert "key.json cannot be read: it is no text" in refusal.message
    assert refusal.hides("topsecrettopsecrettopsecret")


# A key that Google refuses, and Google not answering


def check_hidden(refusal: Refusal, google: Google) -> None:
    assert refusal.hides(json.dumps(google.key()))
    for assertion in google.assertions:  # as good as the key for an hour
        assert refusal.hides(assertion.replace(".", " "))


def test_a_refused_key_is_not_shown(google: Google, give: Give, refused: Refuse) -> None:
    reason = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    google.token = (400, reason)
    give(json.dumps(google.key()))
    refusal = refused()
    assert "invalid_grant: Invalid JWT Signature. " in refusal.message
    assert google.assertions
    check_hidden(refusal, google)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [((500, b"no"), "Invalid response 500"), ((200, b"<html>"), "Expecting value")],
)
def test_a_failing_google_is_said(
    google: Google, give: Give, refused: Refuse, answer: tuple[int, bytes], expected: str
) -> None:
    google.token = answer
    give(json.dumps(google.key()))
    refusal = refused()
    assert expected in refusal.message
    check_hidden(refusal, google)


def test_a_folder_that_is_not_shared_is_said(google: Google, give: Give, refused: Refuse) -> None:
    google.shared = False
    give(json.dumps(google.key()))
    refusal = refused()
    assert f"(gdrive://{FOLDER}) cannot be used" in refusal.message
    assert "the key of an account that the folder is shared with" in refusal.message
    check_hidden(refusal, google)


def test_an_unreachable_google_is_said(google: Google, give: Give, refused: Refuse) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    give(json.dumps(google.key(token_uri=f"http://127.0.0.1:{port}/token")))
    refusal = refused()
    assert "Connection refused" in refusal.message
    check_hidden(refusal, google)


def test_a_silent_google_is_not_waited_for(
    google: Google, give: Give, refused: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "_GDRIVE_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        impatient = threading.Timer(20, silent.close)  # so that the test ends whatever happens
        impatient.start()
        port = silent.getsockname()[1]
        give(json.dumps(google.key(token_uri=f"http://127.0.0.1:{port}/token")))
        refusal = refused()
        impatient.cancel()
    assert "timed out" in refusal.message
    check_hidden(refusal, google)
