"""Batches of like length: dealt in order, full but for the last of each bucket, resumable, planned from the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader_data import deal, write_dataset
from order_checks import check_every_step

from loader import Buckets, load
from loader.bucket import Bucketed
from loader.mixture import mix
from loader.order import HOLE
from loader.plan import Plan
from schemas import HeadraceError

BOUNDS = [4, 9, 20]


def length_of(i: int) -> int:
    return i * 7919 % 21


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of 0 … 20 values that say whose they are, and shorter ones beside them."""
    records = [
        {"tokens": [i] * length_of(i), "tags": [0.5] * (length_of(i) // 2 + 1), "number": i}
        for i in range(150)
    ]
    return write_dataset(
        tmp_path_factory.mktemp("texts"),
        {
            "tokens": {"type": "int64", "shape": [None]},
            "tags": {"type": "float32", "shape": [None]},
            "number": {"type": "int64"},
        },
        {"train": deal(records, 3)},
    )


def bucketed(count: int, batch_size: int, last: str = "keep", seed: int = 1) -> Bucketed:
    lengths = np.array([length_of(i) for i in range(count)], np.int32)
    return Bucketed(Plan(count, "x", seed), lengths, Buckets("t", BOUNDS), batch_size, last)


def oracle(order: Bucketed, epoch: int) -> list[list[int]]:
    """Dealt one by one."""
    open_batches: dict[int, list[int]] = {k: [] for k in range(len(BOUNDS))}
    batches = []
    for i in order.order.ids(epoch, 0, order.order.count(epoch)).tolist():
        bucket = next(k for k, bound in enumerate(BOUNDS) if order.lengths[i] <= bound)
        open_batches[bucket].append(i)
        if len(open_batches[bucket]) == order.batch_size:
            batches.append(open_batches[bucket])
            open_batches[bucket] = []
    if order.last != "drop":
        size = order.batch_size
        batches += [rest + [HOLE] * (size - len(rest)) for rest in open_batches.values() if rest]
    return batches


@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
@pytest.mark.parametrize("count", [0, 1, 7, 64, 500])
def test_batches_are_those_dealt_one_by_one(count, last):
    order = bucketed(count, 8, last)
    for epoch in range(3):
        size = order.count(epoch)
        assert order.ids(epoch, 0, size).reshape(-1, 8).tolist() == oracle(order, epoch)
        bounds = order.bounds(epoch, np.arange(size)).reshape(-1, 8)
        for batch, bound in zip(oracle(order, epoch), bounds, strict=True):
            longest = max(order.lengths[i] for i in batch if i != HOLE)
            assert set(bound) == {next(b for b in BOUNDS if longest <= b)}


def test_batches_of_a_mixture():
    plans = [Plan(200, "a", 1), Plan(30, "b", 1)]
    lengths = np.array([length_of(i) for i in range(230)], np.int32)
    order = Bucketed(mix(plans, [1, 1], 170), lengths, Buckets("t", BOUNDS), 8, "keep")
    for epoch in range(3):
        size = order.count(epoch)
        ids = order.ids(epoch, 0, size)
        assert ids.reshape(-1, 8).tolist() == oracle(order, epoch)
        # Each example is seeded as where it stood in the mixture.
        expected = order.order.seeds(epoch, np.arange(170), order.order.ids(epoch, 0, 170))
        found = order.seeds(epoch, np.arange(size), ids)[ids != HOLE]
        assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_efficiency_counts_padding():
    order = bucketed(500, 8, "drop")
    values, room = 0, 0
    for batch in oracle(order, 1):
        longest = max(order.lengths[i] for i in batch)
        values += sum(int(order.lengths[i]) for i in batch)
        room += 8 * next(b for b in BOUNDS if longest <= b)
    assert order.efficiency(1) == values / room


def rows(batch: Any) -> list[tuple[int, ...]]:
    return [(int(n), *map(int, t)) for n, t in zip(batch["number"], batch["tokens"].numpy(), strict=True)]


def batches(loader: Any) -> list[list[tuple[int, ...]]]:
    return [rows(batch) for batch in loader]


@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
def test_batches_are_padded_to_few_shapes(texts, last):
    loader = load(texts, batch_size=16, sequences=Buckets("tokens", BOUNDS), last_batch=last)
    assert loader.element_spec["tokens"].shape.as_list() == [None if last == "keep" else 16, None]
    seen: list[int] = []
    count = 0
    for batch in loader:
        count += 1
        assert batch["tokens"].shape[1] in BOUNDS
        bucket = BOUNDS.index(batch["tokens"].shape[1])
        mask = batch["example_mask"].numpy() if last == "pad" else np.ones(len(batch["number"]), bool)
        for number, tokens, real in zip(batch["number"].numpy(), batch["tokens"].numpy(), mask, strict=True):
            length = length_of(int(number)) if real else 0
            assert tokens.tolist() == [number] * length + [0] * (BOUNDS[bucket] - length)
            if real:
                seen.append(int(number))
                assert length <= BOUNDS[bucket]
                assert bucket == 0 or length > BOUNDS[bucket - 1]
        assert len(batch["tags"].numpy()) == len(mask)  # not asked to be padded
    assert count == loader.steps_per_epoch() == len(loader)
    if last == "drop":
        assert len(set(seen)) == len(seen) == 16 * count
    else:
        assert sorted(seen) == list(range(150))
    assert 0.5 < loader.efficiency() < 1


def test_the_longest_of_several_lists_decides(texts):
    loader = load(texts, batch_size=16, sequences=Buckets(["tags", "tokens"], BOUNDS), label="tags")
    for features, tags in loader:
        assert tags.shape[1] == features["tokens"].shape[1] in BOUNDS


def test_ragged_if_asked(texts):
    loader = load(texts, batch_size=16, sequences=Buckets("tokens", BOUNDS, padded=False))
    padded = load(texts, batch_size=16, sequences=Buckets("tokens", BOUNDS))
    for one, two in zip(loader, padded, strict=True):
        assert one["number"].numpy().tolist() == two["number"].numpy().tolist()
        assert [len(t) for t in one["tokens"].numpy()] == [length_of(int(n)) for n in one["number"]]


@pytest.mark.parametrize("last", ["keep", "drop"])
def test_every_step_can_be_resumed(last):
    check_every_step(bucketed(150, 16, last), 16)


def test_data_go_on_on_another_number_of_hosts(texts):
    options: dict[str, Any] = {"batch_size": 16, "sequences": Buckets("tokens", BOUNDS), "seed": 3}
    whole = load(texts, **options)
    expected = batches(whole)
    for step, count in ((1, 1), (len(expected) - 3, 4)):
        state = json.loads(json.dumps(whole.state(step)))
        parts = [
            load(texts, **options, state=state, process_index=h, process_count=count) for h in range(count)
        ]
        steps = list(zip(*parts, strict=True))
        # On every host one shape, even where all its rows are another host's.
        assert all(len({batch["tokens"].shape[1] for batch in step}) == 1 for step in steps)
        assert [[row for batch in step for row in rows(batch)] for step in steps] == expected[step:]


def test_cached_lists_are_the_same(texts):
    options: dict[str, Any] = {"batch_size": 16, "sequences": Buckets("tokens", BOUNDS)}
    plain, cached = load(texts, **options), load(texts, **options, cache="memory")
    for _ in range(2):
        assert batches(cached) == batches(plain)


def test_a_state_is_of_its_buckets(texts):
    options: dict[str, Any] = {"batch_size": 16, "sequences": Buckets("tokens", BOUNDS)}
    state = load(texts, **options).state(3)
    for other in ({"sequences": None}, {"sequences": Buckets("tokens", [10, 20])}, {"batch_size": 8}):
        with pytest.raises(HeadraceError, match="another order"):
            load(texts, **{**options, **other}, state=state)


def test_mixtures_have_buckets(texts):
    loader = load([texts, texts], batch_size=8, sequences=Buckets("tokens", BOUNDS), with_ids=True)
    found = [
        (int(d), int(n))
        for b in loader
        for d, n in zip(b["dataset"].numpy(), b["number"].numpy(), strict=True)
    ]
    assert sorted(found) == [(d, n) for d in range(2) for n in range(150)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sequences": Buckets("tokens", [4, 9])},
            r"(?s)77 of 150.*'tokens'.*at most 9.*where=lambda index: ",
        ),
        ({"sequences": Buckets("number", [4])}, r"(?s)no list.*'number'|number.*tokens"),
        ({"sequences": Buckets("tokens", [20]), "features": "number"}, "no list of any length"),
        (
            {"sequences": Buckets("tokens", [20]), "batch_size": None},
            "(?s)Buckets are of batches.*batch_size",
        ),
    ],
)
def test_what_has_no_bucket(texts, options, message):
    with pytest.raises(HeadraceError, match=message):
        load(texts, **{"batch_size": 4, **options})


def test_the_hint_helps(texts):
    loader = load(
        texts, batch_size=4, sequences=Buckets("tokens", [4, 9]), where=lambda index: index["tokens"] <= 9
    )
    assert sum(len(b["number"]) for b in loader) == sum(length_of(i) <= 9 for i in range(150))


def test_bounds_that_are_none():
    for bounds in ([], [4, 4], [9, 4]):
        with pytest.raises(HeadraceError, match=r"(?s)must rise.*such as \[32"):
            Buckets("tokens", bounds)
    with pytest.raises(HeadraceError, match=r"(?s)bounds.*0.*at least 1"):
        Buckets("tokens", [0, 4])
