"""Distances: equal to SciPy's on counts, and on histograms and quantiles whose bins differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import chebyshev, jensenshannon

from beam_jobs.data_schema import distances
from beam_jobs.data_schema.distances import (
    Bins,
    Counts,
    Shares,
    align_bins,
    align_counts,
    infinity_norm,
    jensen_shannon,
    quantile_bins,
)
from schemas.statistics import Histogram, Numbers

SEED = 20260


def numbers(values: npt.NDArray[np.float64], *, nan: int = 0, infinite: int = 0) -> Numbers:
    """The statistics of numbers, exact: quantiles as `schemas.statistics` defines them."""
    ranked = np.sort(values)
    places = np.maximum(0, np.ceil(np.arange(101) / 100 * len(ranked)).astype(int) - 1)
    return Numbers(
        count=len(values), nan=nan, infinite=infinite, min=float(ranked[0]), max=float(ranked[-1]),
        mean=float(values.mean()), std=float(values.std()), quantiles=ranked[places].tolist(),
        histogram=histogram(values),
    )  # fmt: skip


def histogram(values: npt.NDArray[np.float64], bins: int = 20) -> Histogram:
    counts, edges = np.histogram(values, bins)
    return Histogram(edges=edges.tolist(), counts=counts.tolist())


def histogram_bins(histogram: Histogram) -> Bins:
    """A histogram of bins that have a width."""
    edges = histogram.edges
    return Bins([each for each in zip(edges, edges[1:], histogram.counts, strict=False) if each[2]])


def divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    return float(jensenshannon(p, q, base=2)) ** 2


counts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**12), min_size=1).filter(
    lambda found: sum(found.values()) > 0
)


@given(counts, counts)
@settings(max_examples=200, deadline=None)
def test_counts_are_as_far_apart_as_scipy_says(before: dict[str, int], after: dict[str, int]) -> None:
    names = sorted({*before, *after})
    p, q = (np.array([side.get(name, 0) for name in names], float) for side in (before, after))
    p, q = p / p.sum(), q / q.sum()
    shares = align_counts(Counts(before, sum(before.values())), Counts(after, sum(after.values())))
    assert infinity_norm(shares)[0] == pytest.approx(chebyshev(p, q), abs=1e-15)
    assert jensen_shannon(shares.pairs) == pytest.approx(divergence(p, q), abs=1.1e-10)


def test_known_values() -> None:
    equal, disjoint = Shares({"a": (1, 1)}, 1), Shares({"a": (1, 0), "b": (0, 1)}, 1)
    assert (infinity_norm(equal), jensen_shannon(equal.pairs)) == ((0.0, "a"), 0.0)
    assert (infinity_norm(disjoint), jensen_shannon(disjoint.pairs)) == ((1.0, "a"), 1.0)
    halves = Shares({"a": (2, 1), "b": (0, 1)}, 2)
    assert infinity_norm(halves) == (0.5, "a")
    assert jensen_shannon(halves.pairs) == 0.3112781245  # 3/4 log2(4/3)
    assert infinity_norm(Shares({}, 1)) == (0.0, "")


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=30))
@settings(max_examples=200, deadline=None)
def test_logarithms_change_no_digit(counts: list[tuple[int, int]]) -> None:
    """What is rounded is what exact arithmetic gives: no machine's logarithm can be seen."""
    totals = [sum(pair[side] for pair in counts) or 1 for side in range(2)]
    pairs = [(p / totals[0], q / totals[1]) for p, q in counts]
    assert jensen_shannon(pairs) == distances._exact(pairs)


def test_where_a_digit_hangs_on_the_logarithm_exact_arithmetic_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = Shares({"a": (2, 1), "b": (0, 1)}, 2).pairs
    monkeypatch.setattr(distances, "_ERROR", 1e-9)
    assert jensen_shannon(pairs) == 0.3112781245


def spread(histogram: Histogram, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The masses of a histogram between other edges, by its distribution function: linear inside a bin."""
    cumulated = np.concatenate([[0], np.cumsum(histogram.counts)]) / sum(histogram.counts)
    return np.diff(np.interp(edges, histogram.edges, cumulated))


@pytest.mark.parametrize("bins", [(20, 20), (20, 13), (1, 40)])
@pytest.mark.parametrize("shift", [0.0, 0.5, 10.0])
def test_histograms_with_other_bins_are_as_far_apart_as_scipy_says(
    bins: tuple[int, int], shift: float
) -> None:
    rng = np.random.default_rng(SEED)
    before = histogram(rng.normal(size=3000), bins[0])
    after = histogram(rng.normal(shift, 1.5, size=2000), bins[1])
    edges = np.union1d(before.edges, after.edges)
    expected = divergence(spread(before, edges), spread(after, edges))
    found = jensen_shannon(align_bins(histogram_bins(before), histogram_bins(after)))
    assert found == pytest.approx(expected, abs=1.1e-10)


def test_as_far_apart_as_tfdv_says() -> None:
    """The results that TensorFlow Data Validation's own tests expect (`anomalies/metrics_test.cc`)."""
    before = histogram_bins(Histogram(edges=[1, 2, 3], counts=[2, 2]))
    after = histogram_bins(Histogram(edges=[2, 4, 6], counts=[2, 2]))
    assert jensen_shannon(align_bins(before, after)) == pytest.approx(0.65563906222, abs=1.1e-10)
    some_nan = Bins([(1, 2, 3)], {"nan": 1})
    no_nan = Bins([(1, 2, 4)])
    assert jensen_shannon(align_bins(some_nan, no_nan)) == pytest.approx(0.13792538096, abs=1.1e-10)
    point = Bins([], {1.0: 4})
    assert jensen_shannon(align_bins(point, after)) == 1
    shares = align_counts(Counts({"b": 9, "c": 1}, 10), Counts({"a": 3, "b": 7}, 10))
    assert infinity_norm(shares) == (0.3, "a")


def test_equal_quantiles_are_points_and_nan_is_a_value() -> None:
    one = Numbers(count=4, nan=4, min=1.0, max=1.0, mean=1.0, std=0.0, quantiles=[1.0, 1.0],
                  histogram=Histogram(edges=[1.0, 1.0], counts=[4]))  # fmt: skip
    bins = quantile_bins(one)
    assert bins == Bins([], {1.0: 4, "nan": 4})
    assert jensen_shannon(align_bins(bins, bins)) == 0
    without = Bins([], {1.0: 1})
    assert jensen_shannon(align_bins(bins, without)) == pytest.approx(
        divergence([0.5, 0.5], [1, 0]), rel=1e-9
    )
    infinite = quantile_bins(Numbers(infinite=3))
    assert infinite == Bins([], {"infinite": 3})
    assert jensen_shannon(align_bins(infinite, without)) == 1


def test_quantiles_hold_all_mass_and_find_single_values() -> None:
    rng = np.random.default_rng(SEED)
    mixed = np.concatenate([np.zeros(3000), rng.exponential(size=7000)])
    bins = quantile_bins(numbers(mixed))
    assert sum(mass for *_, mass in bins.spread) + sum(bins.points.values()) == 10_000 * 100
    assert set(bins.points) == {0}
    assert float(bins.points[0.0] / 100) == pytest.approx(3000, abs=100)
    assert 15 <= len(bins.spread) <= 25
    edges = [edge for low, high, _ in bins.spread for edge in (low, high)]
    assert edges == sorted(edges)
    few = quantile_bins(numbers(rng.choice([0.0, 1 / 3, 2 / 3, 1.0], p=[0.5, 0.1, 0.1, 0.3], size=5000)))
    assert few.spread == []
    assert {float(value): round(mass / 500_000, 1) for value, mass in few.points.items()} == {
        0.0: 0.5, 1 / 3: 0.1, 2 / 3: 0.1, 1.0: 0.3,
    }  # fmt: skip


def test_quantiles_tell_drift_from_chance_and_bear_single_far_values() -> None:
    """Where histograms of equal width do not: one far value puts all others into one bin."""
    rng = np.random.default_rng(SEED)

    def apart(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float:
        return jensen_shannon(align_bins(quantile_bins(numbers(before)), quantile_bins(numbers(after))))

    base = rng.normal(size=5000)
    assert apart(base, base) == 0
    assert apart(base, rng.normal(size=5000)) < 0.01
    assert apart(base, np.append(rng.normal(size=5000), 1e6)) < 0.03
    assert apart(base, rng.normal(1.0, 1.0, size=5000)) > 0.1
    assert apart(base, base + 100) == 1
    far = histogram_bins(histogram(base)), histogram_bins(histogram(np.append(base, 1e6)))
    assert jensen_shannon(align_bins(*far)) > 0.5


def test_quantiles_are_about_as_far_apart_as_what_they_are_of() -> None:
    rng = np.random.default_rng(SEED)
    before, after = rng.normal(size=200_000), rng.normal(0.7, 1.2, size=200_000)
    edges = np.linspace(-6, 7, 60)
    expected = divergence(np.histogram(before, edges)[0], np.histogram(after, edges)[0])
    found = jensen_shannon(align_bins(quantile_bins(numbers(before)), quantile_bins(numbers(after))))
    assert found == pytest.approx(expected, abs=0.02)


def test_lists_of_the_most_frequent_values_do_not_overestimate() -> None:
    """Two lists of some of 200 values that are all as frequent: what one leaves out may be there as often."""
    before = Counts({f"v{number}": 5 for number in range(100)}, 1000)
    after = Counts({f"v{number}": 5 for number in range(50, 150)}, 1000)
    shares = align_counts(before, after)
    assert infinity_norm(shares)[0] == 0
    assert jensen_shannon(shares.pairs) == 0
    assert sum(p for p, _ in shares.pairs) == pytest.approx(1)
    assert sum(q for _, q in shares.pairs) == pytest.approx(1)
    # A value that has become frequent was at most as frequent as the rarest of the list.
    grown = Counts({"new": 300, "v1": 5}, 1000)
    assert infinity_norm(align_counts(before, grown)) == (0.295, "new")
    # Where the list is complete, what is not in it is not there.
    assert infinity_norm(align_counts(Counts({"v1": 10}, 10), grown)) == (0.995, "v1")


@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 50)), min_size=1, max_size=40),
    st.integers(1, 6),
)
@settings(max_examples=100, deadline=None)
def test_a_shorter_list_is_never_farther(values: list[tuple[str, int]], most: int) -> None:
    sides: list[dict[str, int]] = [{}, {}]
    for place, (name, count) in enumerate(values):
        sides[place % 2][name] = sides[place % 2].get(name, 0) + count
    if not sides[1]:
        return
    full = [Counts(side, sum(side.values())) for side in sides]
    cut = [
        Counts(dict(sorted(side.items(), key=lambda item: (-item[1], item[0]))[:most]), sum(side.values()))
        for side in sides
    ]
    exact, told = (infinity_norm(align_counts(*pair))[0] for pair in (full, cut))
    assert told <= exact + 1e-12
