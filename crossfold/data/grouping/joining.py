"""Join images that belong together, however long the chain between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence


def join_images(
    keys: Iterable[Sequence[Hashable]], pairs: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """Number the joined groups, from 0, in the order of their first images.

    Two images are joined if some key gives both the same value, if they are a pair, or if a chain
    of such images connects them: a disjoint-set forest (Galler & Fischer, "An improved equivalence
    algorithm", Communications of the ACM 7, 1964).

    Args:
        keys: Values of every image, such as its group and its content, [K][N].
        pairs: Pairs of images.
    """
    columns = list(keys)
    parents = list(range(len(columns[0])))

    def root_of(image: int) -> int:
        while parents[image] != image:
            parents[image] = parents[parents[image]]
            image = parents[image]
        return image

    def join(first: int, second: int) -> None:
        roots = root_of(first), root_of(second)
        parents[max(roots)] = min(roots)

    for column in columns:
        first_of: dict[Hashable, int] = {}
        for image, value in enumerate(column):
            join(image, first_of.setdefault(value, image))
    for first, second in pairs:
        join(first, second)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root_of(image), len(numbers)) for image in range(len(parents))]
