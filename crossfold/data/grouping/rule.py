"""The setting `data.groups`, which says how to find an image's group."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
)

FOLDER: Final = "folder"
FORMS = _BY_FOLDER, _BY_PATTERN, _BY_FILE = ("by folder", "by pattern", "by file")


def _with_one_named_group(pattern: str) -> str:
    try:
        names = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if len(names) != 1:
        raise ValueError(
            f"{pattern!r} has {len(names)} named groups: give it exactly one, which finds the "
            "group in a file's name, as in '(?P<group>[^_]+)_'"
        )
    return pattern


def _beside_the_classes(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(
            f"{name!r} is not allowed: give the name of a file directly in data/, such as "
            "groups.csv"
        )
    return name


CsvFileName = Annotated[str, AfterValidator(_beside_the_classes)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PatternGroups(_Form):
    """Groups by the file's name."""

    pattern: Annotated[str, AfterValidator(_with_one_named_group)] = Field(
        description="Regular expression with exactly one named group, searched in the file's name."
    )


class FileGroups(_Form):
    """Groups by a CSV file."""

    file: CsvFileName = Field(
        description="CSV file directly in `data/` with the columns `path` (below `data/`) and "
        "`group`."
    )


def _form(rule: Any) -> str | None:
    if rule == FOLDER:
        return _BY_FOLDER
    if isinstance(rule, PatternGroups) or (isinstance(rule, dict) and rule.keys() == {"pattern"}):
        return _BY_PATTERN
    if isinstance(rule, FileGroups) or (isinstance(rule, dict) and rule.keys() == {"file"}):
        return _BY_FILE
    return None


GroupRule = Annotated[
    Annotated[Literal["folder"], Tag(_BY_FOLDER)]
    | Annotated[PatternGroups, Tag(_BY_PATTERN)]
    | Annotated[FileGroups, Tag(_BY_FILE)],
    Discriminator(
        _form,
        custom_error_type="group_form",
        custom_error_message="write folder, {pattern: '...'} or {file: groups.csv}",
    ),
]


def read_rule(text: str) -> GroupRule | None:
    """Read a rule from JSON, as the pipeline passes it; null is no rule."""
    rule: GroupRule | None = TypeAdapter(GroupRule | None).validate_json(text)
    return rule


def file_of(rule: GroupRule | None) -> str | None:
    """Name the CSV file of a rule; None if it has none."""
    return rule.file if isinstance(rule, FileGroups) else None


def read_file_name(text: str) -> str | None:
    """Read the name of a CSV file from JSON, as the pipeline passes it; null is none."""
    name: str | None = TypeAdapter(CsvFileName | None).validate_json(text)
    return name


def describe(rule: GroupRule) -> str:
    """Name a rule's origin in a few words."""
    if isinstance(rule, PatternGroups):
        return f"by the pattern {rule.pattern}"
    if isinstance(rule, FileGroups):
        return f"by {rule.file}"
    return "by the folder below the class"
