"""Train a registered version again from its commit, data and settings, and compare.

The commit's own code does the training, through its own `crossfold run`. Reproduction knows
that code only through its files and its records in MLflow.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from crossfold.errors import UserError
from crossfold.network import processor
from crossfold.runners.base import OnThisMachine
from crossfold.runners.display import Display
from crossfold.runners.failures import signals_interrupt
from crossfold.runners.local.leftovers import end_leftovers
from crossfold.runners.local.run_folders import HOME, load_run, new_run
from crossfold.settings import INT8
from crossfold.versioning import dvc, remotes

from .commit_run import run_commit
from .comparison import Row, compare_environments, compare_results
from .worktree import checked_out, remove

FOLDER = "reproduce"
WORKTREE = "worktree"
_MODEL = "reproduced"


@dataclass(frozen=True)
class Reproduction:
    """The results side by side, differences in the environment, and the folder of kept files."""

    results: list[Row]
    environment: list[Row]
    kept: Path | None

    @property
    def same(self) -> bool:
        """Tell whether all results equal the recorded ones."""
        return all(row.same for row in self.results)


def reproduce(
    root: Path, version: ModelVersion, display: Display, *, on: OnThisMachine, keep: bool
) -> Reproduction:
    """Train a version again in a scratch worktree, and compare the results.

    Args:
        root: The project's folder: its repository has the commit, its DVC the data.
        version: The version, with its tags.
        display: Shows the steps.
        on: The runner.
        keep: Whether to keep the worktree with the run's files.

    Raises:
        UserError: the version cannot be reproduced here.
        StepError: the run failed.
        Interrupted: a signal ended it; no process is left, and no file unless `keep` is set.
    """
    tags = _tags(version)
    _require_instructions(version)
    commit = tags["git_commit"]
    hashes = {"data": tags["data_hash"], "models": tags.get("models_hash")}
    scratch = root / HOME / FOLDER
    scratch.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    command = new_run(scratch, commit)
    home = command.folder
    rest = f"its files are in {home}" if keep else "its files are deleted; --keep would keep them"
    display.say(f"commit {commit[:12]}, data {tags['data_hash'][:12]}, in {home}")
    if tags.get("git_dirty") == "true":
        display.say("the version was trained with uncommitted changes, so the result may differ")
    try:
        with (
            signals_interrupt(f"interrupted; {rest}"),
            _locked(home),
            checked_out(root, commit, home / WORKTREE, keep=keep) as project,
        ):
            _write_pointers(project, hashes)
            _write_settings(project, tags)
            _copy_build_arguments(root, project)
            recorded = json.loads(tags["settings"])["data"]["remote"]
            remote = _find_data(root, project, recorded, display)
            run_commit(project, command, remote, display, on, rest)
            reproduced = _registered_tags(project)
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    return Reproduction(
        compare_results(tags, reproduced),
        compare_environments(tags, reproduced),
        home if keep else None,
    )


def remove_leftovers(root: Path) -> None:
    """Delete the leftovers of killed reproductions; running and kept ones stay."""
    for lock in (root / HOME / FOLDER).glob("*/lock"):
        with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
            # The command's record comes first, then those of its runs in the worktree.
            for record in sorted(lock.parent.rglob("run.json")):
                end_leftovers(load_run(record))
            remove(root, lock.parent / WORKTREE)
            shutil.rmtree(lock.parent)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold a lock while the files are in use, and delete it after the block."""
    lock = home / "lock"
    with FileLock(lock):
        try:
            yield
        finally:
            lock.unlink()


def _tags(version: ModelVersion) -> Mapping[str, str]:
    """Get a version's tags; raise UserError if they do not fully describe its origin."""
    missing = {"git_commit", "settings", "data_hash", "weights_hash"} - version.tags.keys()
    if not missing:
        return version.tags
    why = "it was trained outside git" if missing == {"git_commit"} else "Crossfold did not make it"
    raise UserError(
        f"{version.name} version {version.version} has no {' and no '.join(sorted(missing))} among "
        f"its tags, so it cannot be reproduced: {why}"
    )


def _require_instructions(version: ModelVersion) -> None:
    """Refuse a version in int8 on a processor that computes other features in int8."""
    if version.tags.get("precision") == INT8 and not processor.has_int8():
        raise UserError(
            f"{version.name} version {version.version} was trained in int8, and "
            f"{processor.WITHOUT_INT8}, so it would get other numbers here. Reproduce it on a "
            "processor that has one of them"
        )


def _write_pointers(project: Path, hashes: Mapping[str, str | None]) -> None:
    """Point the DVC pointers to the version's data.

    A scheduled run, or one from a dirty tree, used other data than its commit names.
    """
    for name, md5 in hashes.items():
        pointer = project / f"{name}.dvc"
        if md5 is None or (pointer.exists() and _hash_in(pointer) == md5):
            continue
        out = {"md5": md5, "hash": "md5", "path": name}
        pointer.write_text(yaml.safe_dump({"outs": [out]}))


def _hash_in(pointer: Path) -> str:
    return dvc.pointer_hash(pointer.read_text(), pointer.name)


def _write_settings(project: Path, tags: Mapping[str, str]) -> None:
    """Write the version's settings to params.yaml, with an MLflow store inside the worktree."""
    path = project / "params.yaml"
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings |= json.loads(tags["settings"])
    settings.pop("registry", None)  # nobody signs the new version
    settings["tracking"] |= {"uri": None, "experiment": _MODEL, "model_name": _MODEL}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def _copy_build_arguments(root: Path, project: Path) -> None:
    """Copy the build arguments, which are not in git, so that image names match those here."""
    record = Path("images/build.json")
    if (root / record).exists():
        (project / record).write_bytes((root / record).read_bytes())


def _find_data(root: Path, project: Path, recorded: str, display: Display) -> dict[str, str]:
    """Find a place with all the data, and build the variables that lead a step to it.

    The recorded remote may belong to a cluster and be out of reach, so any of the project's remotes
    will do: hashes verify its files. DVC's cache has the layout of a folder remote.

    Raises:
        UserError: no place has all the data.
    """
    pointers = [project / f"{name}.dvc" for name in dvc.FOLDERS]
    if cache := dvc.cache_with(root, pointers):
        return {remotes.REMOTE: json.dumps({"url": str(cache)})}
    names = dict.fromkeys([recorded, *remotes.remote_names(root)])
    for name in names:
        display.say(f"DVC's cache lacks some of the data: looking in the remote {name}")
        if dvc.remote_has(root, name, pointers):
            return remotes.remote_environment(root, name)
    raise UserError(
        f"DVC's cache lacks some of the data {' and '.join(_hash_in(p) for p in pointers)}, and "
        f"each remote ({', '.join(names)}) lacks some too or does not respond: `dvc fetch` them "
        "where the version was trained, or add a remote that has them"
    )


def _registered_tags(project: Path) -> Mapping[str, str]:
    """Read the tags of the version that the run registered in its own store."""
    store = f"sqlite:///{project / HOME / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    (version,) = client.search_model_versions(f"name = '{_MODEL}'")
    tags: Mapping[str, str] = client.get_model_version(_MODEL, version.version).tags
    return tags
