"""A version's model card: the Markdown description on its page in MLflow."""

import json
from collections.abc import Mapping
from textwrap import shorten

from crossfold import tag_labels
from crossfold.evaluation import metrics
from crossfold.records import (
    Evaluation,
    Interval,
    Leaderboard,
    LeaderboardEntry,
    Registration,
)

# MLflow's limit on the length of a description (mlflow.store.model_registry.dbmodels).
MAX_LENGTH = 5000
_MAX_NAMES = 400  # characters for the list of classes
_MAX_REASON = 1200


def render(
    tags: Mapping[str, str],
    board: Leaderboard,
    evaluated: Evaluation,
    registered: Registration,
) -> str:
    """Write a version's model card as Markdown, cut to MAX_LENGTH characters.

    Args:
        tags: The version's tags.
        board: The leaderboard of the cross-validation.
        evaluated: The version's evaluation on the test split.
        registered: The registered version with the gate's decision.
    """
    parts = [
        _title(tags, evaluated, registered),
        _use(registered),
        _scores(tags, board, evaluated),
        *([_backbones(board)] if board.compares_backbones else []),
        _gate(registered),
        _lineage(tags, registered.version),
    ]
    card = "\n\n".join(parts)
    return card if len(card) <= MAX_LENGTH else card[: MAX_LENGTH - 2].rstrip() + " …"


def _title(tags: Mapping[str, str], evaluated: Evaluation, registered: Registration) -> str:
    classes = evaluated.classes
    shown = _text(shorten(", ".join(classes), _MAX_NAMES, placeholder=" …"))
    return (
        f"# {registered.name} version {registered.version}\n\n"
        f"Assigns an image to one of {len(classes)} classes: {shown}. "
        f"Architecture {tags['architecture']}, candidate {tags['candidate']}, trained "
        f"{_length(tags)} on {tags['num_train_images']} images.\n\n"
        "**Intended use.** Images from the same source as the training images, each showing one "
        "of these classes. Images are cropped to their centre square and scaled. An image of "
        "none of these classes gets one of their labels too. The scores say nothing about images "
        "from other sources."
    )


def _length(tags: Mapping[str, str]) -> str:
    epochs = tags.get("num_epochs")
    return f"for {epochs} epochs" if epochs else "to convergence"


def _use(registered: Registration) -> str:
    name = f"{registered.name}/{registered.version}"
    return (
        "## Use\n\n"
        f"```sh\ncrossfold predict IMAGE --model {name}\n```\n\n"
        "```python\nimport mlflow.pyfunc, pandas\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}")\n'
        'model.predict(pandas.DataFrame({"image": ["image.jpg"]}))  # a path, bytes or base64\n```'
    )


def _scores(tags: Mapping[str, str], board: Leaderboard, evaluated: Evaluation) -> str:
    rows = [
        f"| {metric.label} | {evaluated.metrics[metric.name]:.4f} | "
        f"{_interval(evaluated.intervals[metric.name])} | "
        f"{_cross_validated(board.chosen, metric.name)} |"
        for metric in metrics.METRICS
    ]
    return (
        "## Scores\n\n"
        f"| | test, {tags['num_test_images']} images | 95 % interval | "
        f"cross-validation, {board.num_folds} folds |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + _corrected(board)
    )


def _corrected(board: Leaderboard) -> str:
    if board.corrected is None:
        return ""
    return (
        f"\n\nThe candidate was chosen from {len(board.candidates)}. Macro F1 in cross-validation "
        f"without the optimism of that choice: {board.corrected.macro_f1:.4f} "
        f"({_interval(board.corrected.interval)})."
    )


def _backbones(board: Leaderboard) -> str:
    """List the best candidate of each backbone, with the backbone's cost."""
    rows = [
        f"| {entry.candidate.name} | {entry.backbone.architecture} | "
        f"{_cross_validated(entry, 'macro_f1')} | {entry.backbone.cost} |"
        for entry in board.best_of_backbones
    ]
    return (
        "## Backbones\n\n"
        "| best candidate | architecture | macro F1 in cross-validation | cost |\n"
        "| --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def _cross_validated(entry: LeaderboardEntry, name: str) -> str:
    if name not in entry.mean:
        return ""
    return f"{entry.mean[name]:.4f} ± {entry.std[name]:.4f}"


def _interval(ends: Interval) -> str:
    low, high = ends
    return f"{low:.4f} to {high:.4f}"


def _gate(registered: Registration) -> str:
    num = registered.num_judged_before
    others = "1 other version was" if num == 1 else f"{num} other versions were"
    return (
        f"## Gate\n\n{registered.gate.capitalize()}, {registered.verdict}: "
        f"{_text(registered.reason[:_MAX_REASON])}.\n\n"
        f"{others} judged on this test split before."
    )


def _lineage(tags: Mapping[str, str], version: str) -> str:
    dirty = " plus uncommitted changes" if tags.get("git_dirty") == "true" else ""
    shown = {**tags, "git_commit": tags.get("git_commit", "none: not in a git repository") + dirty}
    rows = [
        f"| {tag.label} | {_text(shown[tag.name])} |"
        for tag in tag_labels.tags()
        if tag_labels.Place.CARD in tag.places and shown.get(tag.name)
    ]
    libraries = json.loads(tags.get("libraries", "{}"))
    rows += [f"| libraries | {', '.join(f'{k} {v}' for k, v in sorted(libraries.items()))} |"]
    return (
        "## Lineage\n\n| | |\n| --- | --- |\n"
        + "\n".join(rows)
        + f"\n\n`crossfold lineage {version}` prints the full lineage."
    )


def _text(value: str) -> str:
    """Escape a user's text, so that Markdown shows it literally."""
    for mark in "\\|*_`<>[]#":
        value = value.replace(mark, f"\\{mark}")
    return value
