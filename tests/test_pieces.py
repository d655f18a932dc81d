"""Pieces of records: where they begin, what lies behind them, and the order in which they are written."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import merge, pieces
from beam_jobs.pieces import SPARE, bounds, copied, neighbours_together
from beam_jobs.runs import hash_order, in_order
from schemas.hashing import as_sortable


def generator() -> np.random.Generator:
    """A generator of a seed that is printed."""
    seed = random.randrange(10**6)
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 1,000 bytes or 30 records, twice as many bytes of 15, and windows of two of them."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    monkeypatch.setattr(pieces, "_FEW_RECORDS", 15)
    monkeypatch.setattr(pieces, "_PIECE_RECORDS", 30)
    monkeypatch.setattr(merge, "_WINDOW_BYTES", 2000)


@pytest.mark.usefixtures("small")
def test_pieces_are_the_same_from_any_of_them_on() -> None:
    rng = generator()
    lengths = np.where(rng.random(500) < 0.02, 2500, rng.integers(17, 90, 500))
    lengths[200:300] *= 2
    found = bounds(lengths)
    assert (found[0], found[-1]) == (0, 500)
    sizes = [(stop - start, int(lengths[start:stop].sum())) for start, stop in pairwise(found)]
    assert all(n == 1 or (size <= 1000 and n <= 30) or (size <= 2000 and n <= 15) for n, size in sizes)
    assert any(n > 15 for n, _ in sizes)
    assert any(n > 1 and size > 1000 for n, size in sizes)
    for start in found:
        assert bounds(lengths[start:]) == [place - start for place in found if place >= start]
    windows = list(merge._windows(lengths))
    assert [start for start, _ in windows] == [0, *(stop for _, stop in windows[:-1])]
    assert windows[-1][1] == 500
    assert {stop for _, stop in windows} <= set(found)
    for start, stop in windows:
        assert lengths[start:stop].sum() <= 2000 or (start, stop) in pairwise(found)
    assert list(merge._windows(lengths[:0])) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("large", [False, True])
def test_records_are_in_order(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_LARGE_RECORD_BYTES", 1 if large else 100)
    rng = generator()
    records = [rng.bytes(int(size)) for size in rng.integers(17, 90, 300)]
    order = rng.permutation(300)
    order[100:200] = np.arange(100, 200)  # some lie side by side
    order[:100], order[200:] = rng.permutation(100), rng.permutation(100) + 200
    chunks = [pa.array(records[:100], pa.large_binary()), pa.array(records[100:], pa.large_binary())]
    lists = list(in_order(chunks, order))
    assert len(lists) > 5
    assert all((len(parts) == 1) == (not large) or len(parts) < 30 for parts in lists)
    assert b"".join(part.tobytes() for parts in lists for part in parts) == b"".join(
        records[place] for place in order
    )


def test_copied_records_have_spare_memory_behind_them() -> None:
    rng = generator()
    records = [rng.bytes(int(size)) for size in rng.integers(1, 90, 300)]
    order = rng.permutation(300)[:200]
    wanted = b"".join(records[place] for place in order)
    found = copied(
        pa.array(records, pa.large_binary()), order, np.array([len(records[place]) for place in order])
    )
    assert found[: len(wanted)].tobytes() == wanted
    assert len(found) >= len(wanted) + SPARE


def test_records_side_by_side_are_one_part() -> None:
    buffers = [np.arange(100, dtype=np.uint8), np.arange(100, 200, dtype=np.uint8)]
    owners, starts = np.array([0, 0, 0, 1, 1]), np.array([10, 20, 50, 60, 30])
    parts = neighbours_together(buffers, owners, starts, starts + 10)
    assert [(int(part[0]), len(part)) for part in parts] == [(10, 20), (50, 10), (160, 10), (130, 10)]


@pytest.mark.parametrize("repeated", [False, True])
def test_hashes_are_in_the_order_of_their_bytes(repeated: bool) -> None:
    rng = generator()
    hashes = rng.integers(0, 256, (400, 16)).astype(np.uint8)
    if repeated:  # all of it, and its first half only
        hashes[200:300], hashes[300:, :8] = hashes[:100], hashes[:100, :8]
    rows, others = rng.permutation(400), rng.integers(0, 3, 400)
    order = hash_order(as_sortable(hashes), others, rows)
    wanted = sorted(range(400), key=lambda place: (hashes[place].tobytes(), others[place], rows[place]))
    assert order.tolist() == wanted
