"""A version's model card: what people read of it on MLflow's page, as Markdown."""

import json
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

# MLflow's registry takes no longer description (mlflow.store.model_registry.dbmodels).
MAX_LENGTH = 5000
_MAX_NAMES = 400  # characters of the classes' names
_MAX_REASON = 1200
_SCORES = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "loss": "loss",
}
_LINEAGE = {
    "git_commit": "git commit",
    "data_hash": "data (DVC)",
    "models_hash": "first weights (DVC)",
    "weights_hash": "weights (SHA-256)",
    "split_hash": "test split",
    "seed_split": "seed of the splits",
    "seed_training": "seed of the training",
    "runner": "runner",
    "started": "started",
    "pipeline_run": "pipeline run",
    "image_train": "image",
    "num_threads": "threads",
    "num_threads_folds": "threads of a fold",
    "processor_kernels": "processor kernels",
    "torch": "torch",
}


def render(
    tags: Mapping[str, str],
    board: Mapping[str, Any],
    evaluated: Mapping[str, Any],
    registered: Mapping[str, Any],
) -> str:
    """Return the card of a version, at most MAX_LENGTH characters.

    Args:
        tags: The version's.
        board: What cross-validation found.
        evaluated: What the test split said.
        registered: What `register_model` found.
    """
    parts = [
        _title(tags, evaluated, registered),
        _use(registered),
        _scores(tags, board, evaluated),
        _gate(registered),
        _lineage(tags, registered["version"]),
    ]
    card = "\n\n".join(parts)
    return card if len(card) <= MAX_LENGTH else card[: MAX_LENGTH - 2].rstrip() + " …"


def _title(
    tags: Mapping[str, str], evaluated: Mapping[str, Any], registered: Mapping[str, Any]
) -> str:
    classes = evaluated["classes"]
    shown = _text(shorten(", ".join(classes), _MAX_NAMES, placeholder=" …"))
    return (
        f"# {registered['name']} version {registered['version']}\n\n"
        f"Tells which of {len(classes)} classes an image is of: {shown}. "
        f"Architecture {tags['architecture']}, candidate {tags['candidate']}, trained "
        f"{_length(tags)} on {tags['num_train_images']} images.\n\n"
        "**Intended use.** Images from the same source as the training images, each of one of "
        "these classes; an image is cut to its centre square and scaled. Of an image that is of "
        "none of them it names one all the same. What it is worth on images from another source "
        "has not been measured."
    )


def _length(tags: Mapping[str, str]) -> str:
    epochs = tags.get("num_epochs")
    return f"for {epochs} epochs" if epochs else "to convergence"


def _use(registered: Mapping[str, Any]) -> str:
    name = f"{registered['name']}/{registered['version']}"
    return (
        "## Use\n\n"
        f"```sh\ncrossfold predict IMAGE --model {name}\n```\n\n"
        "```python\nimport mlflow.pyfunc, pandas\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}")\n'
        'model.predict(pandas.DataFrame({"image": ["image.jpg"]}))  # a path, bytes or base64\n```'
    )


def _scores(tags: Mapping[str, str], board: Mapping[str, Any], evaluated: Mapping[str, Any]) -> str:
    best = board["candidates"][board["best"]]
    intervals = evaluated["intervals"]
    rows = [
        f"| {title} | {evaluated['metrics'][name]:.4f} | {_interval(intervals[name])} | "
        f"{_cross_validated(best, name)} |"
        for name, title in _SCORES.items()
    ]
    return (
        "## Scores\n\n"
        f"| | test, {tags['num_test_images']} images | 95 % interval | "
        f"cross-validation, {board['num_folds']} folds |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
    )


def _cross_validated(best: Mapping[str, Any], name: str) -> str:
    if name not in best["mean"]:
        return ""
    return f"{best['mean'][name]:.4f} ± {best['std'][name]:.4f}"


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:.4f} to {high:.4f}"


def _gate(registered: Mapping[str, Any]) -> str:
    num = registered["num_judged_before"]
    others = "1 other version was" if num == 1 else f"{num} other versions were"
    return (
        f"## Gate\n\n{registered['gate'].capitalize()}, {registered['verdict']}: "
        f"{_text(registered['reason'][:_MAX_REASON])}.\n\n"
        f"{others} judged on this very test split before."
    )


def _lineage(tags: Mapping[str, str], version: str) -> str:
    dirty = " with changes that are not in it" if tags.get("git_dirty") == "true" else ""
    shown = {**tags, "git_commit": tags.get("git_commit", "none: not in git") + dirty}
    rows = [
        f"| {title} | {_text(shown[key])} |" for key, title in _LINEAGE.items() if shown.get(key)
    ]
    libraries = json.loads(tags.get("libraries", "{}"))
    rows += [f"| libraries | {', '.join(f'{k} {v}' for k, v in sorted(libraries.items()))} |"]
    return (
        "## Lineage\n\n| | |\n| --- | --- |\n"
        + "\n".join(rows)
        + f"\n\n`crossfold lineage {version}` prints all of it."
    )


def _text(value: str) -> str:
    """Return a text of the user's as it is in Markdown."""
    for mark in "\\|*_`<>[]#":
        value = value.replace(mark, f"\\{mark}")
    return value
