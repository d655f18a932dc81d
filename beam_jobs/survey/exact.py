"""Sums and order statistics of float64 that are exact, and so depend on no order, partition or processor.

A float64 is a whole number times a power of two. Sums of such are kept as whole numbers of any size; what a mean or a
deviation is rounded from is exact. Order statistics are found digit by digit (radix selection) over sorted parts of
the values, each part read once for every digit: the memory is that of one part and of a few counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

# float64s are multiples of 2**-1074; with 53 bits of mantissa taken as a whole number, of this power of two.
_SCALE = 1074 + 53
_DIGIT_BITS = 8


@dataclass(frozen=True)
class Moments:
    """How many numbers, their sum, and that of their squares: whole numbers, in units of 2**-1127 and 2**-2254."""

    count: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """The mean, rounded once."""
        return float(Fraction(self.total, self.count << _SCALE))

    @property
    def deviation(self) -> float:
        """The standard deviation of the numbers as a whole population, rounded once."""
        spread = self.count * self.squares - self.total**2  # in units of (2**-1127 / count)**2
        extra = 64  # bits behind what a float64 needs
        return float(Fraction(isqrt(spread << 2 * extra), self.count << _SCALE + extra))


def moments(numbers: Numbers) -> Moments:
    """The moments of finite numbers, float64 (n,)."""
    if not len(numbers):
        return Moments()
    fractions, exponents = np.frexp(numbers)
    mantissas = np.ldexp(fractions, 53).astype(np.int64)  # whole: no float64 has more bits
    order = np.argsort(exponents, kind="stable")
    mantissas, exponents = mantissas[order], exponents[order]
    starts = np.flatnonzero(np.diff(exponents, prepend=exponents[0] - 1))

    def added(parts: Counts) -> list[int]:
        return np.add.reduceat(parts, starts).tolist()  # of at most 38 bits each, so that 2**25 of them fit

    low, high = mantissas & ((1 << 26) - 1), mantissas >> 26
    a, b, c = mantissas >> 36, (mantissas >> 18) & ((1 << 18) - 1), mantissas & ((1 << 18) - 1)
    sums = zip(added(high), added(low), strict=True)
    powers = zip(
        added(a * a), added(2 * a * b), added(2 * a * c + b * b), added(2 * b * c), added(c * c), strict=True
    )
    total = squares = 0
    for exponent, (upper, lower), parts in zip(exponents[starts].tolist(), sums, powers, strict=True):
        shift = exponent - 53 + _SCALE
        total += ((upper << 26) + lower) << shift
        square = sum(part << 18 * place for place, part in zip((4, 3, 2, 1, 0), parts, strict=True))
        squares += square << 2 * shift
    return Moments(len(numbers), total, squares)


def keys_of(numbers: Numbers) -> Keys:
    """Whole numbers in the order of the numbers, uint64 (n,); both zeros are one."""
    bits = (numbers + 0.0).view(np.uint64)
    negative = bits >> np.uint64(63) == 1
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def numbers_of(keys: Keys) -> Numbers:
    """What `keys_of` was given."""
    positive = keys >> np.uint64(63) == 1
    return np.where(positive, keys & np.uint64((1 << 63) - 1), ~keys).view(np.float64)


@dataclass(frozen=True)
class Part:
    """Some numbers of a few groups.

    Attributes:
      groups: int64 (n,), each from 0 on.
      keys: uint64 (n,); see `keys_of`.
      counts: int64 (n,), how often each is there.
    """

    groups: Counts
    keys: Keys
    counts: Counts


def select(parts: Callable[[], Iterable[Part]], ranks: Counts) -> Numbers:
    """Of each group the numbers of some ranks: float64 of the shape of `ranks`, int64 (groups, k), from 0 on.

    `parts` is called once for each of the eight digits of the keys.
    """
    groups, wanted = ranks.shape
    rest = ranks.copy()
    prefixes = np.zeros(ranks.shape, np.uint64)
    for digit in range(64 // _DIGIT_BITS):
        shift = np.uint64(64 - _DIGIT_BITS * (digit + 1))
        counted = np.zeros((wanted, groups << _DIGIT_BITS), np.int64)
        for part in parts():
            heads = part.keys >> shift
            for k in range(wanted):
                here = np.flatnonzero(heads >> np.uint64(_DIGIT_BITS) == prefixes[part.groups, k])
                digits = (heads[here] & np.uint64((1 << _DIGIT_BITS) - 1)).astype(np.int64)
                places = (part.groups[here] << _DIGIT_BITS) + digits
                # As floats, which count exactly to 2**53.
                found = np.bincount(places, weights=part.counts[here], minlength=groups << _DIGIT_BITS)
                counted[k] += found.astype(np.int64)
        for k in range(wanted):
            sums = np.cumsum(counted[k].reshape(groups, -1), axis=1)
            chosen = (sums <= rest[:, k : k + 1]).sum(axis=1)
            before = np.where(chosen > 0, sums[np.arange(groups), np.maximum(chosen - 1, 0)], 0)
            rest[:, k] -= before
            prefixes[:, k] = (prefixes[:, k] << np.uint64(_DIGIT_BITS)) | chosen.astype(np.uint64)
    return numbers_of(prefixes.ravel()).reshape(ranks.shape)


def quantiles(parts: Callable[[], Iterable[Part]], counts: Counts, shares: Iterable[float]) -> Numbers:
    """Quantiles of each group, float64 (groups, shares): linear between ranks, as NumPy's are by default.

    `counts` is how many numbers each group has, int64 (groups,), none of them 0.
    """
    places = np.outer(counts - 1, np.array(list(shares), np.float64))
    lower = np.floor(places).astype(np.int64)
    upper = np.minimum(lower + 1, (counts - 1)[:, None])
    found = select(parts, np.concatenate([lower, upper], axis=1))
    low, high = found[:, : places.shape[1]], found[:, places.shape[1] :]
    part = places - lower
    with np.errstate(over="ignore", invalid="ignore"):
        step = high - low
        between = np.where(part >= 0.5, high - step * (1 - part), low + step * part)
    return np.where(low == high, low, between)
