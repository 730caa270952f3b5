"""Render the page on which a person decides on each label issue, as one HTML file.

It loads nothing. Its only script is its own, which the content security policy names by its hash.
"""

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from crossfold.data.image_source import FolderSource
from crossfold.diagnosis.labels.label_errors import LabelIssue
from crossfold.html.jinja_environment import template_environment
from crossfold.imaging.decoding import BadImage
from crossfold.imaging.thumbnails import data_uri
from crossfold.step.concurrency import in_order, num_cores
from crossfold.step.files import replaced_whole

from .decisions import Decisions

_SIDE = 224  # pixels; a high-density screen shows them at half this size


class Item(NamedTuple):
    """An image to decide on; `uri` holds its bytes, and is empty if it can't be decoded."""

    issue: LabelIssue
    uri: str
    given: str  # its class before any decision
    now: str | None  # its class by the decisions so far; None if it is excluded


class Kept(NamedTuple):
    """The decisions on images that the page does not list."""

    exclude: list[str]
    relabel: list[tuple[str, str]]  # paths and labels


def reviewable(issues: Iterable[LabelIssue], decisions: Decisions) -> tuple[LabelIssue, ...]:
    """List the issues whose image and classes the data still have."""
    return tuple(
        issue
        for issue in issues
        if issue.path in decisions.class_of
        and {issue.label, issue.suggested} <= set(decisions.classes)
    )


def write_page(
    path: Path, issues: tuple[LabelIssue, ...], decisions: Decisions, num_left_out: int = 0
) -> None:
    """Write the page.

    Args:
        path: the file to write.
        issues: the images to decide on, each in the data.
        decisions: the data and the decisions so far.
        num_left_out: how many issues the page leaves out, because the data have changed.

    Raises:
        OSError: the page cannot be written, or an image cannot be read.
    """
    text = render(issues, decisions, num_left_out)
    with replaced_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def render(issues: tuple[LabelIssue, ...], decisions: Decisions, num_left_out: int = 0) -> str:
    """Render the page as HTML; see `write_page`."""
    script = resources.files(__package__).joinpath("templates/review_labels.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = template_environment("crossfold.review").get_template("review_labels.html")
    return page.render(
        items=_items(issues, decisions),
        classes=decisions.classes,
        folder=decisions.source.name,
        exclude=decisions.exclude,
        relabel=decisions.relabel,
        kept=_kept(issues, decisions)._asdict(),
        num_left_out=num_left_out,
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def _items(issues: tuple[LabelIssue, ...], decisions: Decisions) -> list[Item]:
    def item(issue: LabelIssue) -> Item:
        path = issue.path
        picture = _picture(decisions.source, path)
        return Item(issue, picture, decisions.class_of[path], decisions.class_now(path))

    return list(in_order(item, issues, num_cores()))


def _picture(source: FolderSource, path: str) -> str:
    try:
        return data_uri(source.read(path), _SIDE)
    except BadImage:
        return ""


def _kept(issues: tuple[LabelIssue, ...], decisions: Decisions) -> Kept:
    listed = {issue.path for issue in issues}
    corrections = decisions.corrections
    return Kept(
        exclude=sorted(corrections.excluded - listed),
        relabel=sorted((p, name) for p, name in corrections.labels.items() if p not in listed),
    )
