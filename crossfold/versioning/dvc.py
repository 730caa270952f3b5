"""Read the pointers of data versions, compare them with the folders, push them to a remote.

A pointer is the file `data.dvc` or `models.dvc`, which DVC writes: the hash of a folder's content.
The pointer to one file of a folder, which DVC would write for that file alone, is made here.
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfold.errors import UserError
from crossfold.step.yaml_text import parse_yaml

from .remotes import REMOTE, Remote, find_remote, patience_with, refused_by_dvc, remote_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FOLDERS = ("data", "models")
_logger = logging.getLogger(__name__)
_MAX_LISTED = 50
_LIST = ".dir"  # the end of the hash of a folder, whose object lists the folder's files


def listed(lines: Sequence[object], written: Callable[[object], str] = str) -> str:
    """Format the first lines, each by `written` and indented, and the number of the others."""
    shown = [f"  {written(line)}" for line in lines[:_MAX_LISTED]]
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


@dataclass(frozen=True)
class Pointer:
    """A pointer's content.

    Attributes:
        md5: The MD5 of the list of a folder's files, with the suffix `.dir`; or of one file.
        path: The folder, or the file's path below it.
        num_bytes: The size of all files; 0 if the pointer does not tell.
        num_files: The number of files; 0 if the pointer does not tell.
    """

    md5: str
    path: str
    num_bytes: int = 0
    num_files: int = 0

    @property
    def is_folder(self) -> bool:
        """Whether the MD5 is that of a list of files."""
        return self.md5.endswith(_LIST)


def parse_pointer(text: str, name: str = "the pointer", *, of_file: bool = False) -> Pointer:
    """Parse a pointer's text.

    With `of_file`, the pointer may also be one from `file_pointer`.

    Raises:
        UserError: the text is no pointer of DVC 3 to one folder; `name` says which.
    """
    suffix = r"(\.dir)?" if of_file else r"\.dir"
    try:
        (out,) = parse_yaml(text)["outs"]
        numbers = (_number(out.get(key)) for key in ("size", "nfiles"))
        pointer = Pointer(out["md5"], out["path"], *numbers)
        is_md5 = re.fullmatch(f"[0-9a-f]{{32}}{suffix}", pointer.md5)
        if out["hash"] == "md5" and is_md5 and isinstance(pointer.path, str):
            return pointer
    except (TypeError, KeyError, ValueError):
        pass
    raise UserError(
        f"{name} is not a DVC 3 pointer to one folder: "
        "put the files in a folder and `dvc add` that folder again"
    )


def _number(value: object) -> int:
    return max(value, 0) if type(value) is int else 0


def pointer_hash(text: str, name: str = "the pointer") -> str:
    """Read the MD5 of a folder from its pointer's text, with the suffix `.dir`.

    Raises:
        UserError: as `parse_pointer`.
    """
    return parse_pointer(text, name).md5


def changed_since_add(root: Path) -> list[str]:
    """List the folders among `data` and `models` that differ from their pointers."""
    with dvc_log(), _project(root) as repo:
        folders = [str(root / name) for name in FOLDERS if (root / name).exists()]
        return [
            Path(out.fspath).name
            for folder in folders
            for out in repo.find_outs_by_path(folder)
            if out.changed_checksum()
        ]


def folder_hash(folder: Path) -> str:
    """Compute the hash that `dvc add` would record for a folder that has a pointer."""
    with dvc_log(), _project(folder.parent) as repo:
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
    with dvc_log(), _project(root) as repo:
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
    with dvc_log(), _project(root, {"remote": {remote.name: dict(config)}}) as repo:
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
    with dvc_log(), _project(root) as repo:
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
    md5 = pointer_hash(read_pointer(root, name))
    path = find_object(root, md5, remote)
    if path is None:
        return None
    return {file["relpath"]: file["md5"] for file in json.loads(path.read_text())}


def find_object(root: Path, md5: str, remote: str) -> Path | None:
    """Find the content with this MD5 on this machine: in DVC's cache or a folder remote."""
    with dvc_log(), _project(root) as repo:
        folders = [repo.cache.local_cache_dir]
        if REMOTE not in os.environ:  # else it describes the remote
            url = repo.config["remote"].get(remote, {}).get("url", "://")
            folders += [] if "://" in url else [url]
    paths = [Path(folder) / object_key(md5) for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def remote_has(root: Path, name: str, pointers: Sequence[Path]) -> bool:
    """Check that a project's remote is reachable and has the pointers' data."""
    try:
        found = find_remote(name, root / ".dvc")
        settings = {"remote": {name: dict(found.config)}}
        with dvc_log(), patience_with(found), _project(root, settings) as repo:
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
    return remote_folder / object_key(md5)


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
    with dvc_log(), _project(folder.parent) as repo:
        repo.add(str(folder))


@contextmanager
def dvc_log() -> Iterator[None]:
    """Send DVC's log to Python's root logger only, not to the terminal."""
    import dvc  # noqa: F401  (importing it adds its handlers)

    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    handlers = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = []
    try:
        yield
    finally:
        for logger, own in zip(loggers, handlers, strict=True):
            logger.handlers = own


def object_key(md5: str) -> str:
    """Build an object's path in a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"
