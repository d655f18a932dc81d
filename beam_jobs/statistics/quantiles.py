"""Quantiles of any number of values in bounded memory, with an error that is known for certain.

A summary is a sorted list of values with weights: so many values does each stand for. Of a block of sorted values every
k-th is kept; summaries are merged side by side, and where that gives too many values neighbours are put together. The
ranks that this can move are counted, so the error of the result is a fact, not a probability. Summaries of a few
distinct values are exact. Sixteen of one level make one of the next, so the error grows with the logarithm of the
number of values. See Munro and Paterson 1980; Agarwal et al., "Mergeable summaries", 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_POINTS = 2048
_FAN_IN = 16

Values = npt.NDArray[Any]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Summary:
    """Values and how many each stands for.

    Attributes:
      values: ascending and distinct, int64 or float32 (n,).
      weights: int64 (n,).
      error: for any x, the weights of values up to x differ by at most so many from the number of values up to x.
    """

    values: Values
    weights: Weights
    error: int = 0

    def ranks(self, bounds: Values) -> Weights:
        """How many values lie below each bound, about: int64 (n,)."""
        ends = np.concatenate([[0], np.cumsum(self.weights)])
        return ends[np.searchsorted(self.values.astype(bounds.dtype), bounds, side="left")]

    def quantiles(self, count: int) -> Values:
        """`count` values at equal steps of rank, the first and the last included."""
        ends = np.cumsum(self.weights)
        total = int(ends[-1])
        ranks = [max(1, -(-total * step // (count - 1))) for step in range(count)]
        return self.values[np.searchsorted(ends, ranks, side="left")]


def tally(values: npt.NDArray[np.int64]) -> tuple[Values, Weights]:
    """The distinct ones of at least one whole number, ascending, and how often each occurs."""
    low, high = int(values.min()), int(values.max())
    if low == high:
        return values[:1], np.array([len(values)])
    if high - low < 4 * len(values):
        counts = np.bincount(values - low)
        there = np.flatnonzero(counts)
        return there + low, counts[there].astype(np.int64)
    ordered = np.sort(values)
    places = _firsts(ordered)
    return ordered[places], np.diff(places, append=len(ordered)).astype(np.int64)


def summarise(ordered: npt.NDArray[np.float32]) -> Summary:
    """A summary of finite numbers, ascending."""
    changes = np.count_nonzero(ordered[1:] != ordered[:-1])
    if changes < MAX_POINTS:
        places = _firsts(ordered)
        return Summary(ordered[places], np.diff(places, append=len(ordered)).astype(np.int64))
    step = -(-len(ordered) // MAX_POINTS)
    # The middle of each group of `step` stands for all of it.
    groups = np.arange(0, len(ordered), step)
    chosen = np.minimum(groups + step // 2, len(ordered) - 1)
    weights = np.diff(groups, append=len(ordered)).astype(np.int64)
    return _together([Summary(ordered[chosen], weights, step // 2)])


def compress(values: Values, weights: Weights, error: int = 0, most: int = MAX_POINTS) -> Summary:
    """At most `most` of the values: neighbours are put together, and the error grows by what that moves."""
    if len(values) <= most:
        return Summary(values, weights, error)
    ends = np.cumsum(weights)
    starts = ends - weights
    step = -(-int(ends[-1]) // most)
    groups = starts // step
    firsts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    lasts = np.append(firsts[1:], len(values)) - 1
    begin, end = starts[firsts], ends[lasts]
    middle = np.clip(np.searchsorted(ends, (begin + end + 1) // 2, side="left"), firsts, lasts)
    moved = np.maximum(starts[middle] - begin, end - ends[middle])
    return Summary(values[middle], end - begin, error + int(moved.max()))


def _together(parts: Sequence[Summary]) -> Summary:
    """One summary of all, whose values ascend, with every value once."""
    values = np.concatenate([part.values for part in parts])
    weights = np.concatenate([part.weights for part in parts])
    if len(parts) > 1:
        order = np.argsort(values, kind="stable")
        values, weights = values[order], weights[order]
    if len(values):
        places = _firsts(values)
        values, weights = values[places], np.add.reduceat(weights, places)
    return Summary(values, weights, sum(part.error for part in parts))


def _firsts(ordered: Values) -> npt.NDArray[np.int64]:
    """Where each value of a sorted list is first."""
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


class Quantiles:
    """A summary of all values added so far. The same calls in the same order give the same."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._empty = Summary(np.zeros(0, dtype), np.zeros(0, np.int64))
        self._levels: list[list[Summary]] = []

    def add(self, summary: Summary, level: int = 0) -> None:
        """Adds the values of a summary."""
        while len(self._levels) <= level:
            self._levels.append([])
        parts = self._levels[level]
        parts.append(summary)
        if len(parts) == _FAN_IN:
            whole = _together(parts)
            parts.clear()
            self.add(compress(whole.values, whole.weights, whole.error), level + 1)

    def summary(self) -> Summary:
        """All of it in one, of at most `MAX_POINTS` values."""
        parts = [part for level in reversed(self._levels) for part in level]
        whole = _together(parts or [self._empty])
        return compress(whole.values, whole.weights, whole.error)
