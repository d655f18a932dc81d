"""Exact sums: of numbers and of their squares, the same whatever the order, the grouping and the processor.

A whole number is cut into limbs of 18 bits. Products of limbs have 36 bits, so sums of 65,536 of them are whole numbers
below 2^53, which float64 adds without rounding in any order. Of a float32 the 23 bits of its fraction are a whole
number; the squares of 65,536 of them add up below 2^62, exponent by exponent. The rest is Python's big integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

_LIMB = 18  # bits
_SLICE = 1 << 16  # numbers at a time, so that 2 * 18 + 16 < 53
_FLOAT_UNIT = -149  # float32 are multiples of 2^-149
_FRACTION = 23  # bits of a float32, below its exponent
_BITS = 63  # of a positive int64
_FEW = 64  # numbers that are added one by one


@dataclass
class Sums:
    """How many numbers, their sum and the sum of their squares, in units of 2^unit and 2^(2 * unit).

    Attributes:
      unit: 0 for int64, -149 for float32.
    """

    unit: int = 0
    count: int = 0
    first: int = 0
    second: int = 0

    @staticmethod
    def of(dtype: npt.DTypeLike) -> Sums:
        """Empty sums of int64 or float32."""
        return Sums(_FLOAT_UNIT if np.dtype(dtype) == np.float32 else 0)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Adds int64 or finite float32 (n,)."""
        if values.dtype == np.float32:
            self.add_ordered(np.sort(values + np.float32(0)))
            return
        for start in range(0, len(values), _SLICE):
            part = values[start : start + _SLICE]
            limbs = _limbs(part)
            for place, limb in enumerate(limbs):
                self.first += int(limb.sum()) << (_LIMB * place)
                for other in range(place, len(limbs)):
                    # einsum, not dot: no threads of a BLAS library.
                    product = int(np.einsum("i,i->", limb, limbs[other]))
                    self.second += product << (_LIMB * (place + other) + (other > place))
            self.count += len(part)

    def add_ordered(self, values: npt.NDArray[np.float32]) -> None:
        """Adds finite float32 (n,), ascending, without -0: those of one exponent lie together."""
        for start in range(0, len(values), _SLICE):
            bits = np.ascontiguousarray(values[start : start + _SLICE]).view(np.uint32)
            kinds = bits >> np.uint32(_FRACTION)  # sign and exponent
            firsts = np.flatnonzero(np.concatenate([[True], kinds[1:] != kinds[:-1]]))
            fractions = (bits & np.uint32((1 << _FRACTION) - 1)).astype(np.uint64)
            groups = zip(
                kinds[firsts].tolist(),
                np.diff(firsts, append=len(bits)).tolist(),
                np.add.reduceat(fractions, firsts).tolist(),
                np.add.reduceat(fractions * fractions, firsts).tolist(),
                strict=True,
            )
            for kind, count, first, second in groups:
                exponent = kind & 0xFF
                hidden = 1 << _FRACTION if exponent else 0  # the leading bit, which is not stored
                shift = max(exponent, 1) - 1
                total = first + count * hidden << shift
                self.first += total if kind == exponent else -total
                self.second += second + 2 * hidden * first + count * hidden * hidden << 2 * shift
            self.count += len(bits)

    def add_counted(self, values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        """Adds int64 (n,), each as often as `counts` says; best where `are_quick`."""
        if _are_small(values, counts):
            products = values * counts
            self.first += int(products.sum())
            self.second += int(np.einsum("i,i->", values, products))
        else:
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self.first += value * count
                self.second += value * value * count
        self.count += int(counts.sum())

    def merge(self, other: Sums) -> None:
        """Adds the numbers of `other`, which are of the same kind."""
        self.count += other.count
        self.first += other.first
        self.second += other.second

    @property
    def mean(self) -> float:
        """The mean, rounded once; there must be a number."""
        return float(Fraction(self.first, self.count) * Fraction(2) ** self.unit)

    @property
    def std(self) -> float:
        """The standard deviation of the population; the exact variance and its root are rounded."""
        variance = Fraction(self.count * self.second - self.first**2, self.count**2)
        return math.sqrt(float(variance * Fraction(4) ** self.unit))


def are_quick(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> bool:
    """Whether values with counts are added in less time than one by one: they are few, or small."""
    return len(values) <= _FEW or _are_small(values, counts)


def _are_small(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> bool:
    """Whether the sum of squares is an int64."""
    if not len(values):
        return True
    bits = max(int(values.max()).bit_length(), int(values.min()).bit_length())
    return 2 * bits + int(counts.sum()).bit_length() <= _BITS


def _limbs(values: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float64]]:
    """Limbs of int64, the lowest first; the highest has the sign."""
    if not len(values):
        return []
    bits = max(int(values.max()).bit_length(), int(values.min()).bit_length())
    limbs, rest = [], values
    while bits > _LIMB:
        limbs.append((rest & ((1 << _LIMB) - 1)).astype(np.float64))
        rest = rest >> _LIMB
        bits -= _LIMB
    return [*limbs, rest.astype(np.float64)]
