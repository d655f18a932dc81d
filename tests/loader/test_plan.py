"""The order: a permutation, pinned, and as random as it should be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from loader.plan import Plan, make_plan

# Sizes at and around powers of two, where weak ciphers show, and others.
SIZES = [100, 127, 128, 129, 255, 256, 257, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 3000, 4095, 4096, 4097]

GOLDEN = {
    "single": [8, 4, 1, 5, 2, 3, 11, 6, 7, 0, 10, 9],
    "next epoch": [6, 11, 9, 1, 7, 2, 10, 3, 5, 0, 8, 4],
    "next seed": [6, 8, 4, 9, 0, 11, 7, 2, 5, 1, 3, 10],
    "blocks": [9, 3, 11, 2, 8, 10, 4, 7, 0, 5, 6, 1],
    "seeds": [[-5314226695011144394, -713333098191061976], [8567647025482359967, -1297327314675132001]],
}


def epoch_of(plan: Plan, epoch: int) -> np.ndarray:
    return plan.ids(epoch, 0, plan.records)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_every_record_exactly_once_at_any_size(block, window):
    for records in [*range(1, 40), 1023, 1024, 1025]:
        plan = Plan(records, "x", 0, True, block, window)
        assert sorted(epoch_of(plan, 3).tolist()) == list(range(records)), records


def test_any_part_is_a_slice_of_the_whole(rng):
    for _ in range(300):
        records, block, window = (int(v) for v in rng.integers(1, (300, 9, 9)))
        plan = Plan(records, "x", 1, True, block, window)
        start, stop = sorted(int(v) for v in rng.integers(0, records + 1, 2))
        np.testing.assert_array_equal(plan.ids(2, start, stop), epoch_of(plan, 2)[start:stop])


def test_golden_order():
    """Pinned: a change here changes every training run, and is a new major version."""
    assert epoch_of(Plan(12, "abc/train", 0), 0).tolist() == GOLDEN["single"]
    assert epoch_of(Plan(12, "abc/train", 0), 1).tolist() == GOLDEN["next epoch"]
    assert epoch_of(Plan(12, "abc/train", 1), 0).tolist() == GOLDEN["next seed"]
    assert epoch_of(Plan(12, "abc/train", 0, True, 2, 3), 0).tolist() == GOLDEN["blocks"]
    assert Plan(12, "abc/train", 0).seeds(0, np.arange(2), np.arange(2)).tolist() == GOLDEN["seeds"]


def test_stored_order_when_not_shuffled():
    plan = Plan(10, "x", 0, False, 3, 2)
    assert plan.ids(5, 2, 7).tolist() == [2, 3, 4, 5, 6]


def test_blocks_and_windows_suit_the_size_of_records():
    large = make_plan(1000, 40_000_000, "x", seed=0, shuffle=True)
    assert large.block == 1
    small = make_plan(1_000_000, 200_000_000, "x", seed=0, shuffle=True)
    assert 4 << 10 <= small.block * 200 <= 8 << 10
    assert small.window > 4000
    assert make_plan(0, 0, "x", seed=0, shuffle=True).count(0) == 0
    assert -(-(1 << 40) // make_plan(1 << 40, 1 << 50, "x", seed=0, shuffle=True).block) <= 1 << 22


def plans(records):
    """A plain permutation, and one by blocks and windows."""
    return [Plan(records, "quality", 0), Plan(records, "quality", 0, True, 4, max(2, records // 8))]


@pytest.mark.parametrize("records", SIZES)
def test_neighbours_in_the_order_are_unrelated(records):
    """The lag-1 correlation over 50 epochs is within 4.5 standard errors of a random permutation's -1 / (n - 1)."""
    for plan in plans(records):
        values = [np.corrcoef(o[:-1], o[1:])[0, 1] for o in (epoch_of(plan, e) for e in range(50))]
        # Two of one block are neighbours a little more often, as both are in the same window.
        expected = -1 / (records - 1) + (plan.block - 1) / plan.window_records
        z = (np.mean(values) - expected) * np.sqrt(records * len(values))
        assert abs(z) < 4.5, (plan, z)


@pytest.mark.parametrize("records", SIZES)
def test_every_record_comes_at_any_position(records):
    """Chi-squared of (id, position) over 8 x 8 cells and 60 epochs."""
    for plan in plans(records):
        counts = np.zeros((8, 8))
        for epoch in range(60):
            order = epoch_of(plan, epoch)
            np.add.at(counts, (order * 8 // records, np.arange(records) * 8 // records), 1)
        rows, columns = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
        expected = rows * columns / counts.sum()
        chi2 = ((counts - expected) ** 2 / expected).sum()
        # 49 degrees of freedom; cells of a permutation vary a little less than independent ones,
        # and those of blocks move in lots of `block`.
        assert 49 * 0.35 < chi2 < 49 * 2.2 * plan.block, (plan, chi2)


@pytest.mark.parametrize("records", [1000, 1024, 4096, 4097])
def test_batches_are_composed_as_by_chance(records):
    """The number of low ids in a batch varies as the hypergeometric distribution says, not less and not more."""
    plan, batch, found = Plan(records, "quality", 3), 32, []
    for epoch in range(100):
        low = epoch_of(plan, epoch)[: records // batch * batch].reshape(-1, batch) < records // 2
        found.append(low.sum(1))
    share = (records // 2) / records
    variance = batch * share * (1 - share) * (records - batch) / (records - 1)
    ratio = np.var(np.concatenate(found)) / variance
    assert abs(ratio - 1) < 5 * np.sqrt(2 / (100 * (records // batch))), ratio


def test_seeds_and_epochs_are_unrelated():
    """Orders of all pairs of 6 seeds x 6 epochs agree as often as random permutations do, seed 1 epoch 0 included."""
    orders = {(s, e): epoch_of(Plan(2000, "q", s), e) for s in range(6) for e in range(6)}
    for (one, a), (other, b) in itertools.combinations(orders.items(), 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(2000), (one, other)
        assert (a == b).sum() < 10, (one, other)


def test_data_sets_have_orders_of_their_own():
    assert epoch_of(Plan(100, "one", 0), 0).tolist() != epoch_of(Plan(100, "other", 0), 0).tolist()


def test_seeds_of_examples_are_all_different_and_bits_are_fair():
    ids = np.arange(2000)
    seeds = np.concatenate([Plan(9, "x", s).seeds(e, ids, ids) for s in range(3) for e in range(3)])
    assert len(np.unique(seeds, axis=0)) == len(seeds)
    bits = np.unpackbits(seeds.view(np.uint8), axis=1).mean(0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(len(seeds))
