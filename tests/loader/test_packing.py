"""Several examples in a row: nothing lost, nothing cut, rows full, resumable, planned from the index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader_data import deal, write_dataset
from order_checks import check_every_step

from loader import Packing, load
from loader.mixture import mix
from loader.order import HOLE
from loader.packing import Packed, best_fit
from loader.plan import Plan
from schemas import HeadraceError


def length_of(i: int) -> int:
    return i * 7919 % 13


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 0 … 12 values that say whose they are and which of them."""
    records = [
        {
            "tokens": [100 * i + k for k in range(length_of(i))],
            "weights": [i] * length_of(i),
            "other": [1],
            "number": i,
        }
        for i in range(150)
    ]
    return write_dataset(
        tmp_path_factory.mktemp("texts"),
        {
            "tokens": {"type": "int64", "shape": [None]},
            "weights": {"type": "int64", "shape": [None]},
            "other": {"type": "int64", "shape": [None]},
            "number": {"type": "int64"},
        },
        {"train": deal(records, 3)},
    )


def slow_best_fit(lengths: list[int], room: int) -> list[int]:
    """One by one."""
    free: list[int] = []
    rows = [0] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = [row for row, space in enumerate(free) if space >= lengths[i]]
        row = min(fits, key=lambda row: free[row]) if fits else len(free)
        if not fits:
            free.append(room)
        free[row] -= lengths[i]
        rows[i] = row
    return rows


def test_best_fit_is_as_good_as_one_by_one(rng):
    for _ in range(100):
        room = int(rng.integers(1, 60))
        lengths = rng.integers(1, room + 1, int(rng.integers(0, 200)))
        rows, openers = best_fit(lengths, room)
        used = np.bincount(rows, lengths, len(openers)) if len(rows) else np.zeros(0)
        assert (used <= room).all()
        assert (used > 0).all()
        slow = slow_best_fit(lengths.tolist(), room)
        assert len(openers) == len(set(slow))
        # The rooms left are the same; which of the like rows is taken is not.
        left = np.bincount(np.array(slow, int), lengths) if slow else np.zeros(0)
        assert sorted(used) == sorted(left)
        for row, opener in enumerate(openers):
            assert rows[opener] == row
            assert lengths[opener] == lengths[rows == row].max()


def packed(lengths: np.ndarray, room: int, window: int, *, shuffle: bool = True) -> Packed:
    return Packed(
        Plan(len(lengths), "x", 1, shuffle), lengths.astype(np.int32), Packing("t", room), window, shuffle
    )


@pytest.mark.parametrize("shape", ["short", "long", "uniform"])
def test_rows_are_full_on_lengths_as_they_come(rng, shape):
    """As instructions, articles and anything: lengths of at most 512."""
    draws = {
        "short": rng.lognormal(3.5, 0.9, 20_000),
        "long": rng.lognormal(5.5, 0.8, 20_000),
        "uniform": rng.uniform(1, 512, 20_000),
    }
    order = packed(np.clip(draws[shape], 1, 512).astype(int), 512, 8192)
    assert order.efficiency(0) >= 0.97


def test_an_epoch_has_every_example_once(rng):
    lengths = rng.integers(0, 30, 1000)
    order = packed(lengths, 30, 128)
    for epoch in range(3):
        ids, counts = order.examples(epoch, np.arange(order.count(epoch)))
        assert sorted(ids) == np.flatnonzero(lengths).tolist()
        sums = np.add.reduceat(lengths[ids], np.cumsum(counts) - counts)
        assert sums.max() <= 30
        assert order.efficiency(epoch) == lengths.sum() / (30 * len(counts))
        # A window of the order makes neighbouring rows.
        place = {int(i): k // 128 for k, i in enumerate(order.order.ids(epoch, 0, 1000))}
        windows = [place[int(i)] for i in ids]
        assert windows == sorted(windows)
    assert order.examples(0, np.arange(5))[0].tolist() != order.examples(1, np.arange(5))[0].tolist()


def test_some_rows_are_a_part_of_all(rng):
    order = packed(rng.integers(1, 30, 500), 30, 100)
    ids, counts = order.examples(0, np.arange(order.count(0)))
    whole = np.split(ids, np.cumsum(counts)[:-1])
    rows = rng.integers(0, order.count(0), 20)
    rows[3] = HOLE
    ids, counts = order.examples(0, rows)
    assert counts.tolist() == [0 if r == HOLE else len(whole[r]) for r in rows]
    assert ids.tolist() == [int(i) for r in rows if r != HOLE for i in whole[r]]


def test_not_shuffled_rows_keep_to_the_order(rng):
    order = packed(rng.integers(10, 30, 500), 30, 100, shuffle=False)
    ids, counts = order.examples(0, np.arange(order.count(0)))
    longest = [
        max(row, key=lambda i: (order.lengths[i], -i)) for row in np.split(ids, np.cumsum(counts)[:-1])
    ]
    assert longest == sorted(longest)


def test_rows_of_a_window_are_no_longer_by_kind(rng):
    """Best fit makes rows of long examples first; the order must not show it."""
    order = packed(np.clip(rng.lognormal(4, 0.8, 50_000), 1, 512).astype(int), 512, 1 << 16)
    _, counts = order.examples(0, np.arange(order.count(0)))
    half = len(counts) // 2
    deviation = counts.std() / np.sqrt(half / 2)
    assert abs(counts[:half].mean() - counts[half:].mean()) < 5 * deviation


def test_the_order_is_pinned():
    """Changing it changes every training run: a major version."""
    order = packed(np.arange(40) * 7919 % 13, 24, 16)
    ids, counts = order.examples(0, np.arange(4))
    assert ids.tolist() == [6, 25, 7, 4, 20, 10, 30, 16, 29, 36, 18, 12]
    assert counts.tolist() == [3, 4, 3, 2]


# With a data set on disk.


def examples(batch: Any) -> list[list[list[int]]]:
    """The examples of each row, taken apart again."""
    tokens = batch["tokens"].numpy()
    segments, positions = batch["tokens_segment_ids"].numpy(), batch["tokens_positions"].numpy()
    found = []
    for row, numbers, places in zip(tokens, segments, positions, strict=True):
        found.append([row[numbers == n].tolist() for n in range(1, numbers.max() + 1)])
        for n in range(1, numbers.max() + 1):
            assert places[numbers == n].tolist() == list(range((numbers == n).sum()))
        used = (numbers > 0).sum()
        assert (numbers[:used] == np.sort(numbers[:used])).all()
        assert not row[used:].any()
        assert not numbers[used:].any()
        assert not places[used:].any()
    return found


def batches(loader: Any) -> list[list[list[list[int]]]]:
    return [examples(batch) for batch in loader]


@pytest.mark.parametrize("cache", [None, "memory"])
def test_rows_hold_whole_examples(texts, cache):
    loader = load(texts, batch_size=4, sequences=Packing("tokens", 20), cache=cache)
    spec = loader.element_spec
    assert {name: (part.shape.as_list(), part.dtype.name) for name, part in spec.items()} == {
        "tokens": ([None, 20], "int64"),
        "tokens_segment_ids": ([None, 20], "int32"),
        "tokens_positions": ([None, 20], "int32"),
    }
    wanted = sorted([100 * i + k for k in range(length_of(i))] for i in range(150) if length_of(i))
    for epoch in range(3):
        found = batches(loader)
        assert len(found) == loader.steps_per_epoch(epoch)
        assert sorted(e for batch in found for row in batch for e in row) == wanted
    assert loader.efficiency() > 0.9


def test_lists_of_one_length_are_packed_alongside(texts):
    loader = load(
        texts, batch_size=4, sequences=Packing(["tokens", "weights"], 20), label="weights", with_ids=True
    )
    for features, weights in loader:
        numbers, ids = features["tokens_segment_ids"].numpy(), features["example_id"].numpy()
        tokens = features["tokens"].numpy()
        assert (ids == np.where(numbers > 0, tokens // 100, -1)).all()
        assert (weights.numpy() == np.where(numbers > 0, tokens // 100, 0)).all()


def test_every_step_can_be_resumed(rng):
    check_every_step(packed(rng.integers(1, 30, 400), 30, 100), 16)


def test_data_go_on_on_another_number_of_hosts(texts):
    options: dict[str, Any] = {"batch_size": 8, "sequences": Packing("tokens", 20), "seed": 3}
    whole = load(texts, **options)
    first = whole.steps_per_epoch()
    expected = batches(whole) + batches(whole)
    assert len(expected) == first + whole.steps_per_epoch(1)
    for step, count in ((1, 1), (first + 2, 4)):
        state = json.loads(json.dumps(whole.state(step)))
        parts = [
            load(texts, **options, state=state, process_index=h, process_count=count) for h in range(count)
        ]
        found = [[row for part in s for row in part] for s in zip(*map(batches, parts), strict=True)]
        assert found == expected[step : first if step < first else None], step


def test_padded_rows_are_masked(texts):
    loader = load(texts, batch_size=8, sequences=Packing("tokens", 20), last_batch="pad")
    *_, last = loader
    mask = last["example_mask"].numpy()
    assert mask.sum() == (loader._recipe.order.count(0) - 1) % 8 + 1
    assert (last["tokens_segment_ids"].numpy().any(1) == mask).all()


def test_single_rows(texts):
    loader = load(texts, sequences=Packing("tokens", 20))
    rows = list(loader)
    assert len(rows) == loader.steps_per_epoch()
    assert rows[0]["tokens"].shape == (20,)


def test_mixtures_are_packed(texts):
    loader = load([texts, texts], batch_size=4, sequences=Packing("tokens", 20), with_ids=True)
    found = set()
    for batch in loader:
        real = batch["tokens_segment_ids"].numpy() > 0
        found |= set(zip(batch["dataset"].numpy()[real], batch["tokens"].numpy()[real], strict=True))
    assert len(found) == 2 * sum(length_of(i) for i in range(150))


def test_a_damaged_example_leaves_its_place_empty(texts, tmp_path):
    root = Path(shutil.copytree(texts, tmp_path / "d"))
    shard = sorted(root.glob("*.tfrecord-*"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    loader = load(root, batch_size=4, sequences=Packing("tokens", 20), on_corrupt="skip")
    found = sorted(e for batch in batches(loader) for row in batch for e in row if e)
    wanted = sorted([100 * i + k for k in range(length_of(i))] for i in range(150) if length_of(i))
    assert len(found) == len(wanted) - 1
    assert all(e in wanted for e in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": Packing("tokens", 9)}, r"(?s)of 150.*'tokens'.*at most 9.*index\['tokens'\] <= 9"),
        ({"sequences": Packing("number", 9)}, "no list of any length"),
        (
            {"sequences": Packing(["tokens", "other"], 20)},
            "(?s)of one length.*values of 'other'.*as many as of 'tokens'",
        ),
        ({"features": ["tokens", "number"]}, "(?s)no place for features.*number.*tokens"),
        ({"label": "number"}, "(?s)no place for features.*number"),
        ({"augment": [lambda x, s: x]}, "Packed rows cannot be augmented"),
        ({"state": {"headrace_state": 1}}, "not a state"),
    ],
)
def test_what_cannot_be_packed(texts, options, message):
    with pytest.raises(HeadraceError, match=message):
        load(texts, **{"batch_size": 4, "sequences": Packing("tokens", 20), **options})
    with pytest.raises(HeadraceError, match=r"(?s)length.*0.*at least 1"):
        Packing("tokens", 0)


def test_lengths_come_from_the_index(tmp_path):
    records = [{"tokens": [1]}]
    features = {"tokens": {"type": "int64", "shape": [None]}}
    directory = write_dataset(tmp_path, features, {"train": [records]}, index=[])
    with pytest.raises(HeadraceError, match=r"(?s)index holds nothing of a feature 'tokens'.*index:"):
        load(directory, batch_size=1, sequences=Packing("tokens", 20))


def test_packed_mixtures_pack_what_the_mixture_draws():
    order = mix([Plan(100, "a", 1), Plan(10, "b", 1)], [1, 1], 60)
    lengths = np.arange(110) % 7 + 1
    packed_order = Packed(order, lengths.astype(np.int32), Packing("t", 16), 1000, True)
    for epoch in range(3):
        ids, _ = packed_order.examples(epoch, np.arange(packed_order.count(epoch)))
        assert sorted(ids) == sorted(order.ids(epoch, 0, 60))
