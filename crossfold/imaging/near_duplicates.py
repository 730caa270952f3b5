"""Find images that look nearly the same: another size, compression or brightness.

An image is scaled to 32 x 32 grey pixels. Its hash is the pHash of Krawetz ("Looks Like It", The
Hacker Factor Blog, 2011) and Zauner ("Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010): a bit for each of the 63 lowest frequencies of the discrete cosine transform
except the constant one, set if above their median. Two images are near duplicates if at most 8 bits
differ and their 16 x 16 pixels correlate by at least 0.99. The second condition is needed because
63 bits also match for images that look different. Brightness and contrast change neither.

63 bits are 9 pieces of 7. Hashes that differ in at most 8 bits agree in one of the pieces, so only
images that share a piece are compared: Norouzi, Punjani & Fleet, "Fast search in Hamming space with
multi-index hashing", CVPR 2012.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .picture import Picture

MAX_BITS = 8
MIN_CORRELATION = 0.99
MIN_CONTRAST = 4.0  # standard deviation, of 255; below it, images differ by noise only
# Bounds the time for images whose hash many others share.
MAX_COMPARED = 64
_SIDE = 32
_PIXELS = 16 * 16
_NUM_PIECES, _BITS_PER_PIECE = 9, 7
_MAX_NEIGHBOURS = 2000
_BATCH = 1024
_PAIRS_AT_A_TIME = 2**14

_RANGE = np.arange(_SIDE)
_COSINES = np.cos(np.pi * (2 * _RANGE[None] + 1) * _RANGE[:8, None] / (2 * _SIDE)).astype("f4")


class Pairs(NamedTuple):
    """Near duplicates as indices of added images, first < second, sorted; [M] each."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    correlation: NDArray[np.float32]


def shrink(image: Image.Image | Picture) -> Image.Image:
    """Scale an image to 32 x 32 pixels, whatever its shape."""
    enlarged = min(image.size) < _SIDE
    method = Image.Resampling.BILINEAR if enlarged else Image.Resampling.BOX
    return image.resize((_SIDE, _SIDE), method, reducing_gap=2.0)


def is_flat(sketches: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell whether sketches (see `Index.add`), [..., 32, 32], lack contrast to compare."""
    values = sketches.astype(np.float32)
    mean = values.mean((-2, -1))
    flat: NDArray[np.bool_] = (values * values).mean((-2, -1)) - mean * mean < MIN_CONTRAST**2
    return flat


class Index:
    """The images to compare; holds 265 bytes of each."""

    def __init__(self) -> None:
        self._sketches: list[NDArray[np.uint8]] = []
        self._hashes: list[NDArray[np.uint64]] = []
        self._pixels: list[NDArray[np.uint8]] = []
        self._flat: list[NDArray[np.bool_]] = []

    def add(self, sketch: NDArray[np.uint8]) -> None:
        """Add an image by its sketch: its grey pixels after `shrink`, uint8 [32, 32]."""
        self._sketches.append(sketch)
        if len(self._sketches) == _BATCH:
            self._pack()

    def _pack(self) -> None:
        if self._sketches:
            sketches = np.stack(self._sketches)
            self._hashes.append(_hashes(sketches))
            self._flat.append(is_flat(sketches))
            halved = sketches.reshape(-1, 16, 2, 16, 2).mean((2, 4), np.float32)
            self._pixels.append(halved.round().astype(np.uint8).reshape(-1, _PIXELS))
            self._sketches.clear()

    def find(self, among: NDArray[np.int64]) -> Pairs:
        """Find the near duplicates among some of the images; images without contrast have none.

        Misses some pairs of an image whose hash more than MAX_COMPARED others nearly share, which
        bounds the time in a folder where all images look alike.

        Args:
            among: Indices of images, in the order in which they were added, [N].
        """
        self._pack()
        if not self._pixels:
            return _sorted_pairs([], np.zeros(0, np.int64))
        among = np.sort(among)
        among = among[~np.concatenate(self._flat)[among]]
        hashes, pixels = np.concatenate(self._hashes), np.concatenate(self._pixels)
        return _sorted_pairs(_similar(hashes[among], pixels[among]), among)


def _hashes(sketches: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Compute each sketch's hash of 63 bits, uint64 [N]."""
    frequencies = _COSINES @ sketches.astype(np.float32) @ _COSINES.T
    lowest = frequencies.reshape(len(sketches), 64)[:, 1:]
    bits = lowest > np.median(lowest, axis=1, keepdims=True)
    hashes: NDArray[np.uint64] = bits @ (np.uint64(1) << np.arange(63, dtype=np.uint64))
    return hashes


_Found = tuple["NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float32]"]


def _similar(hashes: NDArray[np.uint64], pixels: NDArray[np.uint8]) -> list[_Found]:
    found: list[_Found] = []
    num_compared = np.zeros(len(hashes), np.int64)
    for piece in range(_NUM_PIECES):
        shift, ones = np.uint64(piece * _BITS_PER_PIECE), np.uint64(2**_BITS_PER_PIECE - 1)
        pieces = (hashes >> shift) & ones
        # Sorted so, images that share the piece are neighbours, and equal hashes are adjacent.
        order = np.lexsort((hashes, pieces))
        ordered, pieces = hashes[order], pieces[order]
        largest = int(np.bincount(pieces.astype(np.int64)).max(initial=0))
        for distance in range(1, min(largest, _MAX_NEIGHBOURS)):
            differing = np.bitwise_count(ordered[:-distance] ^ ordered[distance:])
            starts = np.flatnonzero(differing <= MAX_BITS)
            starts = starts[pieces[starts] == pieces[starts + distance]]
            starts = starts[num_compared[order[starts]] < MAX_COMPARED]
            if not len(starts):
                continue
            first, second = order[starts], order[starts + distance]
            num_compared[first] += 1  # each image occurs once in `first`
            found += _alike(first, second, pixels)
    return found


def _alike(
    first: NDArray[np.int64], second: NDArray[np.int64], pixels: NDArray[np.uint8]
) -> list[_Found]:
    """Keep the pairs whose pixels correlate."""
    found = []
    for start in range(0, len(first), _PAIRS_AT_A_TIME):
        ours, theirs = (indices[start : start + _PAIRS_AT_A_TIME] for indices in (first, second))
        correlation = np.einsum("ij,ij->i", _standard(pixels[ours]), _standard(pixels[theirs]))
        alike = correlation >= MIN_CORRELATION
        if alike.any():
            found.append((ours[alike], theirs[alike], correlation[alike]))
    return found


def _standard(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale each row to mean 0 and length 1."""
    centred = pixels - pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    standard: NDArray[np.float32] = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return standard


def _sorted_pairs(found: list[_Found], indices: NDArray[np.int64]) -> Pairs:
    """Sort the pairs and drop repetitions from several pieces."""
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    ours, theirs, correlation = (np.concatenate(c) for c in zip(nothing, *found, strict=True))
    first, second = np.minimum(ours, theirs), np.maximum(ours, theirs)
    _, once = np.unique(first * max(len(indices), 1) + second, return_index=True)
    return Pairs(indices[first[once]], indices[second[once]], correlation[once])
