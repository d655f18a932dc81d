"""Near-duplicates of images: the same picture encoded anew, resized, or cropped by up to a tenth at each side.

A picture is known by a thumbnail. Its discrete cosine transform tells low from high frequencies, as in perceptual
hashes (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"), but a crop changes all of
it. A crop is a window of the whole, though, and the transform of any window is a product of three small matrices. So
a picture's key, the signs of the lowest frequencies, is looked for among those of 81 windows of every other, also with
its least certain signs turned (multi-probe hashing: Lv et al. 2007). What is found is compared by the correlation of
frequencies, window by window; only that decides.

All sums are of whole numbers below 2**53, which float64 holds exactly: no order of adding changes them.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from beam_jobs.facts import Picture

SIDE = 32  # pixels of a thumbnail, each way
THUMBNAIL = np.dtype(("u1", (SIDE, SIDE)))
_FREQUENCIES = 8  # of each direction
_STEPS = (0.0, 0.05, 0.1)  # what windows leave out at a side, as shares of it
_FINE = 0.025  # by which the best window is moved to find a better one
KEY_BITS = 24  # that must be the same for two pictures to be compared at all
SLACK = 8  # of the other 39, how many may differ; of 600 real pictures that were cropped or encoded anew, 7 did at most
_WEAK_BITS = 4  # that are tried both ways
_UNIT = 1 << 12  # of the whole numbers that stand for cosines
_SCALE = float(1 << 27)  # a grey level is 128 then
_LEAST_DETAIL = (
    2 * 128
)  # of all frequencies together: a picture with less is flat, and no duplicate of anything
_CLOSE = 0.75  # the correlation from which on it is worth while to look for a better window
_CHUNK = 512  # pictures or pairs whose windows are computed together: 20 MB

Thumbnails = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def thumbnail(picture: Picture) -> Thumbnails:
    """The picture's luma in 32 × 32 pixels, whatever its shape; uint8."""
    # Pillow's box filter computes with whole numbers.
    small = Image.fromarray(picture.luma).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def window_keys(thumbnails: Thumbnails) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """What pictures are filed under, and what each is looked for by.

    Args:
      thumbnails: uint8 (n, 32, 32).

    Returns:
      uint64 (n, 81), of every window, and uint64 (n, 16), of the whole: the signs of all frequencies, the lowest first.
      Flat pictures have `NO_KEY` throughout.
    """
    filed, asked = [np.zeros((0, len(_sides()) ** 2), np.uint64)], [np.zeros((0, 1 << _WEAK_BITS), np.uint64)]
    for start in range(0, len(thumbnails), _CHUNK):
        found = _coefficients(thumbnails[start : start + _CHUNK])
        found = found[..., _lowest_first()]
        bits = np.uint64(1) << np.arange(found.shape[-1], dtype=np.uint64)
        keys = ((found > 0) * bits).sum(-1, dtype=np.uint64)
        whole = found[:, 0, :KEY_BITS]
        weak = np.argsort(np.abs(whole), axis=1, kind="stable")[:, :_WEAK_BITS]
        turned = np.zeros((len(found), 1), np.uint64)
        for place in range(_WEAK_BITS):
            turned = np.concatenate([turned, turned | bits[weak[:, place : place + 1]]], axis=1)
        flat = _is_flat(found[:, 0])
        for each, into in ((keys, filed), (keys[:, :1] ^ turned, asked)):
            each[flat] = NO_KEY
            into.append(each)
    return np.concatenate(filed), np.concatenate(asked)


NO_KEY = np.uint64(2**64 - 1)


def distances(some: Thumbnails, others: Thumbnails) -> Floats:
    """How far each of `some` is from the picture of `others` beside it, float64 (n,): 0 the same, 1 unrelated.

    One less the best correlation of one's frequencies, from the second on and weighted by their number, with those of
    a window of the other, either way round; above 0.25 only windows of steps of 5 % are tried. 2 where one is flat.
    """
    found = [np.zeros(0)]
    for start in range(0, len(some), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        best = np.maximum(_likeness(some[chunk], others[chunk]), _likeness(others[chunk], some[chunk]))
        found.append(1 - best)
    return np.concatenate(found)


def _likeness(pictures: Thumbnails, larger: Thumbnails) -> Floats:
    """The best correlation of each picture with a window of the one beside it, float64 (n,)."""
    whole = _coefficients(pictures, ((0.0, 0.0),))[:, 0]
    windows = _coefficients(larger)
    found = _correlation(whole, windows)
    likeness, best = found.max(axis=1), found.argmax(axis=1)
    close = np.flatnonzero(likeness >= _CLOSE)
    sides = np.array(_sides())
    rows, columns = sides[best[close] // len(sides)], sides[best[close] % len(sides)]
    fine = _correlation(whole[close], _around(larger[close], rows, columns))
    likeness[close] = np.maximum(likeness[close], fine.max(axis=1))
    return np.where(_is_flat(whole) | _is_flat(windows[:, 0]), -1.0, likeness)


def _is_flat(whole: Floats) -> npt.NDArray[np.bool_]:
    """Which pictures, of such frequencies, show nothing that could be compared, bool (n,)."""
    result: npt.NDArray[np.bool_] = (whole**2).sum(-1) < _LEAST_DETAIL**2
    return result


def _correlation(whole: Floats, windows: Floats) -> Floats:
    """Of pictures (n, 63) with windows (n, k, 63), float64 (n, k).

    The sums are of whole numbers, and each of the three steps that follow is rounded the same everywhere.
    """
    whole, windows = whole * _weights(), windows * _weights()
    sizes = np.einsum("nf,nf->n", whole, whole)[:, None] * np.einsum("nkf,nkf->nk", windows, windows)
    result: Floats = np.matmul(windows, whole[:, :, None])[..., 0] / np.sqrt(np.maximum(sizes, 1))
    return result


def _coefficients(thumbnails: Thumbnails, sides: tuple[tuple[float, float], ...] | None = None) -> Floats:
    """The frequencies of windows, whole numbers (n, windows, 63): all but the mean."""
    waves = _waves(_sides() if sides is None else sides)
    count, flat = len(waves), waves.reshape(-1, SIDE)
    found = np.matmul(np.matmul(flat, thumbnails.astype(np.float64)), flat.T)
    found = found.reshape(-1, count, _FREQUENCIES, count, _FREQUENCIES).transpose(0, 1, 3, 2, 4)
    return _whole(found.reshape(len(thumbnails), count * count, _FREQUENCIES**2))


def _around(thumbnails: Thumbnails, rows: Floats, columns: Floats) -> Floats:
    """The frequencies of the 81 windows close to that of each picture, whole numbers (n, 81, 63)."""
    moves = np.array(list(itertools.product((-_FINE, 0.0, _FINE), repeat=2)))
    fine = _fine_sides()
    waves = _waves(tuple(fine))
    pick = []
    for sides in (rows, columns):
        near = np.rint(np.maximum(sides[:, None] + moves, 0) / _FINE).astype(np.int64)
        pick.append(
            waves[near[..., 0] * _fine_count() + near[..., 1]].reshape(
                len(sides), len(moves) * _FREQUENCIES, SIDE
            )
        )
    found = np.matmul(np.matmul(pick[0], thumbnails.astype(np.float64)), pick[1].transpose(0, 2, 1))
    shape = (len(thumbnails), len(moves), _FREQUENCIES, len(moves), _FREQUENCIES)
    found = found.reshape(shape).transpose(0, 1, 3, 2, 4)
    return _whole(found.reshape(len(thumbnails), len(moves) ** 2, _FREQUENCIES**2))


def _whole(found: Floats) -> Floats:
    result: Floats = np.rint(found[..., 1:] / _SCALE)
    return result


def _sides() -> tuple[tuple[float, float], ...]:
    """What the windows leave out at the two sides of one direction; the whole comes first."""
    return tuple(itertools.product(_STEPS, _STEPS))


def _fine_count() -> int:
    return round(_STEPS[-1] / _FINE) + 2


def _fine_sides() -> list[tuple[float, float]]:
    steps = [place * _FINE for place in range(_fine_count())]
    return list(itertools.product(steps, steps))


@cache
def _waves(sides: tuple[tuple[float, float], ...]) -> Floats:
    """For each window of one direction its cosines, summed over each pixel; whole numbers (windows, 8, 32)."""
    waves = np.zeros((len(sides), _FREQUENCIES, SIDE))
    pixels = np.arange(SIDE)
    for place, (first, last) in enumerate(sides):
        low, high = first * SIDE, SIDE - last * SIDE
        begin, end = np.clip(pixels, low, high), np.clip(pixels + 1, low, high)
        waves[place, 0] = (end - begin) / (high - low)
        for k in range(1, _FREQUENCIES):
            turn = np.pi * k / (high - low)
            waves[place, k] = (
                np.sqrt(2) * (np.sin(turn * (end - low)) - np.sin(turn * (begin - low))) / (np.pi * k)
            )
    waves = np.rint(waves * SIDE * _UNIT)
    waves.setflags(write=False)
    return waves


@cache
def _orders() -> npt.NDArray[Any]:
    """The two numbers of each frequency but the mean, (63, 2)."""
    return np.array(list(itertools.product(range(_FREQUENCIES), repeat=2)))[1:]


@cache
def _weights() -> Floats:
    return _orders().sum(axis=1).astype(np.float64)


@cache
def _lowest_first() -> npt.NDArray[np.int64]:
    """The order of the frequencies in a key."""
    orders = _orders()
    return np.lexsort((orders[:, 0], orders.max(axis=1), orders.sum(axis=1)))
