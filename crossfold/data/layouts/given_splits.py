"""Recognise the names of splits that people give their images, and say how they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .listing import Listing

# In small letters.
_TRAINING = ("train", "training")
_VALIDATION = ("val", "valid", "validation", "dev", "eval")
_TEST = ("test", "testing", "holdout")
NAMES = (*_TRAINING, *_VALIDATION, *_TEST)


def is_split(name: str) -> bool:
    """Recognise the name of a split, in whatever case."""
    return name.lower() in NAMES


def is_test(name: str) -> bool:
    """Recognise the name of a test split, in whatever case."""
    return name.lower() in _TEST


def has_split_folders(listing: Listing) -> bool:
    """Recognise `train/<class>/…`: each top folder is named like a split, and classes lie below."""
    return all(map(is_split, listing.folders)) and any(
        path.count("/") > 1 for path in listing.files
    )


def test_share(listing: Listing) -> float | None:
    """Compute the share of the files that lie in folders of a test split; None without one."""
    if not has_split_folders(listing):
        return None
    num_test = sum(is_test(path.partition("/")[0]) for path in listing.files)
    return num_test / len(listing.files) if num_test else None


def describe_use(splits: Sequence[str], unit: str) -> str:
    """Describe how splits are used, in a sentence.

    Args:
        splits: the splits as messages have them, such as `data/train`.
        unit: what each of them is, such as `folder`.
    """
    tested = [split for split in splits if is_test(split.rpartition("/")[2])]
    pooled = [split for split in splits if split not in tested]
    words = []
    if pooled:
        verb = "is used for training" if len(pooled) == 1 else "are pooled"
        words.append(f"{_joined(pooled)} {verb}: cross-validation makes its own folds")
    if tested:
        verb = "is" if len(tested) == 1 else "are"
        words.append(f"{_joined(tested)} {verb} the test split (data.test_fraction is not used)")
    elif pooled:
        words.append(
            f"no {unit} is a test split, so data.test_fraction of each class is held out as usual"
        )
    return "; ".join(words)


def _joined(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
