"""Find old pipeline runs in MLflow that no registered version refers to."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mlflow.entities import Run as MlflowRun
from mlflow.entities import RunStatus, ViewType
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient

from .run import PARENT_TAG

_Entity = TypeVar("_Entity")
_ID = re.compile(r"[0-9a-f]{32}")  # of a run; a logged model's has `m-` in front
_PAGE = 1000
_PREFIX = "crossfold."  # of tags
_SOURCE_TAG = "crossfold.source_run"


@dataclass(frozen=True)
class RunTree:
    """A pipeline's run in MLflow, all runs nested in it, and the models that they logged.

    `runs` begins with the pipeline's. Runs that were deleted, but not permanently, are among them.
    """

    runs: tuple[MlflowRun, ...]
    models: tuple[str, ...]

    @property
    def root(self) -> MlflowRun:
        """The pipeline's run."""
        return self.runs[0]

    @property
    def run_ids(self) -> list[str]:
        """The ids of all runs, the pipeline's last: while it is there, the tree is found again."""
        return [run.info.run_id for run in reversed(self.runs)]

    @property
    def ids(self) -> set[str]:
        """The ids of runs and models, without the models' `m-`."""
        return {*self.run_ids, *(model.removeprefix("m-") for model in self.models)}

    @property
    def is_crossfolds(self) -> bool:
        """Whether Crossfold logged to any of the runs."""
        return any(tag.startswith(_PREFIX) for run in self.runs for tag in run.data.tags)

    @property
    def is_open(self) -> bool:
        """Whether MLflow has any of the runs as not ended."""
        return any(
            _is_active(run) and not RunStatus.is_terminated(RunStatus.from_string(run.info.status))
            for run in self.runs
        )


def unused_trees(client: MlflowClient, experiment_id: str, keep: int) -> list[RunTree]:
    """List the pipeline runs of an experiment that may be deleted, oldest first.

    These stay: the last `keep` finished runs and everything newer, runs that have not ended, runs
    with an id that is in any registered version, runs whose work one of these took from the cache,
    and runs in which Crossfold logged nothing. A run stays with everything around and below it.
    """
    trees = [tree for tree in _trees(client, experiment_id) if tree.is_crossfolds]
    finished = [
        n
        for n, tree in enumerate(trees)
        if tree.root.info.status == "FINISHED" and _is_active(tree.root)
    ]
    old = trees[: finished[-keep]] if len(finished) >= keep else []
    registered = _registered_ids(client)
    unused = [tree for tree in old if not tree.is_open and not tree.ids & registered]
    return _without_sources(trees, unused, _sources(_runs_elsewhere(client, experiment_id)))


def _without_sources(
    trees: list[RunTree], unused: list[RunTree], elsewhere: set[str]
) -> list[RunTree]:
    """Take out of `unused` what kept runs took from the cache, and what that took from it.

    `elsewhere` are the runs whose work was taken in other experiments.
    """
    while True:
        kept = (run for tree in trees if tree not in unused for run in tree.runs)
        sources = elsewhere | _sources(kept)
        left = [tree for tree in unused if not tree.ids & sources]
        if len(left) == len(unused):
            return unused
        unused = left


def _sources(runs: Iterable[MlflowRun]) -> set[str]:
    return {run.data.tags[_SOURCE_TAG] for run in runs if _SOURCE_TAG in run.data.tags}


def _trees(client: MlflowClient, experiment_id: str) -> list[RunTree]:
    """Group the runs of an experiment by their topmost parent, oldest first."""
    runs = {run.info.run_id: run for run in _all_runs(client, [experiment_id])}
    models: dict[str, list[str]] = defaultdict(list)
    for model in _pages(
        lambda token: client.search_logged_models(
            [experiment_id], max_results=_PAGE, page_token=token
        )
    ):
        models[str(model.source_run_id)].append(model.model_id)
    members: dict[str, list[MlflowRun]] = {}
    for run in sorted(runs.values(), key=_depth_and_age(runs)):
        members.setdefault(_root_id(runs, run), []).append(run)
    return [
        RunTree(tuple(tree), tuple(id_ for run in tree for id_ in models[run.info.run_id]))
        for tree in members.values()
    ]


def _runs_elsewhere(client: MlflowClient, experiment_id: str) -> Iterator[MlflowRun]:
    """Yield the runs of all other experiments, of which a project's cache knows nothing."""
    experiments = _pages(
        lambda token: client.search_experiments(
            view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
    )
    others = [one.experiment_id for one in experiments if one.experiment_id != experiment_id]
    return _all_runs(client, others) if others else iter(())


def _all_runs(client: MlflowClient, experiment_ids: list[str]) -> Iterator[MlflowRun]:
    return _pages(
        lambda token: client.search_runs(
            experiment_ids, run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
    )


def _depth_and_age(runs: dict[str, MlflowRun]) -> Callable[[MlflowRun], tuple[int, int]]:
    return lambda run: (len(_ancestors(runs, run)), run.info.start_time)


def _root_id(runs: dict[str, MlflowRun], run: MlflowRun) -> str:
    return str([run, *_ancestors(runs, run)][-1].info.run_id)


def _ancestors(runs: dict[str, MlflowRun], run: MlflowRun) -> list[MlflowRun]:
    """List the runs around a run, the innermost first."""
    around = runs.get(run.data.tags.get(PARENT_TAG, ""))
    return [] if around is None else [around, *_ancestors(runs, around)]


def _registered_ids(client: MlflowClient) -> set[str]:
    """Collect each id of a run or a logged model in fields and tags of all registered versions."""
    versions = _pages(
        lambda token: client.search_model_versions(max_results=_PAGE, page_token=token)
    )
    return {
        match
        for version in versions
        for text in (version.run_id, version.model_id, version.source, *version.tags.values())
        for match in _ID.findall(text or "")
    }


def _pages(search: Callable[[str | None], PagedList[_Entity]]) -> Iterator[_Entity]:
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def _is_active(run: MlflowRun) -> bool:
    return bool(run.info.lifecycle_stage == "active")
