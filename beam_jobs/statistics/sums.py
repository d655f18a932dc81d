"""Exact sums: of numbers and of their squares, the same whatever the order, the grouping and the processor.

A number is cut into limbs of 18 bits. Products of limbs have 36 bits, so sums of 65,536 of them are whole numbers below
2^53, which float64 adds without rounding in any order. The rest is Python's big integers.
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
        for start in range(0, len(values), _SLICE):
            part = values[start : start + _SLICE]
            limbs, unit = _float_limbs(part) if part.dtype == np.float32 else (_int_limbs(part), 0)
            shift = unit - self.unit
            for place, limb in enumerate(limbs):
                self.first += int(limb.sum()) << (_LIMB * place + shift)
                for other in range(place, len(limbs)):
                    # einsum, not dot: no threads of a BLAS library.
                    product = int(np.einsum("i,i->", limb, limbs[other]))
                    self.second += product << (_LIMB * (place + other) + 2 * shift + (other > place))
            self.count += len(part)

    def add_counted(self, values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        """Adds int64 (n,), each as often as `counts` says."""
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.first += value * count
            self.second += value * value * count
            self.count += count

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


def _int_limbs(values: npt.NDArray[np.int64]) -> list[npt.NDArray[np.float64]]:
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


def _float_limbs(values: npt.NDArray[np.float32]) -> tuple[list[npt.NDArray[np.float64]], int]:
    """Limbs of float32, the lowest first, and the exponent of their unit; each has the sign of its number."""
    exponents = (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(23)) & np.uint32(0xFF)
    normal = np.where(values == 0, np.uint32(0xFF), np.maximum(exponents, 1))  # a zero has no say
    lowest = int(normal.min(initial=0xFF))
    if lowest == 0xFF:
        return [], _FLOAT_UNIT
    highest = max(int(exponents.max()), 1)
    unit, count = lowest - 150, -(-(highest - lowest + 24) // _LIMB)
    rest = values.astype(np.float64) * 2.0**-unit
    limbs = []
    for place in range(count - 1, 0, -1):
        limb = np.trunc(rest * 2.0 ** (-_LIMB * place))
        rest -= limb * 2.0 ** (_LIMB * place)
        limbs.append(limb)
    return [rest, *reversed(limbs)], unit
