"""Terminal tables of the registry: versions, lineage, comparison, reproduction."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlflow.entities.model_registry import ModelVersion
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from crossfold.records import Promotion
from crossfold.tag_labels import Tag, tags

if TYPE_CHECKING:
    from crossfold.reproduce.reproduce import Reproduction

# Scores in the list of versions, with headings for narrow columns.
_LISTED_SCORES = {
    "cv_macro_f1": "CV F1",
    "test_macro_f1": "test F1",
    "test_accuracy": "accuracy",
}
_COMPARED = ("candidate", *_LISTED_SCORES, "gate_verdict", "data_hash", "split_hash")


def as_json(version: ModelVersion) -> dict[str, Any]:
    """Describe a version for JSON: name, aliases, creation time and tags, JSON tags parsed."""
    parsed = {
        tag.name: json.loads(version.tags[tag.name]) if tag.is_json else version.tags[tag.name]
        for tag in sorted(_tags(version), key=lambda tag: tag.name)
    }
    return {
        "name": version.name,
        "version": str(version.version),
        "aliases": sorted(version.aliases),
        "created": created(version).isoformat(timespec="seconds"),
        **parsed,
    }


def created(version: ModelVersion) -> datetime:
    """Convert a version's registration time to a UTC datetime."""
    return datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)


def lineage_table(version: ModelVersion) -> Table:
    """Build the table of a version's lineage: its tags, grouped under headings."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    aliases = ", ".join(sorted(version.aliases)) or "no alias"
    table.add_row(Text(f"{version.name} {version.version}", "bold not dim"), aliases)
    table.add_row("registered", f"{created(version):%Y-%m-%d %H:%M:%S} UTC")
    for heading, group in groupby(_tags(version), key=lambda tag: tag.section):
        rows = [row for tag in group for row in _rows(tag, version.tags[tag.name])]
        if rows:
            table.add_row("")
            table.add_row(Text(heading, "bold not dim"))
            for key, value in rows:
                table.add_row(key, Text(value))
    return table


def _tags(version: ModelVersion) -> list[Tag]:
    """List a version's tags: known tags in the order of `tag_labels`, then the others by name."""
    known = [tag for tag in tags() if tag.name in version.tags]
    others = sorted(version.tags.keys() - {tag.name for tag in known})
    return [*known, *(Tag(name, name, "Other") for name in others)]


def _rows(tag: Tag, value: str) -> Iterator[tuple[str, str]]:
    if not tag.is_json:
        yield tag.name, value
        return
    parsed = json.loads(value)
    if tag.name == "gate_comparison" and parsed is None:
        return
    if tag.name == "files_sha256":  # long paths would squeeze the column of values
        yield tag.name, f"{len(parsed)} files, listed by --json"
        return
    if tag.name == "promotions":
        for entry in map(Promotion.model_validate, parsed):
            yield entry.action, f"{entry.at} by {entry.by}: {_story(entry)}"
        return
    yield from _flat("" if tag.name == "settings" else tag.name, parsed)


def _story(entry: Promotion) -> str:
    """Describe in one line how a person made a version champion."""
    parts = [
        entry.reason,
        "against the evidence" if entry.forced else "",
        f"in place of version {entry.replaced}" if entry.replaced else "",
        f"{entry.verdict}: {entry.evidence}",
    ]
    return "; ".join(part for part in parts if part)


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield nested values as pairs of key and text; list items count from 0, as in `--set`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for index, item in enumerate(value):
            yield f"{key}.{index}", ", ".join(f"{k} {v}" for k, v in item.items())
    elif isinstance(value, list):
        yield key, ", ".join(map(str, value))
    else:
        yield key, str(value)


def models_table(versions: Sequence[ModelVersion]) -> Table:
    """Build the table of a model's versions, one row per version, the champion in bold."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for heading in ("", "aliases", "created"):
        table.add_column(heading, no_wrap=True)
    table.add_column("candidate")
    for heading in _LISTED_SCORES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("gate", overflow="fold")
    table.add_column("data", no_wrap=True)
    for row in versions:
        champion = "champion" in row.aliases
        table.add_row(
            str(row.version),
            "\n".join(sorted(row.aliases)),
            f"{created(row):%Y-%m-%d}",
            row.tags.get("candidate", ""),
            *(_score(row, tag) for tag in _LISTED_SCORES),
            _verdict(row),
            row.tags.get("data_hash", "")[:7],
            style="bold" if champion else "",
        )
    return table


def _verdict(version: ModelVersion) -> str:
    """Format the gate's verdict; a version taken back by a rollback is always marked refused."""
    verdict = version.tags.get("gate_verdict", version.tags.get("gate", ""))
    return f"{verdict}\nrefused" if "rolled_back" in version.tags else verdict


def model_rows(versions: Sequence[ModelVersion]) -> list[dict[str, Any]]:
    """Describe a model's versions for JSON, with the contents of `models_table`."""
    return [
        {
            "name": row.name,
            "version": str(row.version),
            "aliases": sorted(row.aliases),
            "created": created(row).isoformat(timespec="seconds"),
            "candidate": row.tags.get("candidate"),
            **{tag: _number(row, tag) for tag in _LISTED_SCORES},
            "gate": row.tags.get("gate"),
            "verdict": row.tags.get("gate_verdict"),
            "data_hash": row.tags.get("data_hash"),
        }
        for row in versions
    ]


def side_by_side(versions: Sequence[ModelVersion]) -> Table:
    """Build a table that compares versions, one column per version."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", style="dim")
    for version in versions:
        table.add_column(f"version {version.version}")
    table.add_row("aliases", *(", ".join(sorted(version.aliases)) for version in versions))
    known = {tag.name: tag for tag in tags()}
    for name in _COMPARED:
        table.add_row(known[name].label, *(_cell(version, name) for version in versions))
    return table


def _cell(version: ModelVersion, tag: str) -> str:
    if "hash" in tag:
        return str(version.tags.get(tag, "not recorded"))[:12]
    number = _number(version, tag) if tag.startswith(("cv_", "test_")) else None
    return f"{number:.4f}" if number is not None else str(version.tags.get(tag, "not recorded"))


def _score(version: ModelVersion, tag: str) -> str:
    number = _number(version, tag)
    return "" if number is None else f"{number:.4f}"


def _number(version: ModelVersion, tag: str) -> float | None:
    return float(version.tags[tag]) if tag in version.tags else None


def reproduction_tables(reproduction: "Reproduction") -> Iterator[RenderableType]:
    """Yield a reproduction's outcome: table of results, verdict, differences in environment."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "recorded", "reproduced"):
        table.add_column(heading, overflow="fold")
    table.add_column("")
    for row in reproduction.results:
        sign, style = ("same", "green") if row.same else ("different", "red")
        table.add_row(row.name, _short(row.recorded), _short(row.reproduced), Text(sign, style))
    yield table
    different = [row.name for row in reproduction.results if not row.same]
    if different:
        yield Text.assemble(("\nDifferent: ", "bold red"), ", ".join(different))
    else:
        yield Text.assemble(("\nThe same", "bold green"), ", weights and scores to the last digit")
    if not reproduction.environment:
        yield Text("Threads, processor kernels, torch build, libraries and code are as recorded")
        return
    yield Text("\nAlso different from the record:")
    others = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "recorded", "here"):
        others.add_column(heading, overflow="fold")
    for row in reproduction.environment:
        others.add_row(row.name, row.recorded or "not recorded", row.reproduced or "missing")
    yield others


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return value[:16] if re.fullmatch("[0-9a-f]{64}", value) else value
