"""Compare a version's tags with those of its reproduction."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from crossfold import tag_labels

_RESULTS = re.compile(r"weights_hash|split_hash|candidate|num_epochs|(cv|test)_\w+")


@dataclass(frozen=True)
class Row:
    """A recorded value and its reproduction, as text; None if it is missing."""

    name: str
    recorded: str | None
    reproduced: str | None

    @property
    def same(self) -> bool:
        """Tell whether both values are equal to the last digit."""
        return self.recorded == self.reproduced


def compare_results(recorded: Mapping[str, str], reproduced: Mapping[str, str]) -> list[Row]:
    """List the hashes, the choices and the scores of both, hashes first."""
    names = [name for name in recorded if _RESULTS.fullmatch(name)]
    names.sort(key=lambda name: (not name.endswith("hash"), name))
    return [Row(name, recorded[name], reproduced.get(name)) for name in names]


def compare_environments(recorded: Mapping[str, str], reproduced: Mapping[str, str]) -> list[Row]:
    """List differences in the environment that results depend on, besides data and settings."""
    rows = [
        Row(tag.label, recorded.get(tag.name), reproduced.get(tag.name))
        for tag in tag_labels.tags()
        if tag_labels.Place.REPRODUCE in tag.places
    ]
    then, now = (json.loads(tags.get("libraries", "{}")) for tags in (recorded, reproduced))
    if then and now:
        rows += [Row(name, then.get(name), now.get(name)) for name in sorted({*then, *now})]
    image = "image_train"
    rows.append(Row("code and base of the image", recorded.get(image), reproduced.get(image)))
    return [row for row in rows if not row.same]
