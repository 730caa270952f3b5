"""The lineage of a registered model, as rows of the report's page."""

import json
from collections.abc import Iterator, Mapping

from crossfold.tag_labels import Place, Tag, tags

_DIRTY = {"true": "yes: the run used changes that are not in this commit", "false": "none"}


def rows(lineage: Mapping[str, str]) -> list[tuple[str, str]]:
    """List the known short tags as labels and values, in the order of the page."""
    shown = {
        "git_commit": "none: not in a git repository",
        **lineage,
        "git_dirty": _DIRTY.get(lineage.get("git_dirty", ""), ""),
    }
    return [
        (tag.label, shown[tag.name]) for tag in _shown() if not tag.is_json and shown.get(tag.name)
    ]


def details(lineage: Mapping[str, str]) -> list[tuple[str, str]]:
    """List the known JSON tags, which are long, as labels and indented JSON."""
    return [
        (tag.label, _laid_out(lineage[tag.name]))
        for tag in _shown()
        if tag.is_json and lineage.get(tag.name)
    ]


def _shown() -> Iterator[Tag]:
    return (tag for tag in tags() if Place.REPORT in tag.places)


def _laid_out(text: str) -> str:
    return json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False)
