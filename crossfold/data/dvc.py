"""Pull data versions through DVC, compare them with the folders, push them to a folder.

A pointer is the file `data.dvc` or `models.dvc`, which DVC writes: the hash of a folder's content.
The pointer to one file of a folder, which DVC would write for that file alone, is made here.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from crossfold.errors import UserError

from .remotes import (
    REMOTE,
    Remote,
    credentials_hint,
    find_remote,
    patience_with,
    refused_by_dvc,
    remote_config,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FOLDERS = ("data", "models")
_logger = logging.getLogger(__name__)
_MAX_LISTED = 50
_LIST = ".dir"  # the end of the hash of a folder, whose object lists the folder's files


def listed(lines: list[str]) -> str:
    """Format the first lines, indented, and the number of the others."""
    shown = [f"  {line}" for line in lines[:_MAX_LISTED]]
    if len(lines) > _MAX_LISTED:
        shown.append(f"  ... and {len(lines) - _MAX_LISTED} more")
    return "\n".join(shown)


def read_pointer(root: Path, name: str) -> str:
    """Read the text of the pointer `data.dvc` or `models.dvc`.

    Raises:
        UserError: it is missing, or is no pointer of DVC 3 to one folder.
    """
    try:
        text = (root / f"{name}.dvc").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{name}.dvc is missing: put files under {name}/ and `dvc add {name}`"
        ) from None
    except UnicodeDecodeError:
        text = ""  # refused below
    pointer_hash(text, f"{name}.dvc")
    return text


def file_pointer(path: str, md5: str) -> str:
    """Write the pointer to one file of a folder, by its path below the folder."""
    return json.dumps({"outs": [{"hash": "md5", "md5": md5, "path": path}]})


def pointer_hash(text: str, name: str = "the pointer", *, of_file: bool = False) -> str:
    """Read the MD5 of a folder from its pointer's text, with the suffix `.dir`.

    With `of_file`, the pointer may also be one from `file_pointer`, whose MD5 has no suffix.

    Raises:
        UserError: the text is no pointer of DVC 3 to one folder; `name` says which.
    """
    try:
        (out,) = yaml.safe_load(text)["outs"]
        found = out["md5"] if out["hash"] == "md5" else None
    except (yaml.YAMLError, TypeError, KeyError, ValueError):
        found = None
    suffix = r"(\.dir)?" if of_file else r"\.dir"
    if not isinstance(found, str) or not re.fullmatch(f"[0-9a-f]{{32}}{suffix}", found):
        raise UserError(
            f"{name} is not a DVC 3 pointer to one folder: "
            "put the files in a folder and `dvc add` that folder again"
        )
    return found


def changed_since_add(root: Path) -> list[str]:
    """List the folders among `data` and `models` that differ from their pointers."""
    with _dvc_log(), _project(root) as repo:
        folders = [str(root / name) for name in FOLDERS if (root / name).exists()]
        return [
            Path(out.fspath).name
            for folder in folders
            for out in repo.find_outs_by_path(folder)
            if out.changed_checksum()
        ]


def folder_hash(folder: Path) -> str:
    """Compute the hash that `dvc add` would record for a folder that has a pointer."""
    with _dvc_log(), _project(folder.parent) as repo:
        (out,) = repo.find_outs_by_path(str(folder))
        return str(out.get_hash().value)


def ensure_pushed(root: Path, remote: str) -> None:
    """Push the pointers' data to a remote that is a folder, unless it already has them.

    The user pushes to any other remote, and to the one that REMOTE describes.

    Raises:
        UserError: no such remote, or neither the remote nor DVC's cache has what a pointer names.
    """
    url = remote_config(remote, root / ".dvc")["url"]
    if "://" in url or REMOTE in os.environ:
        return
    objects = {name: _object(Path(url), root / f"{name}.dvc") for name in FOLDERS}
    if all(path.exists() for path in objects.values()):
        return
    with _dvc_log(), _project(root) as repo:
        repo.push([str(root / f"{name}.dvc") for name in FOLDERS], remote=remote)
    for name, path in objects.items():
        if not path.exists():
            raise UserError(_lost_files(root, name, remote))


def push(root: Path, config: Mapping[str, Any]) -> int:
    """Push the pointers' data to a remote with this configuration, keys included.

    Returns:
        The number of files that the remote lacked.

    Raises:
        UserError: the remote cannot be used, or neither it nor DVC's cache has what a pointer
            names.
    """
    remote = Remote("cluster", config)
    with _dvc_log(), _project(root, {"remote": {remote.name: dict(config)}}) as repo:
        try:
            pushed = repo.push([str(root / f"{name}.dvc") for name in FOLDERS], remote=remote.name)
            objects = repo.cloud.get_remote_odb(remote.name)
            missing = [name for name in FOLDERS if not _holds(objects, root / f"{name}.dvc")]
        except Exception as error:  # each kind of remote raises different exceptions
            raise UserError(f"{remote} does not accept the push: {error}") from error
    for name in missing:
        raise UserError(_lost_files(root, name, remote.name))
    return int(pushed)


def cache_with(root: Path, pointers: Sequence[Path]) -> Path | None:
    """Find a project's DVC cache folder; None if it lacks any of the pointers' files."""
    with _dvc_log(), _project(root) as repo:
        objects = repo.cache.local
        for pointer in pointers:
            if not _holds(objects, pointer):
                return None
            md5 = pointer_hash(pointer.read_text(), pointer.name)
            files = json.loads(objects.fs.cat_file(objects.oid_to_path(md5)))
            if not all(objects.exists(file["md5"]) for file in files):
                return None
        return Path(repo.cache.local_cache_dir)


def known_files(root: Path, name: str, remote: str) -> dict[str, str] | None:
    """Map each file of a project's pointer, by its path below the folder, to its MD5.

    None if the list is neither in DVC's cache nor in a remote that is a folder of this machine.
    """
    md5 = pointer_hash((root / f"{name}.dvc").read_text(), f"{name}.dvc")
    path = find_object(root, md5, remote)
    if path is None:
        return None
    return {file["relpath"]: file["md5"] for file in json.loads(path.read_text())}


def find_object(root: Path, md5: str, remote: str) -> Path | None:
    """Find the content with this MD5 on this machine: in DVC's cache or a folder remote."""
    with _dvc_log(), _project(root) as repo:
        folders = [repo.cache.local_cache_dir]
        if REMOTE not in os.environ:  # else it describes the remote
            url = repo.config["remote"].get(remote, {}).get("url", "://")
            folders += [] if "://" in url else [url]
    paths = [Path(folder) / _key(md5) for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def remote_has(root: Path, name: str, pointers: Sequence[Path]) -> bool:
    """Check that a project's remote is reachable and has the pointers' data."""
    try:
        found = find_remote(name, root / ".dvc")
        settings = {"remote": {name: dict(found.config)}}
        with _dvc_log(), patience_with(found), _project(root, settings) as repo:
            objects = repo.cloud.get_remote_odb(name)
            return all(_holds(objects, pointer) for pointer in pointers)
    except Exception as error:  # each kind of remote raises different exceptions
        _logger.info("the remote %s does not respond: %s", name, error)
        return False


def _holds(objects: Any, pointer: Path) -> bool:
    md5 = pointer_hash(pointer.read_text(), pointer.name)
    return bool(objects.fs.exists(objects.oid_to_path(md5)))


def _object(remote_folder: Path, pointer: Path) -> Path:
    """Locate a pointer's list of files, which DVC pushes last, in a folder remote."""
    md5 = pointer_hash(pointer.read_text(), pointer.name)
    return remote_folder / _key(md5)


def _lost_files(root: Path, name: str, remote: str) -> str:
    lost = f"the files of {name}.dvc are neither in DVC's cache nor in the remote {remote!r}: "
    if (root / name).exists():
        return lost + f"`dvc add {name}`"
    return lost + (
        f"put your files under {name}/ and `dvc add {name}`, or `dvc pull` them; "
        "`crossfold sample` writes the sample"
    )


@contextmanager
def _project(root: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Any]:
    from dvc.repo import Repo

    # Without git: DVC then works in a downloaded archive as well and leaves .gitignore alone.
    config = {"core": {"no_scm": "true"}, **(settings or {})}
    # As `dvc --wait-for-lock` does: another command may hold the project's lock for a while.
    with refused_by_dvc(), Repo(str(root), config=config, _wait_for_lock=True) as repo:
        yield repo


def add(folder: Path) -> None:
    """Run `dvc add` for a folder in its project."""
    with _dvc_log(), _project(folder.parent) as repo:
        repo.add(str(folder))


class _Errors(logging.Handler):
    """Collect the exceptions that DVC logs and does not raise."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.found.append(record.exc_info[1])


@contextmanager
def _dvc_log() -> Iterator[_Errors]:
    """Send DVC's log to Python's root logger only, not to the terminal."""
    import dvc  # noqa: F401  (importing it adds its handlers)

    errors = _Errors()
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    handlers = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = [errors]
    try:
        yield errors
    finally:
        for logger, own in zip(loggers, handlers, strict=True):
            logger.handlers = own


def pull(pointers: Mapping[str, str], remote: str, workspace: Path) -> None:
    """Pull the pointers' folders (name to text) into an empty `workspace` and verify hashes.

    A pointer from `file_pointer` is pulled as one file of that name.

    REMOTE describes the remote, or else the working directory's .dvc. DVC finds the credentials.
    The workspace has its own cache.

    Raises:
        UserError: a pointer is malformed, the remote cannot be used, or its files are missing or
            damaged.
        OSError: no space left.
    """
    from dvc.repo import Repo

    hashes = {
        name: pointer_hash(text, f"{name}.dvc", of_file=True) for name, text in pointers.items()
    }
    found = find_remote(remote)
    (workspace / ".dvc").mkdir()
    for name, md5 in hashes.items():
        out = {"md5": md5, "hash": "md5", "path": name}
        (workspace / f"{name}.dvc").write_text(json.dumps({"outs": [out]}))
    config = {
        "core": {"no_scm": "true", "site_cache_dir": str(workspace / ".dvc" / "site")},
        "cache": {"dir": str(workspace / ".dvc" / "cache"), "type": "hardlink,copy"},
        "remote": {remote: found.config},
    }
    with (
        _dvc_log() as errors,
        refused_by_dvc(),
        patience_with(found),
        Repo(str(workspace), config=config) as repo,
    ):
        _check_remote(repo, found, hashes)
        try:
            repo.pull(remote=remote)
        except Exception:
            _raise_passing(errors.found)
            _raise_damaged(repo, found, hashes)
            raise


def _check_remote(repo: Any, remote: Remote, hashes: Mapping[str, str]) -> None:
    """Check that the remote answers and has the pointers' lists of files."""
    missing = []
    try:
        objects = repo.cloud.get_remote_odb(remote.name)
        for name, md5 in hashes.items():
            try:
                objects.fs.info(objects.oid_to_path(md5))
            except FileNotFoundError:
                missing.append(name)
    except Exception as error:  # each kind of remote raises different exceptions
        reason = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"{remote} cannot be used: {reason}. {credentials_hint(remote)}Its address is in "
            f".dvc/config, or in {REMOTE} where that is set"
        ) from error
    if missing:
        files = " ".join(f"{name}.dvc" for name in missing)
        raise UserError(
            f"{remote} lacks the files of {files.replace(' ', ' and ')}: run "
            f"`dvc push -r {remote.name} {files}` where the files were added"
        )


def _raise_passing(errors: list[BaseException]) -> None:
    """Raise errors that DVC logged and that a retry, or a larger disk, may fix."""
    for error in errors:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            # After a failed copy, name its target.
            raise OSError(error.errno, error.strerror, error.filename2 or error.filename)
    for error in errors:
        if not isinstance(error, FileNotFoundError):
            raise error


def _raise_damaged(repo: Any, remote: Remote, hashes: Mapping[str, str]) -> None:
    """Raise UserError for files whose content in the remote does not match their hashes."""
    cache, objects = repo.cache.local, repo.cloud.get_remote_odb(remote.name)
    faults = []
    for name, md5 in hashes.items():
        files = {name: md5}
        if md5.endswith(_LIST):
            content = objects.fs.cat_file(objects.oid_to_path(md5))
            if hashlib.md5(content, usedforsecurity=False).hexdigest() + _LIST != md5:
                faults.append(f"{name}.dvc's list of files is truncated or modified ({_key(md5)})")
                continue
            files = {f"{name}/{file['relpath']}": file["md5"] for file in json.loads(content)}
        for path, of_file in files.items():
            if not cache.exists(of_file):
                fault = "is truncated or modified" if objects.exists(of_file) else "is missing"
                faults.append(f"{path} {fault} ({_key(of_file)})")
    if faults:
        lists = " and ".join(
            _key(md5) if md5.endswith(_LIST) else f"that {name}.dvc names"
            for name, md5 in hashes.items()
        )
        raise UserError(
            f"{remote} has missing or damaged files:\n{listed(faults)}\n"
            f"Delete these objects there, and the lists {lists} (DVC assumes that a remote has all "
            f"files of a list), then `dvc push -r {remote.name}` where the files were added"
        )


def _key(md5: str) -> str:
    """Build an object's path in a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"
