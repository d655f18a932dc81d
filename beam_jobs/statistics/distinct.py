"""How many different values there are: the smallest hashes, as many as fit.

The k smallest of the values' 64-bit hashes are kept. As long as there are fewer they are counted; then the k-th
smallest tells how densely hashes lie: (k - 1) / U_k, with a relative standard error of 1 / sqrt(k - 2), which is 1.6 %.
Bar-Yossef et al. 2002; Beyer et al. 2007. Unlike HyperLogLog, of the same error, it is exact while there are few
values, and needs no scattered writes. What it holds depends on the set of values only, not on order or grouping.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 4096  # hashes kept
ERROR = 0.016
_MOST_WAITING = 1 << 15  # hashes that are held before they are sorted
_ENOUGH = 2 * MOST  # of many hashes the smallest are sorted; unless they repeat, that is enough

Hashes = npt.NDArray[np.uint64]
_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mixed(words: Hashes) -> Hashes:
    """A bijection of uint64 (n,) to hashes: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    found = words + np.uint64(_FACTORS[0])
    for shift, factor in ((30, _FACTORS[1]), (27, _FACTORS[2])):
        found ^= found >> np.uint64(shift)
        found *= np.uint64(factor)
    found ^= found >> np.uint64(31)
    return found


def number_hashes(values: npt.NDArray[Any]) -> Hashes:
    """A hash of each int64 or float32, uint64 (n,), by its bits: -0 is another number than 0."""
    if values.dtype == np.float32:
        return mixed(values.view(np.uint32).astype(np.uint64))
    return mixed(values.view(np.uint64))


class DistinctCount:
    """The smallest distinct hashes added so far."""

    def __init__(self, smallest: Hashes | None = None) -> None:
        self._kept = np.zeros(0, np.uint64) if smallest is None else smallest
        self._waiting: list[Hashes] = []
        self._waits = 0

    def add(self, hashes: Hashes) -> None:
        """Adds uint64 (n,)."""
        if len(self._kept) == MOST:
            hashes = hashes[hashes < self._kept[-1]]
        if len(hashes):
            self._waiting.append(hashes)
            self._waits += len(hashes)
            if self._waits >= _MOST_WAITING:
                self._settle()

    @property
    def smallest(self) -> Hashes:
        """At most `MOST` hashes, ascending."""
        self._settle()
        return self._kept

    @property
    def estimate(self) -> tuple[int, float]:
        """How many different values, and the relative standard error: 0 where the number is exact."""
        kept = self.smallest
        if len(kept) < MOST:
            return len(kept), 0.0
        return (MOST - 1) * 2**64 // int(kept[-1]), ERROR

    def _settle(self) -> None:
        if self._waiting:
            every = np.concatenate([self._kept, *self._waiting])
            few = every if len(every) <= _ENOUGH else np.partition(every, _ENOUGH)[:_ENOUGH]
            self._kept = _smallest(few)
            if len(self._kept) < MOST and len(few) < len(every):  # most of them are the same
                self._kept = _smallest(every)
            self._waiting, self._waits = [], 0


def _smallest(hashes: Hashes) -> Hashes:
    # Sorted, as np.unique of whole numbers is by a table of hashes, which is slower here.
    ordered = np.sort(hashes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])][:MOST]
