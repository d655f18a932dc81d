"""Near-duplicates of texts: MinHash (Broder 1997) over shingles of words or characters, found by banding.

A text is the set of its shingles: every few words, or characters, that follow each other. The share of equal minima
of many hashes of two sets estimates their Jaccard similarity, with a standard error of at most 0.05 for 128 hashes.
All is whole numbers modulo 2**64, so nothing is rounded.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.blocks import offsets_of
from beam_jobs.duplicates.buckets import Keys, mixed

HASHES = 128
SIGNATURE = np.dtype(("<u4", (HASHES,)))
_BASE = np.uint64(0x9E3779B97F4A7C15)
_RECALL = 0.99  # of pairs that are as similar as is asked for, by their bands alone
_TEXTS_AT_ONCE = 1 << 20  # characters whose shingles are hashed together

Shingle = Literal["words", "characters"]
Offsets = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]


def signatures(texts: pa.LargeBinaryArray, shingle: Shingle, size: int) -> Signatures:
    """The minima of `HASHES` hashes of every text's shingles, uint32 (n, 128).

    Letters and digits count, in lower case; all else only parts words. A text with fewer words (or characters) than a
    shingle has one shingle of all of them; one without any has `EMPTY` throughout, and is no duplicate of anything.
    """
    lower = pc.utf8_lower(texts.cast(pa.large_string()))
    found = np.full((len(texts), HASHES), EMPTY, np.uint32)
    lengths = pc.binary_length(lower).to_numpy(zero_copy_only=False)
    ends, start = np.cumsum(lengths), 0
    while start < len(texts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _TEXTS_AT_ONCE, side="right")))
        found[start:stop] = _minima(*_shingles(lower.slice(start, stop - start), shingle, size))
        start = stop
    return found


EMPTY = np.uint32(2**32 - 1)


def band_keys(found: Signatures, similarity: float) -> Keys:
    """What texts are filed under, uint64 (n, bands): those as similar as `similarity` nearly always share one."""
    bands, rows = bands_for(similarity)
    keys = np.zeros((len(found), bands), np.uint64)
    for band in range(bands):
        key = np.full(len(found), band, np.uint64)
        for row in range(rows):
            key = mixed(key * _BASE + found[:, band * rows + row])
        keys[:, band] = key
    return keys


@cache
def bands_for(similarity: float) -> tuple[int, int]:
    """The number of bands, and of hashes in each: as many hashes as still find 99 % of the pairs."""
    for rows in range(HASHES, 1, -1):
        bands = HASHES // rows
        if 1 - (1 - similarity**rows) ** bands >= _RECALL:
            return bands, rows
    return HASHES, 1


def equal_minima(some: Signatures, others: Signatures) -> npt.NDArray[np.int64]:
    """How many of the minima of each text and the one beside it are the same, int64 (n,): similarity × 128."""
    result: npt.NDArray[np.int64] = (some == others).sum(axis=1)
    return result


def _shingles(lower: pa.LargeStringArray, shingle: Shingle, size: int) -> tuple[Keys, Offsets]:
    """The hashes of the shingles of all texts, one text after the other, and where each text's begin (n + 1,)."""
    codes, starts = _characters(lower)
    kept = _is_word(codes)
    begins, before = _begins(kept, starts)
    if shingle == "words":
        return _joined(_words(codes, kept, begins), before[starts], size)
    # One space between words, whatever lies there, so that layout does not matter.
    later = np.ones(len(begins), np.bool_)
    firsts = before[starts[:-1]]
    later[firsts[firsts < len(begins)]] = False
    chosen = kept.copy()
    chosen[begins[later] - 1] = True
    codes = np.where(kept, codes, 32)[chosen]
    return _joined(
        mixed(codes.astype(np.uint64) + _BASE), np.concatenate([[0], np.cumsum(chosen)])[starts], size
    )


def _characters(texts: pa.LargeStringArray) -> tuple[npt.NDArray[np.uint32], Offsets]:
    """The code points of all texts, and where each text's begin (n + 1,)."""
    offsets = offsets_of(texts)
    data = bytes(memoryview(texts.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])])
    codes = np.frombuffer(data.decode("utf-8").encode("utf-32-le"), "<u4")
    # A character begins at each byte that does not continue one.
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    before = np.concatenate([[0], np.cumsum(begins)])
    return codes, before[offsets - offsets[0]]


def _is_word(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Which characters are letters, marks or digits, bool (n,)."""
    known, inverse = np.unique(codes, return_inverse=True)
    good = [unicodedata.category(chr(code))[0] in "LMN" for code in known.tolist()]
    result: npt.NDArray[np.bool_] = np.array(good, np.bool_)[inverse]
    return result


def _begins(kept: npt.NDArray[np.bool_], starts: Offsets) -> tuple[Offsets, Offsets]:
    """Where each word begins, and how many have begun before each character (n + 1,)."""
    first = kept.copy()
    first[1:] &= ~kept[:-1]
    texts = starts[:-1][starts[:-1] < len(kept)]
    first[texts] = kept[texts]
    return np.flatnonzero(first), np.concatenate([[0], np.cumsum(first)])


def _words(codes: npt.NDArray[np.uint32], kept: npt.NDArray[np.bool_], begins: Offsets) -> Keys:
    """The hash of each word: of the sum of what each character at its place gives."""
    word = np.searchsorted(begins, np.arange(len(codes)), side="right") - 1
    place = np.arange(len(codes)) - begins[np.maximum(word, 0)] if len(begins) else word
    shares = mixed(codes.astype(np.uint64) * _BASE + place.astype(np.uint64))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(np.where(kept, shares, 0), dtype=np.uint64)])
    return mixed(sums[np.append(begins[1:], len(codes))[: len(begins)]] - sums[begins])


def _joined(parts: Keys, starts: Offsets, size: int) -> tuple[Keys, Offsets]:
    """The hashes of `size` parts that follow each other within a text; of all of a text's parts where it has fewer."""
    counts = np.diff(starts)
    shingles = np.where(counts >= size, counts - size + 1, np.minimum(counts, 1))
    offsets = np.concatenate([[0], np.cumsum(shingles)])
    text = np.repeat(np.arange(len(counts)), shingles)
    begin = starts[text] + np.arange(len(text)) - offsets[text]
    hashes = np.zeros(len(text), np.uint64)
    for place in range(size):
        inside = place < counts[text]
        part = parts[np.minimum(begin + place, max(len(parts) - 1, 0))] if len(parts) else hashes
        hashes = np.where(inside, mixed(hashes * _BASE + part), hashes)
    return hashes, offsets


def _minima(shingles: Keys, offsets: Offsets) -> Signatures:
    """The smallest of each hash of the shingles of each text, uint32 (n, 128)."""
    found = np.full((len(offsets) - 1, HASHES), EMPTY, np.uint32)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        for place, (factor, shift) in enumerate(_hashes()):
            values = ((shingles * factor + shift) >> np.uint64(32)).astype(np.uint32)
            found[filled, place] = np.minimum.reduceat(values, offsets[filled])
    return found


@cache
def _hashes() -> list[tuple[np.uint64, np.uint64]]:
    """Factors, which are odd, and shifts of multiply-shift hashing (Dietzfelbinger et al. 1997)."""
    drawn = mixed(np.arange(1, 2 * HASHES + 1, dtype=np.uint64) * _BASE)
    return list(zip(drawn[::2] | np.uint64(1), drawn[1::2], strict=True))
