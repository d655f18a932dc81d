"""Exact fractions and caps as pure functions: counts at many sizes, strata, groups, and what another record moves."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pytest

from beam_jobs.fractions import MIXED, UNIT, Cuts, apportion, find_caps, find_cuts

SHARES = [[1.0], [0.8, 0.2], [0.7, 0.15, 0.15], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01], [0.5, 0.0, 0.5]]


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def make_units(
    rng: np.random.Generator, count: int, strata: int = 1, groups: int = 0
) -> npt.NDArray[np.void]:
    """Records of random strata, each its own group unless there are `groups`."""
    units = np.zeros(count, UNIT)
    units["hi"], units["lo"] = rng.integers(0, 2**64, (2, count), np.uint64, endpoint=False)
    units["position"] = rng.integers(0, 2**64, count, np.uint64)
    if groups:
        units["position"] = rng.integers(0, 2**64, groups, np.uint64)[rng.integers(0, groups, count)]
    if strata > 1:
        names = rng.integers(1, 2**64, strata, np.uint64)
        units["stratum"] = names[np.minimum(rng.geometric(0.3, count) - 1, strata - 1)]
    return units


def in_parts(rng: np.random.Generator, units: npt.NDArray[np.void]) -> list[npt.NDArray[np.void]]:
    """The units in any order, in parts of any size."""
    shuffled = rng.permutation(units)
    return np.split(shuffled, np.sort(rng.integers(0, len(units) + 1, 3)))


def split_of(cuts: Cuts, units: npt.NDArray[np.void]) -> npt.NDArray[np.int16]:
    return cuts.splits(units["position"], units["stratum"])


def test_counts_are_within_one_at_every_size(rng: np.random.Generator) -> None:
    for size in [*range(1, 60), 97, 1000, 4999]:
        shares = SHARES[size % len(SHARES)]
        units = make_units(rng, size)
        cuts = find_cuts(in_parts(rng, units), size, shares, held=int(rng.integers(1, size + 1)))
        counts = np.bincount(split_of(cuts, units), minlength=len(shares))
        assert (np.abs(counts - size * np.array(shares)) < 1).all(), (size, shares, counts)


def test_counts_hold_in_every_stratum_and_of_all(rng: np.random.Generator) -> None:
    for size in (1, 5, 17, 100, 1234):
        for shares in SHARES:
            units = make_units(rng, size, strata=9)
            cuts = find_cuts(in_parts(rng, units), size, shares, held=int(rng.integers(1, size + 1)))
            found = split_of(cuts, units)
            total = np.bincount(found, minlength=len(shares))
            assert (np.abs(total - size * np.array(shares)) < 1).all()
            for stratum in np.unique(units["stratum"]):
                own = found[units["stratum"] == stratum]
                counts = np.bincount(own, minlength=len(shares))
                assert (np.abs(counts - len(own) * np.array(shares)) < 1).all()


def test_roundings_keep_all_sums(rng: np.random.Generator) -> None:
    for _ in range(300):
        shares = rng.dirichlet(np.ones(int(rng.integers(2, 7)))).tolist()
        counts = rng.integers(0, 12, int(rng.integers(1, 40)))
        found = apportion(counts, shares)
        assert (found.sum(axis=1) == counts).all()
        assert (np.abs(found - counts[:, None] * np.array(shares)) < 1).all()
        assert (np.abs(found.sum(axis=0) - counts.sum() * np.array(shares)) < 1 + 1e-9).all()


def test_shares_are_the_decimals_that_were_written() -> None:
    # 0.7 is less than seven tenths as a binary fraction: 20 of 30 would be within one of it.
    for first in (2, 3, 8):
        for tens in range(1, 40):
            found = apportion(np.array([first, 10 * tens, 7, 20 * tens]), [0.7, 0.15, 0.15])
            assert found[1, 0] == 7 * tens
            assert found[3].tolist() == [14 * tens, 3 * tens, 3 * tens]
    thirds = apportion(np.array([1, 30, 2, 1, 300]), [1 / 3, 1 / 3, 1 / 3])
    assert thirds[[1, 4]].tolist() == [[10, 10, 10], [100, 100, 100]]


def test_whole_groups_as_near_as_they_allow(rng: np.random.Generator) -> None:
    for size, groups in ((10, 3), (200, 20), (5000, 400), (300, 1)):
        shares = [0.6, 0.3, 0.1]
        units = make_units(rng, size, groups=groups)
        cuts = find_cuts(in_parts(rng, units), size, shares, held=17)
        found = split_of(cuts, units)
        # The best that a cut between groups, in the order of their positions, can do.
        _, weights = np.unique(units["position"], return_counts=True)
        sums = np.concatenate([[0], np.cumsum(weights)])
        for number, share in enumerate(np.cumsum(shares)[:-1]):
            target = np.cumsum(apportion(np.array([size]), shares))[number]
            assert abs(share * size - target) < 1
            assert abs((found <= number).sum() - target) == np.abs(sums - target).min()
        for position in np.unique(units["position"]):
            assert len(set(found[units["position"] == position])) == 1


def test_groups_counted(rng: np.random.Generator) -> None:
    units = make_units(rng, 5000, groups=101)
    cuts = find_cuts(in_parts(rng, units), 5000, [0.8, 0.2], by_groups=True, held=64)
    _, firsts = np.unique(units["position"], return_index=True)
    counts = np.bincount(split_of(cuts, units[firsts]))
    assert (np.abs(counts - len(firsts) * np.array([0.8, 0.2])) < 1).all()


def test_a_group_is_in_the_stratum_of_most_of_its_records(rng: np.random.Generator) -> None:
    units = make_units(rng, 3000, strata=4, groups=300)
    noted: list[npt.NDArray[np.void]] = []
    find_cuts(in_parts(rng, units), 3000, [0.5, 0.5], note_mixed=noted.append, held=100)
    mixed = np.concatenate(noted)
    assert mixed.dtype == MIXED
    assert (np.diff(mixed["position"].astype(object)) > 0).all()
    expected = defaultdict(list)
    for unit in units:
        expected[int(unit["position"])].append(int(unit["stratum"]))
    for position, stratum in mixed.tolist():
        counts = {value: expected[position].count(value) for value in expected[position]}
        assert len(counts) > 1
        assert stratum == min(value for value in counts if counts[value] == max(counts.values()))
    assert len(mixed) == sum(len(set(strata)) > 1 for strata in expected.values())


def test_a_record_that_is_there_twice_counts_once(rng: np.random.Generator) -> None:
    units = make_units(rng, 500)
    once = find_cuts([units], 500, [0.9, 0.1])
    twice = find_cuts([units, units[:123]], 623, [0.9, 0.1])
    assert (once.bounds == twice.bounds).all()


def test_another_record_moves_few(rng: np.random.Generator) -> None:
    units = make_units(rng, 2001, strata=3)
    shares = [0.8, 0.1, 0.1]
    before = split_of(find_cuts([units[:2000]], 2000, shares), units[:2000])
    after = split_of(find_cuts([units], 2001, shares), units[:2000])
    # Each bound of each stratum moves by at most two records: its own stratum's, and what rounding exchanges.
    assert (before != after).sum() <= 2 * 3 * 2


def test_caps(rng: np.random.Generator) -> None:
    units = make_units(rng, 4000, strata=6)
    cuts = find_caps(in_parts(rng, units), 4000, 50, held=300)
    kept = split_of(cuts, units) == 0
    for stratum in np.unique(units["stratum"]):
        own = units["stratum"] == stratum
        assert (kept & own).sum() == min(50, own.sum())
        # Those with the smallest positions stay.
        if own.sum() > 50:
            assert units["position"][own & kept].max() < units["position"][own & ~kept].min()


def test_nothing_at_all() -> None:
    cuts = find_cuts([], 0, [0.8, 0.2])
    assert len(cuts.splits(np.zeros(0, np.uint64), np.zeros(0, np.uint64))) == 0
