"""Hashes and lengths of many texts or bytes at once: words of eight bytes, side by side."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from beam_jobs.statistics.canonical import Places, Spans, take
from beam_jobs.statistics.distinct import Hashes, mixed

_STEPS = (16, 64, 256)  # widths that are looked at together; texts over the last are hashed one by one
_HIGH = np.uint64(0x8080808080808080)
_FACTOR = np.uint64(0xFF51AFD7ED558CCD)
# Which bytes of a little-endian word count, where 0 to 8 of them do.
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


def hashes_and_characters(spans: Spans, characters: bool) -> tuple[Hashes, Places]:
    """A 64-bit hash of each value, and of UTF-8 texts the characters: uint64 (n,), int64 (n,).

    The hash of a value depends on nothing but its bytes.
    """
    if len(spans.sizes) and int(spans.sizes.max()) <= _STEPS[0]:
        hashes, beyond = _of_words(spans, characters)
        return hashes, spans.sizes - beyond
    hashes = np.zeros(len(spans.sizes), np.uint64)
    count = spans.sizes.copy()
    least = -1
    for width in _STEPS:
        rows = np.flatnonzero((spans.sizes > least) & (spans.sizes <= width))
        least = width
        if len(rows):
            every = len(rows) == len(hashes)
            part = spans if every else Spans(spans.data, spans.starts[rows], spans.sizes[rows])
            hashes[rows], beyond = _of_words(part, characters)
            count[rows] -= beyond
    for row in np.flatnonzero(spans.sizes > least).tolist():
        value = spans.data[spans.starts[row] : spans.starts[row] + spans.sizes[row]]
        hashes[row] = int.from_bytes(hashlib.blake2b(value.data, digest_size=8).digest(), "little")
        if characters:
            count[row] = np.count_nonzero((value & 0xC0) != 0x80)
    return hashes, count


def _of_words(spans: Spans, characters: bool) -> tuple[Hashes, npt.NDArray[np.int64] | int]:
    """Hashes, and how many bytes continue a character."""
    widest, least = int(spans.sizes.max()), int(spans.sizes.min())
    words = -(-max(widest, 1) // 8)
    table = take(spans, 8 * words).view("<u8") if spans.words is None else spans.words
    table = np.ascontiguousarray(table.T)
    found = spans.sizes.astype(np.uint64) * _FACTOR
    beyond: npt.NDArray[np.int64] | int = 0
    for place in range(words):
        word = table[place]
        if least < 8 * place + 8:  # else all have all of it
            left = spans.sizes - 8 * place
            word = word & (
                _MASKS[np.clip(left, 0, 8)] if least < widest else _MASKS[max(widest - 8 * place, 0)]
            )
        step = (found ^ word) * _FACTOR
        step ^= step >> np.uint64(32)
        found = step if least > 8 * place or not place else np.where(left > 0, step, found)
        if characters and bool(np.bitwise_or.reduce(word) & _HIGH):
            beyond = beyond + np.bitwise_count(word & ~(word << np.uint64(1)) & _HIGH).astype(np.int64)
    return mixed(found), beyond
