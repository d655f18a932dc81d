"""Several data sets as one: exact shares, each data set in its own order, on any number of hosts, from any step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from loader_data import deal, write_dataset
from order_checks import check_every_step

from loader import load
from loader.mixture import Mixture, mix
from loader.order import HOLE
from loader.plan import Plan
from schemas import HeadraceError


def plans(*sizes: int, shuffle: bool = True) -> list[Plan]:
    return [Plan(size, f"data {k}", 5, shuffle) for k, size in enumerate(sizes)]


def drawn(mixture: Mixture, count: int) -> tuple[np.ndarray, np.ndarray]:
    return mixture.draws(np.arange(count))


MIXTURES = [
    ([100, 200], [3, 1], None),
    ([100, 200], [1, 0], None),
    ([7], [2.5], 10),
    ([1, 100_000], [1, 1], 5000),
    ([50, 60, 70], [0.1, 0.2, 0.7], 999),
    ([1000] * 35, list(range(1, 36)), 2500),
    ([5, 5, 5], [1, 1, 1], 7),
    ([10, 400, 3000], [1, 300, 5000], 100),
    ([13_688, 200, 3], None, None),
]


@pytest.mark.parametrize(("sizes", "weights", "epoch_size"), MIXTURES)
def test_shares_are_exact(sizes, weights, epoch_size):
    """Cumulated shares at the end of every block: the exact ones, rounded down or up."""
    mixture = mix(plans(*sizes), weights, epoch_size)
    exact = np.array(sizes if weights is None else weights) / sum(sizes if weights is None else weights)
    of, number = drawn(mixture, 30_000)
    ends = [mixture._begin(k) for k in range(1, 30_000 // mixture.block)]
    for end in [e for e in ends if e <= 30_000]:
        counts = np.bincount(of[:end], minlength=len(sizes))
        assert (np.abs(counts - exact * end) < 1 + 1e-6).all(), end
    for k in range(len(sizes)):
        np.testing.assert_array_equal(number[of == k], np.arange((of == k).sum()))


def test_shares_of_every_thousand_positions():
    of, _ = drawn(mix(plans(100, 200), [3, 1], 200_000), 200_000)
    assert {tuple(np.bincount(part)) for part in np.split(of, 200)} == {(750, 250)}
    of, _ = drawn(mix(plans(100, 200, 300), [1, 1, 1], 300_000), 300_000)
    assert {n for part in np.split(of, 300) for n in np.bincount(part)} == {333, 334}


@pytest.mark.parametrize("epoch_size", [1, 3, 999, 1000, 1001, 2500])
def test_any_stretch_is_a_slice_of_all(epoch_size, rng):
    mixture = mix(plans(10, 400, 3000), [1, 3, 50], epoch_size)
    of, number = drawn(mixture, 20_000)
    for _ in range(100):
        places = rng.integers(0, 20_000, rng.integers(1, 50))
        found = mixture.draws(places)
        np.testing.assert_array_equal(found[0], of[places])
        np.testing.assert_array_equal(found[1], number[places])
        epoch = int(rng.integers(0, 20_000 // epoch_size))
        start, stop = sorted(int(v) for v in rng.integers(0, epoch_size + 1, 2))
        whole = mixture.ids(epoch, 0, epoch_size)
        np.testing.assert_array_equal(mixture.ids(epoch, start, stop), whole[start:stop])


@pytest.mark.parametrize(("sizes", "weights", "epoch_size"), MIXTURES)
def test_each_data_set_comes_in_its_own_order(sizes, weights, epoch_size):
    """One repeats many times while another is not through its first epoch."""
    mixture = mix(plans(*sizes), weights, epoch_size)
    size = mixture.epoch_size
    ids = np.concatenate([mixture.ids(e, 0, size) for e in range(-(-12_000 // size))])
    seeds = np.concatenate(
        [
            mixture.seeds(e, np.arange(size), ids[e * size : (e + 1) * size])
            for e in range(min(3, -(-12_000 // size)))
        ]
    )
    for k, plan in enumerate(mixture.plans):
        own = ids[(ids >= mixture.starts[k]) & (ids < mixture.starts[k + 1])] - mixture.starts[k]
        epochs = range(-(-len(own) // plan.records)) if plan.records else ()
        alone = [plan.ids(e, 0, plan.records) for e in epochs]
        np.testing.assert_array_equal(own, np.concatenate([*alone, np.zeros(0, int)])[: len(own)])
        mine = (ids[: len(seeds)] >= mixture.starts[k]) & (ids[: len(seeds)] < mixture.starts[k + 1])
        expected = [plan.seeds(e, np.arange(plan.records), alone[e]) for e in epochs]
        np.testing.assert_array_equal(
            seeds[mine], np.concatenate([*expected, np.zeros((0, 2), int)])[: mine.sum()]
        )


def test_weights_as_sizes_make_whole_epochs():
    mixture = mix(plans(1300, 200, 3), None, None)
    for epoch in range(4):
        assert sorted(mixture.ids(epoch, 0, 1503)) == list(range(1503))


def test_holes_have_seeds_too():
    mixture = mix(plans(10, 20), [1, 1], None)
    ids = mixture.ids(2, 0, 8)
    seeds = mixture.seeds(2, np.arange(8), ids)
    ids[3] = HOLE
    with_hole = mixture.seeds(2, np.where(ids == HOLE, HOLE, np.arange(8)), ids)
    assert (np.delete(with_hole, 3, 0) == np.delete(seeds, 3, 0)).all()


def test_not_shuffled_is_stored_order_evenly_mixed():
    mixture = mix(plans(90, 30, shuffle=False), [3, 1], 40)
    of, _ = drawn(mixture, 40)
    assert [int(n) for n in np.add.reduceat(of, range(0, 40, 4))] == [1] * 10
    assert [i for i in mixture.ids(0, 0, 40) if i < 90] == list(range(30))


def test_the_order_is_pinned():
    """Changing it changes every training run: a major version."""
    mixture = mix(plans(20, 300), [1, 2], 1000)
    assert mixture.ids(0, 0, 12).tolist() == [270, 288, 255, 1, 5, 116, 90, 225, 210, 112, 304, 59]
    assert mixture.ids(7, 990, 1000).tolist() == [207, 92, 36, 146, 45, 314, 16, 26, 18, 226]


def test_every_step_can_be_resumed_on_any_number_of_hosts():
    check_every_step(mix(plans(100, 30, 5), [5, 3, 1], 203), 24, epochs=3)


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([1, 2], [1], "These weights make no mixture"),
        ([1, 2], [0, 0], "not all 0"),
        ([1, 2], [1, -1], "at least 0"),
        ([1, 2], [1, float("nan")], "no mixture"),
        ([1, 0], [1, 1], "(?s)without records.*weight 0"),
        ([1, 2], [1, 1e-7], "(?s)too small a share.*at least 9.54e-07"),
        ([0, 0], None, "no mixture"),
    ],
)
def test_weights_that_make_no_mixture(sizes, weights, message):
    with pytest.raises(HeadraceError, match=message):
        mix(plans(*sizes), weights, None)


# With data sets on disk.

SIZES = (60, 25, 7)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Records that say whose and which they are."""
    features = {"x": {"type": "int64"}, "label": {"type": "class_label", "names": ["a", "b"]}}
    return [
        write_dataset(
            tmp_path_factory.mktemp(f"part{k}"),
            features,
            {
                "train": deal([{"x": 1000 * k + i, "label": i % 2} for i in range(size)], 2),
                "test": deal([{"x": 1000 * k + i, "label": i % 2} for i in range(5)], 1),
            },
            name=f"part{k}",
            label="label",
        )
        for k, size in enumerate(SIZES)
    ]


def batches(loader: Any) -> list[list[int]]:
    return [x.numpy().tolist() for x, _ in loader]


def values(loader: Any) -> list[int]:
    return [value for batch in batches(loader) for value in batch]


def test_a_mixture_has_its_shares_and_each_data_set_its_order(three):
    mixed = load(three, weights=[5, 2, 1], batch_size=16, seed=3, epoch_size=400, with_ids=True)
    assert len(mixed) == 25
    found = [
        (int(d), int(i), int(x))
        for f, _ in mixed.unbatch()
        for d, i, x in [[f["dataset"], f["example_id"], f["x"]]]
    ]
    assert [sum(d == k for d, _, _ in found) for k in range(3)] == [250, 100, 50]
    assert all(x == 1000 * d + i for d, i, x in found)
    for k, directory in enumerate(three):
        own = [x for d, _, x in found if d == k]
        alone = load(directory, batch_size=16, seed=3)
        expected = [value for _ in range(-(-len(own) // SIZES[k])) for value in values(alone)]
        assert own == expected[: len(own)]


def test_an_epoch_without_weights_has_each_record_once(three):
    mixed = load(three, batch_size=8)
    for _ in range(2):
        assert sorted(values(mixed)) == [1000 * k + i for k, size in enumerate(SIZES) for i in range(size)]


def test_data_go_on_on_another_number_of_hosts(three):
    options: dict[str, Any] = {"weights": [1, 0.5, 2], "batch_size": 16, "seed": 4}
    whole = load(three, **options)
    expected = batches(whole) + batches(whole)
    assert len(expected) == 12
    for step, count in ((1, 1), (8, 4)):
        state = json.loads(json.dumps(whole.state(step)))
        parts = [
            load(three, **options, state=state, process_index=h, process_count=count) for h in range(count)
        ]
        found = [[x for part in step for x in part] for step in zip(*map(batches, parts), strict=True)]
        assert found == expected[step : (step // 6 + 1) * 6], step


def test_a_state_of_another_mixture_is_refused(three):
    state = load(three, weights=[1, 1, 1], batch_size=8).state(5)
    for other in ({"weights": [1, 1, 2]}, {"weights": [1, 1, 1], "epoch_size": 50}, {}):
        with pytest.raises(HeadraceError, match="another order"):
            load(three, batch_size=8, state=state, **other)
    load(three, weights=[2, 2, 2], batch_size=8, state=state)


def test_parts_filters_and_splits_of_each(three):
    mixed = load(
        three,
        ["train[:10]", "test", "train[5:]"],
        where=[lambda c: c["label"] == 1, None, None],
        training=False,
        batch_size=4,
    )
    assert sorted(values(mixed)) == [1, 3, 5, 7, 9, *range(1000, 1005), 2005, 2006]
    all_odd = load(three, where=lambda c: c["label"] == 1, batch_size=4)
    assert len(values(all_odd)) == sum(size // 2 for size in SIZES)


@pytest.mark.parametrize(("cache", "cache_as"), [("memory", "decoded"), ("disk", "encoded")])
def test_caches_hold_mixtures(three, tmp_path, cache, cache_as):
    options: dict[str, Any] = {"weights": [3, 1, 1], "batch_size": 16, "with_ids": True}
    plain = load(three, **options)
    cached = load(three, **options, cache=cache, cache_as=cache_as, cache_dir=tmp_path)
    for _ in range(3):
        for one, two in zip(plain, cached, strict=True):
            for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two), strict=True):
                assert (a.numpy() == b.numpy()).all()


def test_images_are_augmented_as_alone(photos):
    options: dict[str, Any] = {"image_size": 8, "augment": True, "features": "image", "with_ids": True}
    alone = {int(f["example_id"]): f["image"].numpy() for f, _ in load(photos, "train[:50]", **options)}
    mixed = load([photos, photos], ["train[:50]", "train[50:]"], **options)
    seen = 0
    for features, _ in mixed:
        if int(features["dataset"]) == 0:
            seen += 1
            assert (features["image"].numpy() == alone[int(features["example_id"])]).all()
    assert seen == 50


def test_images_of_several_shapes_and_formats_are_mixed(tmp_path, photos, cells, rng):
    from conftest import encoded

    records = [{"image": encoded(rng, 20, 30, "PNG"), "label": i % 4, "name": str(i)} for i in range(5)]
    features = {
        "image": {"type": "image", "formats": ["png"], "shape": [20, 30, 3]},
        "label": {"type": "class_label", "names": ["a", "b", "c", "d"]},
        "name": {"type": "text"},
    }
    other = write_dataset(tmp_path, features, {"train": [records]}, label="label")
    mixed = load([photos, other], weights=[1, 1], epoch_size=20, image_size=16, batch_size=5)
    assert all(f["image"].shape == (5, 16, 16, 3) for f, _ in mixed)
    with pytest.raises(HeadraceError, match=r"(?s)channels of 'image'.*1.*3, as in toy"):
        load([photos, cells], features="image", label=False, image_size=16)


@pytest.mark.parametrize(
    ("features", "label", "message"),
    [
        ({"x": {"type": "float32"}}, "label", r"(?s)types of 'x'.*part1 1.0.0.*float32.*int64, as in part0"),
        ({"x": {"type": "int64", "shape": [2]}}, "label", r"(?s)shapes of 'x'.*\[2\]"),
        (
            {"label": {"type": "class_label", "names": ["b", "a"]}},
            "label",
            r"(?s)class names of 'label'.*b.*a",
        ),
        ({"more": {"type": "int64"}}, "label", r"(?s)features: 'more'.*there.*missing, as in.*features=\["),
        ({}, None, r"(?s)labels.*label, as in.*label=…"),
    ],
)
def test_data_sets_that_differ_are_not_mixed(tmp_path, three, features, label, message):
    base = {"x": {"type": "int64"}, "label": {"type": "class_label", "names": ["a", "b"]}}
    record = {"x": [1, 2] if features.get("x", {}).get("shape") else 1, "label": 0, "more": 1}
    other = write_dataset(tmp_path, {**base, **features}, {"train": [[record]]}, name="part1", label=label)
    with pytest.raises(HeadraceError, match=message):
        load([three[0], other])


def test_features_that_all_have_can_be_chosen(tmp_path, three):
    features = {"x": {"type": "int64"}, "more": {"type": "int64"}}
    other = write_dataset(tmp_path, features, {"train": [[{"x": 7, "more": 1}]]})
    found = [int(x) for x in load([three[2], other], features="x", label=False).map(lambda f: f["x"])]
    assert sorted(found) == [7, *range(2000, 2007)]
    with pytest.raises(HeadraceError, match=r"(?s)features: 'label'.*missing"):
        load([three[2], other], features=["x", "label"], label=False)


def test_options_of_a_mixture(three):
    for name in ("weights", "epoch_size"):
        with pytest.raises(HeadraceError, match=f"(?s)Only a mixture.*{name}"):
            load(three[0], **{name: [1] if name == "weights" else 5})
    for name, given in (("split", ["train"]), ("where", [None, None])):
        with pytest.raises(HeadraceError, match=f"(?s)each needs its own.*{name}"):
            load(three, **{name: given})
    with pytest.raises(HeadraceError, match=r"(?s)epoch_size.*0"):
        load(three, epoch_size=0)
    alone = load([three[0]], batch_size=8, with_ids=True)
    assert all((f["dataset"].numpy() == 0).all() for f, _ in alone)


def test_remote_data_sets_are_mixed_alike(three):
    files = fsspec.filesystem("memory")
    for k, directory in enumerate(three):
        files.put(str(directory), f"/mixture/{k}", recursive=True)
    options: dict[str, Any] = {"weights": [3, 2, 1], "batch_size": 16}
    remote = load([f"memory://mixture/{k}" for k in range(3)], **options)
    assert batches(remote) == batches(load(three, **options))
    assert remote.stats()["reader"]["reads"] > 0


def test_what_was_read_is_added_up(three):
    mixed = load(three, batch_size=8)
    values(mixed)
    stats = mixed.stats()["reader"]
    assert stats["records"] == sum(SIZES)
    assert stats["corrupt"] == []
