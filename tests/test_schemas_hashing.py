"""Where a record goes is pinned: another answer here is another data set for everyone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.hashing import (
    KEY_HASH_DTYPE,
    as_sortable,
    find_hashes,
    fingerprint,
    key_hashes,
    shard_bounds,
    split_bounds,
    split_of,
    split_positions,
)

KEYS = [b"", b"a", "ü".encode(), b"images/cell0001.png"]


def numbers(hashes: np.ndarray) -> list[int]:
    return [int.from_bytes(row.tobytes(), "big") for row in hashes]


def test_key_hashes_are_pinned() -> None:
    assert [row.tobytes().hex() for row in key_hashes(KEYS, 0)] == [
        "e7bc690d076cac922b8adc0023d710e0",
        "7fff23e90651a7a6123bf4e6696175f2",
        "2bdd850286c05a45e25c002c38a528fe",
        "9dcfa87279715ffc7109d83f10f455c8",
    ]
    assert key_hashes([b"a"], 1)[0].tobytes().hex() == "193a5bd88eb7e02c29fad951befc96b0"


def test_split_positions_are_pinned() -> None:
    keys = [b"", b"a", b"images/cell0001.png"]
    assert split_positions(keys, 0).tolist() == [
        17610483508368138999,
        16614268916345927349,
        9160301604212120715,
    ]
    assert split_positions([b"a"], 7).tolist() == [9498666186406509257]


def test_split_bounds_are_pinned() -> None:
    assert split_bounds([0.8, 0.1, 0.1]).tolist() == [14757395258967642112, 16602069666338596864]
    assert split_bounds([1.0]).tolist() == []


def test_splits_are_pinned() -> None:
    positions = split_positions([str(i).encode() for i in range(20)], 0)
    assert split_of(positions, [0.8, 0.1, 0.1]).tolist() == [
        *(0, 1, 0, 0, 0, 0, 1, 0, 0, 0),
        *(0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    ]


def test_shard_bounds_are_pinned() -> None:
    assert [row.tobytes().hex() for row in shard_bounds(3)] == [
        "00000000000000000000000000000000",
        "55555555555555555555555555555556",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
    ]


def test_fingerprints_are_pinned() -> None:
    assert fingerprint() == "7ebb3c7c2a87b1a2f8a7ed729ecb040d"
    assert fingerprint({"b": 1, "a": [1.5, None, "ü"]}, "x") == "33fd1a38c29b50373f4255ca98332094"
    assert fingerprint({"a": [1.5, None, "ü"], "b": 1}, "x") == "33fd1a38c29b50373f4255ca98332094"
    assert fingerprint("\udcff") != fingerprint("\udcfe")  # a file name that is not UTF-8


def test_the_interpreters_own_hash_seed_changes_nothing() -> None:
    code = (
        "from schemas.hashing import *; print(key_hashes([b'a'], 0).tobytes(), fingerprint({'a': 1, 'b': 2}))"
    )
    out = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(out) == 1


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(0, 2**31))
def test_hashes_of_many_are_the_hashes_of_each(keys: list[bytes], seed: int) -> None:
    together = key_hashes(keys, seed)
    assert together.shape == (len(keys), 16)
    for i, key in enumerate(keys):
        assert together[i].tobytes() == key_hashes([key], seed)[0].tobytes()
        assert split_positions(keys, seed)[i] == split_positions([key], seed)[0]


@given(st.integers(1, 5000))
def test_shard_bounds_are_those_of_exact_arithmetic(shards: int) -> None:
    bounds = numbers(shard_bounds(shards).view(np.uint8).reshape(-1, 16))
    assert bounds[0] == 0
    for shard, bound in enumerate(bounds):
        # The first hash of a shard, and the last of the one before.
        assert bound * shards >> 128 == shard
        assert shard == 0 or (bound - 1) * shards >> 128 == shard - 1


@given(
    st.lists(st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 3)), min_size=1, max_size=30),
    st.integers(1, 300),
)
def test_a_search_in_shard_bounds_finds_the_shard(hashes: list[int], shards: int) -> None:
    rows = np.frombuffer(b"".join(h.to_bytes(16, "big") for h in hashes), np.uint8).reshape(-1, 16)
    found = np.searchsorted(shard_bounds(shards), as_sortable(rows), side="right") - 1
    assert found.tolist() == [h * shards >> 128 for h in hashes]


HALVES = st.integers(0, 3)  # so that some repeat


@given(st.lists(st.tuples(HALVES, HALVES), max_size=20), st.sets(st.tuples(HALVES, HALVES), max_size=6))
def test_hashes_are_found_where_they_are(wanted: list[tuple[int, int]], known: set[tuple[int, int]]) -> None:
    among = np.array(sorted(known), KEY_HASH_DTYPE)
    found = find_hashes(np.array(wanted, KEY_HASH_DTYPE), among)
    assert found.tolist() == [sorted(known).index(each) if each in known else -1 for each in wanted]


@given(st.lists(st.integers(0, 2**128 - 1), max_size=30))
def test_sortable_hashes_sort_as_their_bytes_do(hashes: list[int]) -> None:
    rows = np.frombuffer(b"".join(h.to_bytes(16, "big") for h in hashes), np.uint8).reshape(-1, 16)
    in_order = np.sort(as_sortable(rows)).astype(KEY_HASH_DTYPE)
    assert numbers(in_order.view(np.uint8).reshape(-1, 16)) == sorted(hashes)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(0, 2**64 - 1))
def test_a_position_lies_in_the_split_of_exact_arithmetic(weights: list[int], position: int) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    split = int(split_of(np.array([position], np.uint64), fractions)[0])
    low, high = sum(weights[:split]), sum(weights[: split + 1])
    # A float holds a fraction to 2**-53; a position nearer than that to a bound may lie on either side.
    slack = len(weights) << 12
    assert low * 2**64 // sum(weights) - slack <= position <= high * 2**64 // sum(weights) + slack


def test_every_bound_opens_the_next_split() -> None:
    fractions = [0.5, 0.25, 0.25]
    bounds = [2**63, 2**63 + 2**62]
    positions = np.array([0, *(b + d for b in bounds for d in (-1, 0)), 2**64 - 1], np.uint64)
    assert split_of(positions, fractions).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_hold_their_fractions(seed: int) -> None:
    count, fractions = 100_000, [0.8, 0.15, 0.05]
    positions = split_positions((str(i).encode() for i in range(count)), seed)
    found = np.bincount(split_of(positions, fractions), minlength=3)
    for number, fraction in zip(found, fractions, strict=True):
        # Six standard deviations: one run in five hundred million fails by chance, and these never change.
        assert abs(number - count * fraction) < 6 * (count * fraction * (1 - fraction)) ** 0.5


def test_shards_hold_even_shares() -> None:
    count, shards = 100_000, 16
    hashes = as_sortable(key_hashes((str(i).encode() for i in range(count)), 0))
    found = np.bincount(np.searchsorted(shard_bounds(shards), hashes, side="right") - 1, minlength=shards)
    assert np.all(np.abs(found - count / shards) < 6 * (count / shards) ** 0.5)


def test_splits_and_shards_are_independent() -> None:
    keys = [str(i).encode() for i in range(100_000)]
    first_split = split_of(split_positions(keys, 0), [0.5, 0.5]) == 0
    first_shard = key_hashes(keys, 0)[:, 0] < 128
    both = int((first_split & first_shard).sum())
    assert abs(both - 25_000) < 6 * (100_000 * 0.25 * 0.75) ** 0.5


def test_adding_records_moves_no_other() -> None:
    old, new = [str(i).encode() for i in range(1000)], [str(i).encode() for i in range(1500)]
    np.testing.assert_array_equal(key_hashes(new, 0)[:1000], key_hashes(old, 0))
    fractions = [0.9, 0.1]
    np.testing.assert_array_equal(
        split_of(split_positions(new, 0)[:1000], fractions), split_of(split_positions(old, 0), fractions)
    )


def test_doubling_the_shards_splits_each_in_two() -> None:
    hashes = as_sortable(key_hashes([str(i).encode() for i in range(1000)], 0))
    few = np.searchsorted(shard_bounds(8), hashes, side="right") - 1
    many = np.searchsorted(shard_bounds(16), hashes, side="right") - 1
    np.testing.assert_array_equal(many // 2, few)


def test_another_seed_is_another_order() -> None:
    keys = [str(i).encode() for i in range(1000)]
    orders = [np.argsort(as_sortable(key_hashes(keys, seed)), order=("hi", "lo")) for seed in (0, 1)]
    assert abs(np.corrcoef(*orders)[0, 1]) < 0.2
