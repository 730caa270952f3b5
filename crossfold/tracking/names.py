"""Format the names of steps, runs and candidates for people."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

# The end of an address of MLflow's pages; without it they open in their view of GenAI traces.
MODEL_TRAINING = "?workflowType=machine_learning"


def short_labels(names: Sequence[str]) -> list[str]:
    """Shorten candidates' names to the words that tell them apart, for MLflow's lists and plots.

    `head lr=0.003 wd=0.01`, `head lr=0.01 wd=0.01` and `layer4 lr=0.001 wd=0.05` become
    `head 0.003`, `head 0.01` and `layer4`. Parallel coordinates show ten characters.
    """
    words = [name.split() for name in names]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    different = [[word for word in of_name if word not in shared] for of_name in words]
    return [
        _without_keys(_unique_start(of_name, different)) or name
        for of_name, name in zip(different, names, strict=True)
    ]


def _without_keys(words: Sequence[str]) -> str:
    """Remove keys such as `lr=`, except in the first word."""
    return " ".join([*words[:1], *(word.rpartition("=")[2] for word in words[1:])])


def _unique_start(words: Sequence[str], among: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the shortest start, in words, that no other name shares."""
    for length in range(1, len(words)):
        if sum(other[:length] == words[:length] for other in among) == 1:
            return words[:length]
    return words


def run_name(started: datetime, *words: str) -> str:
    """Format a pipeline run's name, such as `225025 layer4 lr=0.001`.

    MLflow's list shows some 20 characters: the time (hour, minute, second) tells runs apart.
    """
    return " ".join((f"{started:%H%M%S}", *words))


def title(name: str, iteration: int | str | None) -> str:
    """Format a step's title: its name, and its fold or its part of the extraction."""
    return name if iteration is None else f"{name} {iteration}"


def iteration(parameters: Mapping[str, Any]) -> int | str | None:
    """Tell a step from others of its name: by its fold, or by its part of the extraction, if any.

    MLflow has a step's parameters as texts, and Kubeflow's plugin writes integers as `0.0`.
    """
    part: str | None = parameters.get("part")
    return int(float(parameters["fold"])) if "fold" in parameters else part
