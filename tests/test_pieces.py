"""Pieces of records: where they begin, what lies behind them, and the order in which they are written."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import merge, pieces
from beam_jobs.pieces import SPARE, bounds, with_spare
from beam_jobs.runs import hash_order, in_order
from schemas.hashing import as_sortable


def generator() -> np.random.Generator:
    """A generator of a seed that is printed."""
    seed = random.randrange(10**6)
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 1,000 bytes or 30 records, and windows of two of them."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    monkeypatch.setattr(pieces, "_PIECE_RECORDS", 30)
    monkeypatch.setattr(merge, "_WINDOW_BYTES", 2000)


@pytest.mark.usefixtures("small")
def test_pieces_are_the_same_from_any_of_them_on() -> None:
    rng = generator()
    lengths = np.where(rng.random(500) < 0.02, 1500, rng.integers(17, 90, 500))
    found = bounds(lengths)
    assert (found[0], found[-1]) == (0, 500)
    for start, stop in pairwise(found):
        assert stop - start == 1 or (lengths[start:stop].sum() <= 1000 and stop - start <= 30)
        assert bounds(lengths[start:]) == [place - start for place in found if place >= start]
    windows = list(merge._windows(lengths))
    assert [start for start, _ in windows] == [0, *(stop for _, stop in windows[:-1])]
    assert windows[-1][1] == 500
    assert {stop for _, stop in windows} <= set(found)
    for start, stop in windows:
        assert lengths[start:stop].sum() <= 2000 or (start, stop) in pairwise(found)
    assert list(merge._windows(lengths[:0])) == []


@pytest.mark.usefixtures("small")
def test_records_in_order_have_spare_memory_behind_them() -> None:
    rng = generator()
    records = [rng.bytes(int(size)) for size in rng.integers(17, 90, 300)]
    order = rng.permutation(300)
    lists = list(
        in_order(
            [pa.array(records[:100], pa.large_binary()), pa.array(records[100:], pa.large_binary())], order
        )
    )
    assert len(lists) > 5
    for (part,) in lists:
        spare = with_spare(part)
        assert spare is not None
        assert len(spare) == len(part) + SPARE
        assert spare[: len(part)].tobytes() == part.tobytes()
    assert b"".join(part.tobytes() for (part,) in lists) == b"".join(records[place] for place in order)


def test_what_ends_with_its_memory_has_nothing_to_spare() -> None:
    memory = np.arange(2000, dtype=np.uint64).view(np.uint8)
    assert with_spare(memory) is None
    assert with_spare(memory[-SPARE - 9 : -SPARE]) is None, "its memory is of other numbers"
    memory = np.arange(2000).astype(np.uint8)
    assert with_spare(memory[5 : -SPARE + 1]) is None
    found = with_spare(memory[5:-SPARE])
    assert found is not None
    assert found.tobytes() == memory[5:].tobytes()


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
