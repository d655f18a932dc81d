"""The most frequent values: exact counts of up to 4,096 values, then those that stay with the largest counts.

Where there are more values, the count of the first that does not fit is taken from all, and what has none left
goes: a count is then too small by at most the sum of what was taken, which is N / 4097 at most. Misra and Gries 1982;
merging as in Agarwal et al. 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

MOST = 4096  # values kept

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


class TopValues:
    """Values by 64-bit keys, and how often each was added, at least.

    Attributes:
      keys, counts: ascending keys, uint64 (n,) and int64 (n,).
      error: how much larger a true count may be.
      texts: what each key stands for, where the keys are hashes.
    """

    def __init__(
        self,
        keys: Keys | None = None,
        counts: Counts | None = None,
        error: int = 0,
        texts: Mapping[int, bytes] | None = None,
    ) -> None:
        self.keys = np.zeros(0, np.uint64) if keys is None else keys
        self.counts = np.zeros(0, np.int64) if counts is None else counts
        self.error = error
        self.texts = dict(texts or {})

    def add(
        self, keys: Keys, counts: Counts, text_of: Callable[[int], bytes] | None = None, error: int = 0
    ) -> None:
        """Adds distinct, ascending keys with their counts.

        Args:
          keys, counts: uint64 (n,), int64 (n,).
          text_of: what the n-th key stands for; asked for those that are kept only.
          error: how much larger their counts may be.
        """
        self.error += error
        if not len(keys):
            return
        if np.array_equal(keys, self.keys):  # as often where there are few
            self.counts = self.counts + counts
            return
        places = np.searchsorted(keys, self.keys)
        found = places < len(keys)
        found[found] = keys[places[found]] == self.keys[found]
        self.counts[found] += counts[places[found]]
        fresh = np.ones(len(keys), np.bool_)
        fresh[places[found]] = False
        new = np.flatnonzero(fresh)
        every = np.concatenate([self.keys, keys[new]])
        sums = np.concatenate([self.counts, counts[new]])
        origins = np.concatenate([np.full(len(self.keys), -1), new])
        if len(every) > MOST:
            taken = int(np.partition(sums, len(sums) - MOST - 1)[len(sums) - MOST - 1])
            self.error += taken
            left = sums > taken
            every, sums, origins = every[left], sums[left] - taken, origins[left]
        order = np.argsort(every, kind="stable")
        self.keys, self.counts, origins = every[order], sums[order], origins[order]
        if text_of is not None:
            known = zip(self.keys.tolist(), origins.tolist(), strict=True)
            self.texts = {key: self.texts[key] if at < 0 else text_of(at) for key, at in known}

    def merge(self, other: TopValues) -> None:
        """Adds the values of `other`."""
        keys = other.keys.tolist()
        self.add(
            other.keys,
            other.counts,
            (lambda place: other.texts[keys[place]]) if other.texts else None,
            other.error,
        )


def counted(keys: Keys) -> tuple[Keys, Counts]:
    """The distinct keys, ascending, and how often each occurs."""
    ordered = np.sort(keys)
    firsts = _firsts(ordered)
    return ordered[firsts], np.diff(firsts, append=len(keys)).astype(np.int64)


def first_places(keys: Keys) -> npt.NDArray[np.int64]:
    """Where each distinct key is first, in the order of the keys; there must be one."""
    order = np.argsort(keys)
    return np.minimum.reduceat(order, _firsts(keys[order]))  # those of equal keys are in any order


def _firsts(ordered: Keys) -> npt.NDArray[np.int64]:
    return np.flatnonzero(
        np.concatenate([np.ones(min(1, len(ordered)), np.bool_), ordered[1:] != ordered[:-1]])
    )
