"""Who meets whom: what has a key in common, found by sorting, in bounded memory. And clusters of what belongs together.

Keys may be hostile, or simply all alike: a bucket of any size is compared with its first few members only, so that
the work grows as the number of keys does, never as its square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import numpy.typing as npt

from beam_jobs.files import scratch_file

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Pairs = tuple[Numbers, Numbers]

_ENTRY = np.dtype([("key", "<u8"), ("number", "<i8"), ("asks", "?")])
_PART_ENTRIES = 4_000_000  # sorted at a time, 17 bytes each, and a few times that while they are
_MOST_PARTS = 512  # files that are open
_LEADERS = 1024  # of a bucket, that every member is compared with


class Buckets:
    """Keys of numbered things, in temporary files by ranges of a hash of the key."""

    def __init__(self, expected: int, *, bits: int = 64, slack: int = 0) -> None:
        """Of about `expected` keys. Two meet if their lowest `bits` are the same, and all but `slack` of the others."""
        self._mask, self._slack = np.uint64(2**bits - 1), slack
        parts = min(_MOST_PARTS, 1 + expected // _PART_ENTRIES)
        self._files = [scratch_file() for _ in range(parts)]

    def add(self, keys: Keys, numbers: Numbers, *, asks: bool | None = None) -> None:
        """Files things under their keys. Those that ask are compared with those that do not; with None all with all."""
        entries = np.zeros(len(keys), _ENTRY)
        entries["key"], entries["number"], entries["asks"] = keys, numbers, bool(asks)
        parts = (mixed(keys & self._mask) >> np.uint64(32)) % np.uint64(len(self._files))
        for part in np.unique(parts).tolist():
            self._files[part].write(entries[parts == part].tobytes())

    def pairs(self, *, among_all: bool) -> Iterator[Pairs]:
        """Pairs of different things with a key in common, a few million at a time, first those of every bucket's first.

        With `among_all`, all are compared with all; else those that ask with those that do not.
        """
        for file in self._files:
            file.seek(0)
            entries = np.frombuffer(file.read(), _ENTRY)
            order = np.lexsort((entries["number"], entries["asks"], entries["key"] & self._mask))
            yield from self._rounds(entries[order], among_all)

    def _rounds(self, entries: npt.NDArray[np.void], among_all: bool) -> Iterator[Pairs]:
        keys, numbers = np.ascontiguousarray(entries["key"]), np.ascontiguousarray(entries["number"])
        buckets = keys & self._mask
        begins = np.ones(len(keys), np.bool_)
        begins[1:] = buckets[1:] != buckets[:-1]
        starts, bucket = np.flatnonzero(begins), np.cumsum(begins) - 1
        # Those that do not ask come first in their bucket.
        led = np.ones(len(keys), np.int64) if among_all else (~entries["asks"]).astype(np.int64)
        leaders = np.add.reduceat(led, starts)[bucket] if len(keys) else led
        first = starts[bucket]
        asking = np.arange(len(keys)) if among_all else np.flatnonzero(entries["asks"])
        for step in range(_LEADERS):
            asking = asking[leaders[asking] > step]
            if not len(asking):
                return
            asked = first[asking] + step
            near = np.bitwise_count((keys[asking] ^ keys[asked]) & ~self._mask) <= self._slack
            some, others = numbers[asking[near]], numbers[asked[near]]
            # As one number each, which is sorted ten times as fast; there are less than 2**31 things.
            both = np.minimum(some, others) << 32 | np.maximum(some, others)
            both = np.unique(both[some != others])
            yield both >> 32, both & (2**32 - 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()


def mixed(keys: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of a key on every bit, uint64 (n,)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(31))


class Clusters:
    """What belongs together of n things, by union-find; the root of each cluster is its smallest number."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def roots(self, numbers: Numbers) -> Numbers:
        """The root of each one's cluster, int64 (n,)."""
        found = self._parent[numbers]
        while True:
            further = self._parent[found]
            if np.array_equal(further, found):
                break
            found = further
        self._parent[numbers] = found
        return found

    def apart(self, pairs: Pairs) -> Pairs:
        """Those pairs whose members are not in one cluster yet."""
        some, others = pairs
        new = self.roots(some) != self.roots(others)
        return some[new], others[new]

    def join(self, pairs: Pairs) -> None:
        """Puts both members of each pair into one cluster."""
        parent = self._parent
        for pair in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
            some, other = (self._root(each) for each in pair)
            parent[max(some, other)] = min(some, other)

    def _root(self, number: int) -> int:
        parent = self._parent
        while (above := int(parent[number])) != number:
            parent[number] = parent[above]
            number = above
        return number


def link(
    clusters: Clusters,
    found: Iterator[Pairs],
    are_alike: Callable[[Numbers, Numbers], npt.NDArray[np.bool_]],
) -> None:
    """Joins what is alike of the pairs that meet; those that are together already are not compared again."""
    for pairs in found:
        some, others = clusters.apart(pairs)
        if len(some):
            alike = are_alike(some, others)
            clusters.join((some[alike], others[alike]))
