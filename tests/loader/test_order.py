"""How an epoch's positions fall into batches and onto hosts."""

from __future__ import annotations

import numpy as np
import pytest

from loader.order import HOLE, Batches, HostView
from loader.part import parse_part
from loader.plan import Plan
from schemas import HeadraceError


def view(host: int, hosts: int, batch_size: int | None, last: str, records: int) -> HostView:
    return HostView(Plan(records, "x", 1), Batches(batch_size, last, host, hosts))


def batches(host: int, hosts: int, batch_size: int, last: str, records: int, first: int) -> list[list[int]]:
    """The examples of each of a host's batches, as batching its rows makes them."""
    found = view(host, hosts, batch_size, last, records)
    rows = found.rows(0, first)
    ids = found.take(0, first, 0, rows)[1].tolist()
    size = found.batches.host_size
    steps = found.batches.steps(records - first)
    return [ids[step * size : (step + 1) * size] for step in range(steps)]


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
def test_hosts_together_have_the_batches_of_one(hosts, last):
    for records in [0, 1, 2, 23, 24, 25, 100, 119, 120, 121]:
        for first in {0, min(5, records), records}:
            whole = batches(0, 1, 24, last, records, first)
            parts = [batches(host, hosts, 24, last, records, first) for host in range(hosts)]
            assert {len(part) for part in parts} == {len(whole)}
            together = [[i for part in step for i in part] for step in zip(*parts, strict=True)]
            if last == "pad":
                assert all(len(step) == 24 for step in together)
            # Rows of a host that has none of a last batch are holes, to be taken out.
            together, whole = ([[i for i in step if i != HOLE] for step in t] for t in (together, whole))
            assert together == whole
            if last != "drop":
                order = Plan(records, "x", 1).ids(0, first, records).tolist()
                assert [i for step in together for i in step] == order


@pytest.mark.parametrize("batch_size", [None, 24])
def test_any_stretch_of_rows_is_a_slice_of_all(rng, batch_size):
    for _ in range(200):
        hosts = int(rng.choice([1, 2, 3, 4, 8]))
        records = int(rng.integers(1, 200))
        found = view(
            int(rng.integers(hosts)), hosts, batch_size, str(rng.choice(["keep", "drop", "pad"])), records
        )
        first = int(rng.integers(records + 1))
        rows = found.rows(0, first)
        everything = found.take(0, first, 0, rows)
        start, stop = sorted(int(v) for v in rng.integers(0, rows + 1, 2))
        for part, whole in zip(found.take(0, first, start, stop), everything, strict=True):
            np.testing.assert_array_equal(part, whole[start:stop])


def test_single_examples_are_dealt_in_turn():
    parts = [view(host, 3, None, "keep", 10) for host in range(3)]
    assert [part.take(0, 0, 0, part.rows(0, 0))[0].tolist() for part in parts] == [
        [0, 3, 6, 9],
        [1, 4, 7],
        [2, 5, 8],
    ]


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("train", (0, 103)),
        ("train[:]", (0, 103)),
        ("train[:10]", (0, 10)),
        ("train[-10:]", (93, 103)),
        ("train[10%:20%]", (10, 21)),
        ("train[-10%:]", (93, 103)),
        ("train[:90%]", (0, 93)),
        ("train[12.5%:50%]", (13, 52)),
        ("train[5:5]", (5, 5)),
    ],
)
def test_parts_of_a_split(text, bounds):
    part = parse_part(text, {"train": 103})
    assert (part.chosen.start, part.chosen.stop) == bounds
    assert part.name == ("train" if bounds == (0, 103) else f"train[{bounds[0]}:{bounds[1]}]")


def test_parts_that_meet_leave_no_gap():
    for records in range(300):
        cuts = [parse_part(f"t[{p}%:{p + 10}%]", {"t": records}).chosen for p in range(0, 100, 10)]
        assert [i for cut in cuts for i in cut] == list(range(records))
        low, high = (parse_part(t, {"t": records}).chosen for t in ("t[:-25%]", "t[-25%:]"))
        assert low.stop == high.start


@pytest.mark.parametrize(
    "text", ["train[", "train[1:2", "train[a:b]", "train[::2]", "train[5]", "train[0.5:]"]
)
def test_nonsense_parts(text):
    with pytest.raises(HeadraceError, match=r"(?s)not a part of a split.*train\[10%:20%\]"):
        parse_part(text, {"train": 10})


def test_parts_outside_the_split():
    for text in ["train[:104]", "train[-104:]", "train[50%:20%]", "train[:101%]"]:
        with pytest.raises(HeadraceError, match=r"(?s)outside the split.*0 … 103"):
            parse_part(text, {"train": 103})
