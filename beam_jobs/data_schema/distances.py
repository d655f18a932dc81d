"""How far two distributions lie apart: L-infinity and Jensen-Shannon, of counts and of numbers in other bins.

The measures are those of TensorFlow Data Validation (`anomalies/metrics.cc`): L-infinity is SciPy's
`distance.chebyshev` of the shares; the Jensen-Shannon divergence has base 2, so that it lies in [0, 1]: the square of
SciPy's `distance.jensenshannon(…, base=2)`, which is its root.

Results are written to files and decide what is committed, so they are the same on every machine: shares are
quotients, which IEEE 754 defines to the last bit, and what depends on a library's or processor's logarithm is rounded.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from itertools import pairwise

from schemas.statistics import FeatureStatistics, Numbers

_DIGITS = 10  # of a Jensen-Shannon divergence, behind the point
# More than logarithms of any library can be off in sum: 4 units in the last place of each, weighted by shares.
_ERROR = 1e-13
# Edges among the percentiles: between them about twenty bins, so that samples of a thousand values differ little, and
# tails of one percent, so that a single far value moves no more than that.
_GRID = (0, 1, *range(5, 100, 5), 99, 100)

Pair = tuple[float, float]


def jensen_shannon(pairs: Sequence[Pair]) -> float:
    """The Jensen-Shannon divergence, base 2, of two distributions: 0 where they are equal, 1 where they are disjoint.

    Args:
      pairs: the two shares of each value or bin; each side adds up to 1.

    Returns:
      The divergence to ten digits behind the point.
    """
    about = math.fsum(_entropy(p, q) + _entropy(q, p) for p, q in pairs) / 2
    low, high = round(about - _ERROR, _DIGITS), round(about + _ERROR, _DIGITS)
    # Where the last digit hangs on the logarithm it is computed with more of them.
    found = low if low == high else _exact(pairs)
    return min(max(found, 0.0), 1.0)


def _entropy(p: float, q: float) -> float:
    """p log2(p / ((p + q) / 2))."""
    return p * math.log2(2 * p / (p + q)) if p and p != q else 0.0


def _exact(pairs: Sequence[Pair]) -> float:
    """The sum in decimal arithmetic, of which every digit is defined."""
    with localcontext(Context(prec=40)):
        total = Decimal(0)
        for pair in pairs:
            one, other = map(Decimal, pair)
            for p, q in ((one, other), (other, one)):
                if p and p != q:
                    total += p * (2 * p / (p + q)).ln()
        return float((total / (2 * Decimal(2).ln())).quantize(Decimal(1).scaleb(-_DIGITS)))


# --- Values ---


@dataclass(frozen=True)
class Counts:
    """How often each value occurs.

    Attributes:
      listed: by value.
      total: of all values; what is not listed is known in number only.
      exact: whether the counts are; else a value may occur somewhat more often.
    """

    listed: Mapping[str, int]
    total: int
    exact: bool = True

    @property
    def rest(self) -> int:
        """Values that are not listed."""
        return self.total - sum(self.listed.values())

    @property
    def complete(self) -> bool:
        """Whether every value is listed."""
        return self.exact and not self.rest


def counts_of(feature: FeatureStatistics) -> Counts | None:
    """The counts of a feature's values, numbers as their texts; None where values are not counted."""
    if feature.labels is not None:
        return Counts(feature.labels, sum(feature.labels.values()))
    if feature.top is None:
        return None
    listed = {str(each.value): each.count for each in feature.top.values}
    return Counts(listed, max(feature.values, sum(listed.values())), not feature.top.error)


@dataclass(frozen=True)
class Shares:
    """The shares of the same values in two distributions.

    Attributes:
      masses: by value, in parts of `total`.
      total: of either side; what the masses lack belongs to values that are not known.
    """

    masses: Mapping[str, tuple[int, int]]
    total: int

    @property
    def pairs(self) -> list[Pair]:
        """The shares of all values, and of the rest."""
        sums = [sum(mass[side] for mass in self.masses.values()) for side in range(2)]
        masses = [*self.masses.values(), (self.total - sums[0], self.total - sums[1])]
        return [(one / self.total, other / self.total) for one, other in masses]

    def share(self, value: str) -> Pair:
        """The two shares of a value."""
        one, other = self.masses.get(value, (0, 0))
        return one / self.total, other / self.total


def infinity_norm(shares: Shares) -> tuple[float, str]:
    """The largest difference of the shares of one value, and the first such value in order."""
    if not shares.masses:
        return 0.0, ""
    differences = {value: abs(one - other) for value, (one, other) in shares.masses.items()}
    value = min(differences, key=lambda value: (-differences[value], value))
    return differences[value] / shares.total, value


def align_counts(before: Counts, after: Counts) -> Shares:
    """The shares of each value in two distributions that are not empty.

    A value that one side does not list, though it does not list all, may occur there as often as the rarest that is
    listed: it is taken to occur so often, but no more often than on the other side. So the distance is not
    overestimated where only the most frequent values of many are known.
    """
    values = sorted({*before.listed, *after.listed})
    one, other = _masses(before, after, values), _masses(after, before, values)
    masses = {value: (one[value], other[value]) for value in values}
    return Shares(masses, before.total * after.total)


def _masses(counts: Counts, other: Counts, values: Sequence[str]) -> dict[str, int]:
    """In parts of the product of both totals, so that both sides are whole numbers."""
    masses = {value: counts.listed.get(value, 0) * other.total for value in values}
    left, most = counts.rest * other.total, min(counts.listed.values(), default=0) * other.total
    unlisted = [value for value in values if value not in counts.listed]
    for value in sorted(unlisted, key=lambda value: (-other.listed[value], value)):
        masses[value] = min(other.listed[value] * counts.total, most, left)
        left -= masses[value]
    return masses


# --- Numbers ---


@dataclass(frozen=True)
class Bins:
    """A distribution of numbers.

    Attributes:
      spread: (low, high, mass) of values spread evenly between two numbers; in order, none overlaps another.
      points: masses of single values.
    """

    spread: Sequence[tuple[float, float, float]] = ()
    points: Mapping[float | str, float] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there are no values."""
        return not self.spread and not self.points


def quantile_bins(numbers: Numbers) -> Bins:
    """The distribution that equally spaced quantiles tell of: about twenty bins, and frequent values by themselves.

    Where quantiles repeat, a value has a mass of its own, so discrete numbers have no bins at all. The histogram of
    equal width would not do: a single far value puts all others into one of its bins.
    """
    values = sorted(map(float, numbers.quantiles))
    steps = max(1, len(values) - 1)
    edges = {round(percent * steps / 100) for percent in _GRID}
    # A step holds a mass of `count`, so that masses are whole numbers.
    others = {"nan": numbers.nan * steps, "infinite": numbers.infinite * steps}
    points: dict[float | str, float] = {name: mass for name, mass in others.items() if mass}
    spread: list[tuple[float, float, float]] = []
    low, mass = values[0] if values else 0.0, 0
    for place in range(1, len(values)):
        value, before = values[place], values[place - 1]
        after = values[place + 1] if place < steps else None
        is_point = value in (before, after)  # the step ends at a value of its own
        if is_point:
            points[value] = points.get(value, 0) + numbers.count
        else:
            mass += numbers.count
        if is_point or place in edges:
            if mass:
                spread.append((low, before if is_point else value, mass))
            low, mass = value, 0
    return Bins(spread, points)


def align_bins(before: Bins, after: Bins) -> list[Pair]:
    """The shares of two distributions that are not empty, in bins that both have.

    As in TensorFlow Data Validation's `AlignHistograms` every edge of one cuts the bins of the other, the values of a
    bin being taken to lie evenly in it, and points stay apart. NaN is a value like any other here, while there two
    distributions that hold NaNs differ in them.
    """
    edges = sorted({edge for side in (before, after) for low, high, _ in side.spread for edge in (low, high)})
    names = sorted({*before.points, *after.points}, key=lambda name: (isinstance(name, str), name))
    sides = []
    for bins in (before, after):
        masses = [*_cut(bins, edges), *(bins.points.get(name, 0) for name in names)]
        total = math.fsum(masses)
        sides.append([mass / total for mass in masses])
    return list(zip(*sides, strict=True))


def _cut(bins: Bins, edges: Sequence[float]) -> list[float]:
    widths = [high / 2 - low / 2 for low, high in pairwise(edges)]  # halves: no difference is too large
    masses = [0.0] * len(widths)
    for low, high, mass in bins.spread:
        for place in range(bisect_left(edges, low), bisect_left(edges, high)):
            masses[place] += mass * (widths[place] / (high / 2 - low / 2))
    return masses
