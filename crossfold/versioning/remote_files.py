"""Read the files of a data version from a DVC remote, one by one, without a copy on the disk."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crossfold.errors import UserError
from crossfold.imaging.decoding import MAX_FILE_SIZE, refuse_large

from .dvc import Pointer, dvc_log, listed, object_key
from .remotes import (
    REMOTE,
    Remote,
    credentials_hint,
    find_remote,
    open_remote,
    patience_with,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class RemoteError(Exception):
    """A remote failed in the middle, for a reason that a retry may fix.

    No OSError, which a caller would take for a fault of one file.
    """


@contextmanager
def remote_files(pointer: Pointer, name: str, remote: str) -> Iterator[RemoteFiles]:
    """Connect to a remote, and read and verify a pointer's list of files.

    REMOTE describes the remote, or else the working directory's .dvc. DVC finds the credentials.

    Args:
        pointer: The pointer to a folder, or to one file of it.
        name: The folder's name, "data" or "models".
        remote: The DVC remote's name.

    Raises:
        UserError: the remote cannot be used, or it lacks the list or has a damaged one.
    """
    found = find_remote(remote)
    with dvc_log(), patience_with(found):
        yield RemoteFiles(found, name, pointer)


class RemoteFiles:
    """The files of a pointer, by their paths below its folder.

    Attributes:
        name: The folder's name.
        pointer: The pointer.
        hashes: path -> MD5.
    """

    def __init__(self, remote: Remote, name: str, pointer: Pointer) -> None:
        self.name = name
        self.pointer = pointer
        self._remote = remote
        self._faults: dict[str, str] = {}
        with self._usable():
            self._fs, self._root = open_remote(remote)
            self.hashes = self._list_files()

    def _list_files(self) -> dict[str, str]:
        md5 = self.pointer.md5
        if not self.pointer.is_folder:
            self._fs.info(self._locate(md5))
            return {self.pointer.path: md5}
        content = self._fs.cat_file(self._locate(md5))
        try:
            if f"{_md5(content)}.dir" != md5:
                raise ValueError
            return _parse_list(content)
        except (ValueError, TypeError, KeyError):
            self._faults[f"{self.name}.dvc's list of files"] = (
                f"is truncated or modified ({object_key(md5)})"
            )
            raise self._incomplete() from None

    def read(self, path: str, at_most: int = MAX_FILE_SIZE) -> bytes:
        """Read an image, and verify its hash.

        Raises:
            BadImage: it has more than `at_most` bytes, and so has the version; it was not read.
            OSError: the remote lacks it, or has it damaged; `require_whole` lists all of these.
            RemoteError: the remote failed.
        """
        md5 = self.hashes[path]
        if not 0 < self.pointer.num_bytes <= MAX_FILE_SIZE:  # else a request is spared
            with self._noting_faults(path):
                size = self._fs.info(self._locate(md5))["size"]
            refuse_large(size or 0, at_most)  # some servers do not tell
        with self._noting_faults(path):
            content: bytes = self._fs.cat_file(self._locate(md5))
        if _md5(content) != md5:
            raise self._fault(path, "is truncated or modified")
        return content

    def copy(self, path: str, target: Path) -> None:
        """Copy a file to the disk in pieces, and verify its hash.

        Raises:
            UserError: the remote lacks it, or has it damaged.
            OSError: no space left, or the remote failed.
        """
        try:
            self._fs.get_file(self._locate(self.hashes[path]), str(target))
        except FileNotFoundError:
            self._fault(path, "is missing")
        else:
            with target.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            if digest.hexdigest() != self.hashes[path]:
                self._fault(path, "is truncated or modified")
        self.require_whole()

    def require_whole(self) -> None:
        """Refuse a remote that lacked files or had damaged ones.

        Raises:
            UserError: it lists all of these that were read.
        """
        if self._faults:
            raise self._incomplete()

    def _incomplete(self) -> UserError:
        md5 = self.pointer.md5
        of_list = object_key(md5) if self.pointer.is_folder else f"that {self.name}.dvc names"
        faults = [f"{path} {fault}" for path, fault in sorted(self._faults.items())]
        return UserError(
            f"{self._remote} has missing or damaged files:\n{listed(faults)}\n"
            f"Delete these objects there, and the list {of_list} (DVC assumes that a remote has "
            f"all files of a list), then `dvc push -r {self._remote.name}` where the files were "
            "added"
        )

    def _locate(self, md5: str) -> str:
        path: str = self._fs.join(self._root, *object_key(md5).split("/"))
        return path

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Explain why the first contact with the remote fails."""
        try:
            yield
        except FileNotFoundError:
            file = f"{self.name}.dvc"
            raise UserError(
                f"{self._remote} lacks the files of {file}: run "
                f"`dvc push -r {self._remote.name} {file}` where the files were added"
            ) from None
        except UserError:
            raise
        except Exception as error:  # each kind of remote raises different exceptions
            reason = str(error).rstrip(".") or type(error).__name__
            raise UserError(
                f"{self._remote} cannot be used: {reason}. {credentials_hint(self._remote)}Its "
                f"address is in .dvc/config, or in {REMOTE} where that is set"
            ) from error

    @contextmanager
    def _noting_faults(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise self._fault(path, "is missing") from None
        except Exception as error:  # each kind of remote raises different exceptions
            raise RemoteError(
                f"{self._remote} failed while {self.name}/{path} was read: {error}"
            ) from error

    def _fault(self, path: str, fault: str) -> OSError:
        self._faults[f"{self.name}/{path}"] = f"{fault} ({object_key(self.hashes[path])})"
        return OSError(errno.EIO, f"it {fault} in the remote")


def _parse_list(content: bytes) -> dict[str, str]:
    """Parse a list of files, whose hash says only that it arrived as it was pushed.

    Raises:
        ValueError, TypeError, KeyError: it is no list of hashes and of paths below the folder.
    """
    files = {file["relpath"]: file["md5"] for file in json.loads(content)}
    for path, md5 in files.items():
        below = isinstance(path, str) and {"", ".", ".."}.isdisjoint(path.split("/"))
        if not below or not re.fullmatch("[0-9a-f]{32}", md5):
            raise ValueError
    return files


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
