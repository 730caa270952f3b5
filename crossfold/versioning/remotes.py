"""DVC remotes: addresses, credentials and timeouts."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfold.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A remote's configuration as JSON, for a step that has no .dvc/config: {"url": "s3://bucket", …}
REMOTE = "CROSSFOLD_DVC_REMOTE"

# How long a silent S3 server is waited for, seconds; .dvc/config may say otherwise. botocore tries
# AWS_MAX_ATTEMPTS times, five by default, and s3fs repeats that five times.
_S3_PATIENCE = {"connect_timeout": 5, "read_timeout": 10}
_S3_ATTEMPTS = "2"
# Timeout for Google, seconds: its client has none.
_GDRIVE_PATIENCE = 30
_KEY_FILE = "gdrive_service_account_json_file_path"
_KEY_DATA = "GDRIVE_CREDENTIALS_DATA"
_KEY_FIELDS = ("client_email", "client_id", "private_key", "private_key_id")
# Settings of boto that hold wherever a step runs; its variables that name files do not.
_AWS_SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


@contextmanager
def refused_by_dvc() -> Iterator[None]:
    """Turn DVC's refusals in the block into a UserError."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error


@dataclass(frozen=True)
class Remote:
    """A remote's name, and its options as DVC reads them."""

    name: str
    config: Mapping[str, Any]

    def __str__(self) -> str:
        url = re.sub("//[^/@]*@", "//", self.config["url"])
        return f"the remote {self.name!r} ({url})"


def remote_environment(root: Path, name: str) -> dict[str, str]:
    """Build the environment variables with which a step elsewhere uses a remote.

    They contain as text: the configuration from .dvc/config, the keys that boto finds (in the
    environment, a profile, a shared file), and the key of a service account.

    Raises:
        UserError: no such remote, or the service account's file cannot be read.
    """
    config = remote_config(name, root / ".dvc")
    keys = {}
    if config["url"].startswith("s3:"):
        keys = _environment(*_AWS_SETTINGS) | _s3_keys(config)
    elif config["url"].startswith("gdrive:"):
        keys = _environment(_KEY_DATA)
        if key_file := config.pop(_KEY_FILE, None):
            keys[_KEY_DATA] = _read_key(key_file)
    return keys | {REMOTE: json.dumps(config)}


def _environment(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def remote_folders(environment: Mapping[str, str]) -> list[Path]:
    """List the folders of this machine that a step with these variables reads."""
    url = json.loads(environment[REMOTE])["url"]
    return [] if "://" in url else [Path(url)]


def _s3_keys(config: dict[str, Any]) -> dict[str, str]:
    """Find the keys as boto does; remove options that name a file or a part of it."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session(profile=config.pop("profile", None))
    for option, variable in (("credentialpath", "credentials_file"), ("configpath", "config_file")):
        if option in config:
            session.set_config_variable(variable, config.pop(option))
    try:
        found = session.get_credentials()
        if found is None:
            return {}
        keys = found.get_frozen_credentials()
    except BotoCoreError as error:
        raise UserError(f"the keys of {config['url']}: {error}") from None
    environment = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    return environment | ({"AWS_SESSION_TOKEN": keys.token} if keys.token else {})


def _read_key(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"{_KEY_FILE}: {path} cannot be read: {reason}") from None


def remote_names(root: Path) -> list[str]:
    """List the remotes in a project's .dvc/config and the user's files."""
    from dvc.config import Config

    with refused_by_dvc():
        return sorted(Config(str(root / ".dvc"))["remote"])


def find_remote(name: str, folder: Path | None = None) -> Remote:
    """Find the remote that a step reads from, in the variable REMOTE or else .dvc/config.

    That file is in `folder`, or else in the working directory's .dvc.

    Raises:
        UserError: there is no such remote, or its key is malformed.
    """
    config = remote_config(name, folder)
    if config["url"].startswith("s3:"):
        config = _S3_PATIENCE | config
        os.environ.setdefault("AWS_MAX_ATTEMPTS", _S3_ATTEMPTS)
    remote = Remote(name, config | {"verify": True})
    if config["url"].startswith("gdrive:"):
        os.environ["GDRIVE_NON_INTERACTIVE"] = "true"  # or PyDrive2 opens a browser, and waits
        # At DEBUG its client logs what the key signed, which is as good as the key for an hour.
        logging.getLogger("oauth2client.crypt").setLevel(logging.INFO)
    if config.get("gdrive_use_service_account"):
        _check_service_account(remote)
    return remote


def open_remote(remote: Remote) -> tuple[Any, str]:
    """Open a remote's file system, as DVC does, and name the remote's root in it.

    Nothing is sent before the file system's first use.

    Raises:
        UserError: DVC refuses the configuration.
    """
    from dvc.config import Config
    from dvc.fs import get_cloud_fs

    with refused_by_dvc():
        config = Config(config={"remote": {remote.name: dict(remote.config)}})
        kind, options, root = get_cloud_fs(config, name=remote.name)
    return kind(**options), root


@contextmanager
def patience_with(remote: Remote) -> Iterator[None]:
    """Set a timeout for Google's client, which has no option for it."""
    before = socket.getdefaulttimeout()
    if remote.config["url"].startswith("gdrive:"):
        socket.setdefaulttimeout(_GDRIVE_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def remote_config(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Read a remote's configuration, from REMOTE or else from `folder` (default: .dvc)."""
    from dvc.config import Config

    if text := os.environ.get(REMOTE):
        try:
            given: dict[str, Any] = json.loads(text)
            given["url"].startswith("s3:")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"the environment variable {REMOTE} is not a remote's configuration as JSON, "
                'such as {"url": "s3://bucket"}'
            ) from None
        if given["url"].startswith("gdrive:"):  # no browser can be opened there
            given["gdrive_use_service_account"] = True
        return given
    with refused_by_dvc():
        config = Config(str(folder)) if folder else Config.from_cwd()
        remotes = config["remote"]
    if name.lower() not in remotes:
        known = ", ".join(sorted(remotes)) or "none"
        raise UserError(
            f"params.yaml data.remote: .dvc/config has no remote {name!r}; it has {known}"
        )
    return dict(remotes[name.lower()])


def _check_service_account(remote: Remote) -> None:
    """Refuse a malformed key, before a library quotes it in an error."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if path := remote.config.get(_KEY_FILE):  # of two keys, PyDrive2 takes the file
        place, text = f"{path} ({_KEY_FILE})", _read_key(path)
    elif (data := os.environ.get(_KEY_DATA)) is not None:
        place, text = _KEY_DATA, data
    else:
        return
    try:
        key = json.loads(text)
        complete = key["type"] == "service_account" and all(key[name] for name in _KEY_FIELDS)
        load_pem_private_key(key["private_key"].encode(), password=None)
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        complete = False
    if not complete:
        raise UserError(
            f"{remote}: {place} is not a service account's key: it takes the whole text of the "
            f"JSON file that Google Cloud gives (type, {', '.join(_KEY_FIELDS)})"
        )


def credentials_hint(remote: Remote) -> str:
    """Describe the credentials of a remote in a sentence."""
    if remote.config["url"].startswith("s3:"):
        return (
            "It takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or access_key_id and "
            "secret_access_key in .dvc/config.local. "
        )
    if remote.config["url"].startswith("gdrive:"):
        return (
            "It takes gdrive_use_service_account = true, the key of an account that the folder is "
            f"shared with (its text in {_KEY_DATA}, or its file in {_KEY_FILE} in "
            ".dvc/config.local), and a network that lets Google be reached. "
        )
    return ""
