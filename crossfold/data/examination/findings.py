"""Findings about the images, in the same words on every page and in every log.

`check-data`, the data page and the report of a run take their facts and sentences from here.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from crossfold.imaging.quality import KINDS


class PairCounts(NamedTuple):
    """Counts of near duplicates; 0 across splits before the splits are made."""

    pairs: int = 0
    images: int = 0  # in one of the pairs
    other_class: int = 0  # pairs in two classes
    leaks: int = 0  # pairs of a test image and a training image
    leaked: int = 0  # test images in such a pair
    folds: int = 0  # pairs in two folds


class GroupFacts(BaseModel):
    """The groups that no split divides, joined where copies or near duplicates connect them."""

    model_config = ConfigDict(frozen=True)

    rule: str  # how they were found, in words; empty if only near duplicates are tied
    named: int  # before they were joined
    number: int
    largest: str  # its name, or its first image
    largest_size: int  # images
    tied: bool  # True if near duplicates are tied


class Pair(BaseModel):
    """Two images that look nearly the same."""

    model_config = ConfigDict(frozen=True)

    paths: tuple[str, str]
    correlation: float
    other_class: bool
    places: tuple[str, ...]  # of both, "test" or "fold 3"; none before there are splits

    @property
    def divided(self) -> bool:
        """Tell whether the pair is on two sides of the holdout or of a fold."""
        return len(set(self.places)) > 1

    def __str__(self) -> str:
        words = "In two classes; " if self.other_class else ""
        if self.divided:
            words += f"one in {self.places[0]}, the other in {self.places[1]}"
        elif self.places:
            words += f"both in {self.places[0]}"
        return words.removesuffix("; ")


class DataFacts(BaseModel):
    """Facts about the images for training and testing."""

    model_config = ConfigDict(frozen=True)

    num_images: int = 0
    num_test: int = 0
    usage: tuple[str, ...] = ()  # what was recognised and how it is used
    notes: tuple[str, ...] = ()  # on the layout of the folder
    remarks: dict[str, int] = {}  # kind -> number of images; see `quality.KINDS`
    num_copies: int = 0  # images whose pixels another image before them has
    groups: GroupFacts | None = None
    pair_counts: PairCounts = PairCounts()
    leaked: tuple[str, ...] = ()  # paths of test images that look like a training image
    leaks: tuple[Pair, ...] = ()  # some of their pairs, the most similar first

    def lines(self) -> list[str]:
        """Format each fact as a line."""
        lines = [*self.usage, *self.notes]
        lines += [
            f"{KINDS[kind].title}: {number} of {self.num_images} images"
            for kind, number in self.remarks.items()
        ]
        if self.num_copies:
            lines.append(copies(self.num_copies))
        lines += groups(self.groups, self.num_images)
        return lines + near_duplicates(self.pair_counts, self.num_test)


def copies(number: int) -> str:
    """Describe the number of copies in a sentence."""
    return f"copies of other images, kept together in every split: {number}"


def groups(facts: GroupFacts | None, num_images: int) -> list[str]:
    """Describe the groups in sentences; none without groups."""
    if facts is None:
        return []
    lines = []
    size = f"{facts.largest_size} of {num_images} images ({facts.largest_size / num_images:.1%})"
    if facts.rule:
        ties = "copies or near duplicates" if facts.tied else "copies"
        joined = f" ({facts.named} before {ties} joined some)" if facts.named > facts.number else ""
        lines.append(
            f"groups {facts.rule}, kept together in every split: {facts.number}{joined}. The "
            f"largest, {facts.largest}, has {size}"
        )
    if facts.tied:
        largest = "" if facts.rule else f". The largest set, {facts.largest}, has {size}"
        lines.append(f"near duplicates are kept together in every split{largest}")
    return lines


def near_duplicates(counts: PairCounts, num_test: int) -> list[str]:
    """Describe the near duplicates, and their possible effect on the scores, in sentences.

    `num_test` is the number of test images, 0 before there are splits.
    """
    if not counts.pairs:
        return []
    lines = [
        f"near duplicates: {_pairs(counts.pairs)} of images look nearly the same. Some may show "
        "different things: check them"
    ]
    if counts.leaks:
        lines.append(
            f"near duplicates between the test split and training: {_pairs(counts.leaks)}, "
            f"{counts.leaked} of {num_test} test images. If they show the same thing, the test "
            "score may be too good"
        )
    elif num_test:
        lines.append("near duplicates between the test split and training: none")
    if counts.folds:
        lines.append(
            f"near duplicates between two folds: {_pairs(counts.folds)}. The scores of "
            "cross-validation may be too good"
        )
    if counts.other_class:
        lines.append(
            f"near duplicates between two classes: {_pairs(counts.other_class)}. "
            "One of the labels may be wrong"
        )
    return lines


def _pairs(number: int) -> str:
    return f"{number} pair{'' if number == 1 else 's'}"
