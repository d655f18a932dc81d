"""How far two distributions lie apart: L-infinity and Jensen-Shannon, of counts and of histograms with other bins.

Shares are fractions of whole numbers and logarithms are decimal, both exact to more digits than a float has, since
libraries' and processors' floating-point logarithms differ in their last bits, and results are written to files.

The measures are those of TensorFlow Data Validation (`anomalies/metrics.cc`): L-infinity is SciPy's
`distance.chebyshev` of the shares; the Jensen-Shannon divergence has base 2, so that it lies in [0, 1]: the square of
SciPy's `distance.jensenshannon(…, base=2)`, which is its root.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from fractions import Fraction

from schemas.statistics import FeatureStatistics, Numbers

_DIGITS = 28
# Edges among the percentiles: between them about twenty bins, so that samples of a thousand values differ little, and
# tails of one percent, so that a single far value moves no more than that.
_GRID = (0, 1, *range(5, 100, 5), 99, 100)

Pair = tuple[Fraction, Fraction]


def infinity_norm(pairs: Mapping[str, Pair]) -> tuple[float, str]:
    """The largest difference of two shares, and whose they are: the first such name in order.

    Args:
      pairs: the shares of each value in the two distributions.
    """
    if not pairs:
        return 0.0, ""
    name = min(pairs, key=lambda name: (-abs(pairs[name][0] - pairs[name][1]), name))
    return float(abs(pairs[name][0] - pairs[name][1])), name


def jensen_shannon(pairs: Iterable[Pair]) -> float:
    """The Jensen-Shannon divergence, base 2, of two distributions: 0 where they are equal, 1 where they are disjoint.

    Args:
      pairs: the two shares of each value or bin; each side adds up to 1.
    """
    with localcontext(Context(prec=_DIGITS)):
        total = sum((_entropy(p, q) + _entropy(q, p) for p, q in pairs), Decimal(0))
        return float(min(max(total / (2 * Decimal(2).ln()), Decimal(0)), Decimal(1)))


def _entropy(p: Fraction, q: Fraction) -> Decimal:
    """p ln(p / ((p + q) / 2))."""
    return _decimal(p) * _decimal(2 * p / (p + q)).ln() if p and p != q else Decimal(0)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


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
        return max(0, self.total - sum(self.listed.values()))

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
    return Counts(listed, feature.values, not feature.top.error)


def align_counts(before: Counts, after: Counts) -> tuple[dict[str, Pair], list[Pair]]:
    """The shares of each value in two distributions that are not empty, and those of all bins, the rest included.

    A value that one side does not list, though it does not list all, may occur there as often as the rarest that is
    listed: it is taken to occur so often, but no more often than on the other side. So the distance is not
    overestimated where only the most frequent values of many are known.
    """
    names = sorted({*before.listed, *after.listed})
    filled = _filled(before, after, names), _filled(after, before, names)
    pairs = {name: (filled[0][name], filled[1][name]) for name in names}
    rest = (1 - sum(filled[0].values(), Fraction(0)), 1 - sum(filled[1].values(), Fraction(0)))
    return pairs, [*pairs.values(), rest]


def _filled(counts: Counts, other: Counts, names: Sequence[str]) -> dict[str, Fraction]:
    total = max(counts.total, sum(counts.listed.values()))
    shares = {name: Fraction(counts.listed.get(name, 0), total) for name in names}
    left = Fraction(counts.rest, total)
    most = Fraction(min(counts.listed.values(), default=0), total)
    unlisted = [name for name in names if name not in counts.listed]
    for name in sorted(unlisted, key=lambda name: (-other.listed[name], name)):
        shares[name] = min(Fraction(other.listed[name], max(other.total, 1)), most, left)
        left -= shares[name]
    return shares


# --- Numbers ---


@dataclass(frozen=True)
class Bins:
    """A distribution of numbers.

    Attributes:
      spread: (low, high, mass) of values spread evenly between two numbers; in order, none overlaps another.
      points: masses of single values.
    """

    spread: Sequence[tuple[Fraction, Fraction, Fraction]] = ()
    points: Mapping[Fraction | str, Fraction] = field(default_factory=dict)


def quantile_bins(numbers: Numbers) -> Bins:
    """The distribution that equally spaced quantiles tell of: about twenty bins, and frequent values by themselves.

    Where quantiles repeat, a value has a mass of its own, so discrete numbers have no bins at all. The histogram of
    equal width would not do: a single far value puts all others into one of its bins.
    """
    values = sorted(Fraction(value) for value in numbers.quantiles)
    if not values:
        return Bins((), _not_finite(numbers))
    steps = len(values) - 1
    edges = {round(percent * steps / 100) for percent in _GRID}
    step = Fraction(numbers.count, steps)
    points = _not_finite(numbers)
    spread: list[tuple[Fraction, Fraction, Fraction]] = []
    low, mass = values[0], Fraction(0)
    for place in range(1, steps + 1):
        value, before = values[place], values[place - 1]
        after = values[place + 1] if place < steps else None
        if value in (before, after):  # the step ends at a value of its own
            points[value] = points.get(value, Fraction(0)) + step
            ends = True
        else:
            mass += step
            ends = place in edges or place == steps
        if ends:
            high = before if value in (before, after) else value
            if mass:
                spread.append((low, high, mass))
            low, mass = value, Fraction(0)
    return Bins(spread, points)


def _not_finite(numbers: Numbers) -> dict[Fraction | str, Fraction]:
    found = {"nan": numbers.nan, "infinite": numbers.infinite}
    return {name: Fraction(count) for name, count in found.items() if count}


def align_bins(before: Bins, after: Bins) -> list[Pair]:
    """The shares of two distributions that are not empty, in bins that both have.

    As in TensorFlow Data Validation's `AlignHistograms` every edge of one cuts the bins of the other, the values of a
    bin being taken to lie evenly in it, and points stay apart. NaN is a value like any other here, while there two
    distributions that hold NaNs differ in them.
    """
    edges = sorted({edge for side in (before, after) for low, high, _ in side.spread for edge in (low, high)})
    cut = _cut(before, edges), _cut(after, edges)
    names = sorted({*before.points, *after.points}, key=lambda name: (isinstance(name, str), name))
    pairs = list(zip(*cut, strict=True))
    pairs += [(before.points.get(name, Fraction(0)), after.points.get(name, Fraction(0))) for name in names]
    totals = [sum((pair[side] for pair in pairs), Fraction(0)) for side in range(2)]
    return [(p / totals[0], q / totals[1]) for p, q in pairs]


def _cut(bins: Bins, edges: Sequence[Fraction]) -> list[Fraction]:
    masses = [Fraction(0)] * max(0, len(edges) - 1)
    for low, high, mass in bins.spread:
        for place in range(bisect_left(edges, low), bisect_left(edges, high)):
            masses[place] += mass * (edges[place + 1] - edges[place]) / (high - low)
    return masses
