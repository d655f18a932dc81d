"""Stop anywhere, go on exactly, on any number of hosts; parts, filters and padding on the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from loader import load
from schemas import HeadraceError

RECORDS = 103
OPTIONS: dict[str, Any] = {
    "batch_size": 16,
    "image_size": 24,
    "augment": "strong",
    "features": ["image"],
    "with_ids": True,
    "seed": 7,
}


def rows(element: Any) -> list[tuple[bytes, ...]]:
    """Every row of a batch, each as the bytes of its parts."""
    parts = [part.numpy() for part in tf.nest.flatten(element)]
    return [tuple(part[row].tobytes() for part in parts) for row in range(len(parts[0]))]


def steps_of(datasets: list[tf.data.Dataset], epochs: int) -> list[list[tuple[bytes, ...]]]:
    """The global batches that hosts make together over some iterations."""
    found = []
    for _ in range(epochs):
        for elements in zip(*datasets, strict=True):
            found.append([row for element in elements for row in rows(element)])
    return found


def hosts(directory: Path, count: int, **options: Any) -> list[Any]:
    return [
        load(directory, process_index=i, process_count=count, **{**OPTIONS, **options}) for i in range(count)
    ]


def digest(steps: list[list[tuple[bytes, ...]]]) -> str:
    sha = hashlib.sha256()
    for step in steps:
        for row in step:
            for part in row:
                sha.update(part)
    return sha.hexdigest()


@pytest.fixture(scope="module")
def reference(photos: Path) -> list[list[tuple[bytes, ...]]]:
    """The batches of two epochs."""
    return steps_of(hosts(photos, 1), 2)


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
def test_any_number_of_hosts_makes_the_same_batches(photos, reference, count, last):
    found = steps_of(hosts(photos, count, last_batch=last), 2)
    if last == "drop":
        expected = [step for step in reference if len(step) == 16]
    elif last == "pad":
        expected = [row_with_mask(step) for step in reference]
        found = [[row for row in step if row[-1] == np.float32(1).tobytes()] for step in found]
    else:
        expected = reference
    assert found == expected


def row_with_mask(step: list[tuple[bytes, ...]]) -> list[tuple[bytes, ...]]:
    return [(*row, np.float32(1).tobytes()) for row in step]


def test_every_step_can_be_resumed_on_another_number_of_hosts(photos):
    """At every step of an epoch and of the next, from H hosts to H' hosts."""
    loader = hosts(photos, 1, augment="standard")[0]
    reference = steps_of(hosts(photos, 1, augment="standard"), 2)
    per_epoch = loader.steps_per_epoch()
    assert per_epoch == 7
    for step in range(2 * per_epoch):
        state = json.loads(json.dumps(loader.state(step)))
        assert len(json.dumps(state)) < 1024
        resumed = hosts(photos, (1, 2, 4, 8)[step % 4], state=state, augment="standard")
        # The first iteration is the rest of the epoch.
        rest = steps_of(resumed, 2 - step // per_epoch)
        assert digest(rest) == digest(reference[step:]), step
        assert resumed[0].step == step
        assert resumed[-1].state(step + 3) == loader.state(step + 3)


def test_states_are_the_same_whoever_asks(photos):
    one, two = hosts(photos, 1)[0], hosts(photos, 8)[5]
    assert [one.state(s) for s in range(40)] == [two.state(s) for s in range(40)]


def test_a_state_survives_another_batch_size(photos):
    """It counts examples: what is left of the epoch is left, in other batches."""
    first = load(photos, with_ids=True, features="name", seed=1, batch_size=16)
    order = [int(i) for x, _ in first for i in x["example_id"]]
    second = load(photos, with_ids=True, features="name", seed=1, batch_size=10, state=first.state(3))
    assert [int(i) for x, _ in second for i in x["example_id"]] == order[48:]
    assert second.state(4)["position"] == 58


def test_repeat_ends_where_it_would_have_ended(photos):
    whole = load(photos, with_ids=True, features="name", batch_size=16, repeat=3)
    order = [int(i) for x, _ in whole for i in x["example_id"]]
    rest = load(photos, with_ids=True, features="name", batch_size=16, repeat=3, state=whole.state(9))
    assert [int(i) for x, _ in rest for i in x["example_id"]] == order[RECORDS + 2 * 16 :]


def test_state_of_another_order_is_refused(photos):
    state = load(photos, seed=1).state(0)
    for options in [{"seed": 2}, {"split": "validation"}, {"shuffle": False}, {"split": "train[:50%]"}]:
        with pytest.raises(HeadraceError, match=r"(?s)another order.*toy 1\.0\.0.*must be those"):
            load(photos, **{"seed": 1, **options}, state=state)
    load(photos, seed=1, state=state, cache="memory", augment="light", image_size=8, threads=1)
    with pytest.raises(HeadraceError, match=r"(?s)another version.*format 99"):
        load(photos, seed=1, state={**state, "headrace_state": 99})
    with pytest.raises(HeadraceError, match=r"(?s)outside the epoch.*104"):
        load(photos, seed=1, state={**state, "position": 104})


def test_step_before_the_start_is_refused(photos):
    later = load(photos, state=load(photos).state(50))
    with pytest.raises(HeadraceError, match=r"(?s)step.*49.*at least 50"):
        later.state(49)


RESUME = """
import sys; sys.path.insert(0, sys.argv[3])
import json; from test_resume import OPTIONS, digest, hosts, steps_of
for state, count in json.loads(sys.argv[2]):
    print(digest(steps_of(hosts(sys.argv[1], count, state=state), 1)))
"""


def test_fresh_processes_go_on_alike(photos, reference, rng):
    """Across restarts of TensorFlow."""
    loader = hosts(photos, 1)[0]
    steps = sorted(int(s) for s in rng.integers(0, 7, 3))
    jobs = json.dumps([(loader.state(s), int(rng.choice([1, 2, 4, 8]))) for s in steps])
    here = str(Path(__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-c", RESUME, str(photos), jobs, here],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ran.stdout.split() == [digest(reference[s:7]) for s in steps]


def test_evaluation_counts_every_record_once_on_every_number_of_hosts(photos):
    """21 records in batches of 8 over 4 hosts: 3 steps everywhere, shapes static, masked rows zero."""
    seen, count = [], 4
    parts = [
        load(
            photos,
            "validation",
            batch_size=8,
            image_size=16,
            last_batch="pad",
            with_ids=True,
            process_index=i,
            process_count=count,
        )
        for i in range(count)
    ]
    assert {len(part) for part in parts} == {3}
    for part in parts:
        x, y, mask = part.element_spec
        assert x["image"].shape.as_list() == [2, 16, 16, 3]
        assert y.shape.as_list() == mask.shape.as_list() == [2]
        for features, label, weights in part:
            for row in range(2):
                if weights[row]:
                    seen.append(int(features["example_id"][row]))
                else:
                    assert not features["image"][row].numpy().any()
                    assert int(label[row]) == 0
                    assert features["name"][row].numpy() == b""
    assert sorted(seen) == list(range(21))


def test_padding_of_every_type(table):
    *_, last = load(table, batch_size=64, last_batch="pad", shuffle=False, cache="memory")
    mask = last["example_mask"].numpy()
    assert mask.tolist() == [True] * (2000 % 64) + [False] * (64 - 2000 % 64)
    assert last["words"].row_lengths().numpy()[~mask].sum() == 0
    assert last["words"][4].numpy().tolist() == list(range((2000 // 64 * 64 + 4) % 5))
    for name in ("number", "vector", "flag", "price"):
        assert not last[name].numpy()[~mask].any()


def test_parts_of_a_split_are_apart_and_together_whole(photos):
    cuts = ["train[:10%]", "train[10%:25]", "train[25:-30%]", "train[-30%:]"]
    found = [
        [int(x["example_id"]) for x, _ in load(photos, cut, features="name", with_ids=True, shuffle=True)]
        for cut in cuts
    ]
    assert sorted(i for cut in found for i in cut) == list(range(RECORDS))
    assert found[2] != sorted(found[2])
    assert len(load(photos, "train[:0]")) == 0


def test_parts_are_cached_apart(cells, tmp_path):
    for cut in ["train[:50%]", "train[50%:]"]:
        for cache in [None, "memory", "disk"]:
            dataset = load(cells, cut, cache=cache, cache_dir=tmp_path, batch_size=10, with_ids=True)
            found = [digest([rows(e) for e in dataset]) for _ in range(3)]
            if cache is None:
                reference = found
            assert found == reference
