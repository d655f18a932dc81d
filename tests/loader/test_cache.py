"""Caches change how fast values come, never which."""

from __future__ import annotations

import numpy as np
import pytest
from test_load import digest, ids

from loader import load
from loader.cache import Column, disk_cache, memory_cache
from schemas import HeadraceError

COLUMNS = [Column("image", "uint8", (4, 5, 3)), Column("text", "bytes")]


def values(which):
    text = np.empty(len(which), dtype=object)
    text[:] = [b"t" * (i % 4) for i in which]
    return [np.stack([np.full((4, 5, 3), i, np.uint8) for i in which]), text]


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    if request.param == "memory":
        return memory_cache(COLUMNS, 10)
    return disk_cache(COLUMNS, 10, tmp_path, ["x"])


def test_what_is_put_comes_back_in_any_order(cache):
    first, rest = np.array([7, 2, 5]), np.array([0, 1, 3, 4, 6, 8, 9])
    assert len(cache.missing(first))
    cache.put(first, values(first))
    assert not len(cache.missing(np.array([5, 7])))
    assert len(cache.missing(np.array([5, 0])))
    cache.put(rest, values(rest))
    cache.put(first, values(first))  # twice is no harm
    order = np.array([9, 7, 0, 2])
    assert not len(cache.missing(order))
    for got, expected in zip(cache.get(order), values(order), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_disk_cache_is_there_whole_or_not_at_all(tmp_path):
    cache = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    cache.put(np.arange(3), values(range(3)))
    assert not list(tmp_path.glob("headrace-*"))
    late = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    cache.put(np.array([3]), values([3]))
    assert len(list(tmp_path.glob("headrace-*"))) == 1
    np.testing.assert_array_equal(cache.get(np.array([3]))[0], values([3])[0])
    late.put(np.arange(4), values(range(4)))  # another process that was slower
    again = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    assert not len(again.missing(np.arange(4)))
    np.testing.assert_array_equal(again.get(np.array([2, 1]))[1], values([2, 1])[1])
    other = disk_cache(COLUMNS, 4, tmp_path, ["y"])
    assert len(other.missing(np.arange(1)))
    del cache, late, other
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".partial")] == []


def test_damaged_disk_cache_is_refused(tmp_path):
    disk_cache(COLUMNS, 2, tmp_path, []).put(np.arange(2), values(range(2)))
    (file,) = tmp_path.glob("headrace-*/0.rows")
    file.write_bytes(b"short")
    with pytest.raises(HeadraceError, match=r"(?s)disk cache is damaged.*5 bytes.*Remove"):
        disk_cache(COLUMNS, 2, tmp_path, [])


def test_no_room(tmp_path):
    with pytest.raises(HeadraceError, match=r"(?s)do not fit into memory.*cache='disk'"):
        memory_cache([Column("i", "uint8", (1000, 1000, 3))], 10**9)
    with pytest.raises(HeadraceError, match=r"(?s)cannot be made.*cache_dir"):
        disk_cache(COLUMNS, 4, tmp_path / "file" / "below", []) if (tmp_path / "file").write_text(
            ""
        ) == 0 else None


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("augment", [None, "light", "strong"])
def test_values_are_those_without_a_cache(cells, tmp_path, kind, augment):
    """Over three epochs: one that fills the cache, two that read it. PNGs, so crops are exact."""

    def run(**options):
        return digest(load(cells, batch_size=16, augment=augment, seed=2, repeat=3, **options))

    assert run(cache=kind, cache_dir=tmp_path) == run()
    if kind == "disk":
        assert run(cache=kind, cache_dir=tmp_path) == run()  # all of it from the disk now


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_sizes_that_differ_are_cached_as_stored(photos, tmp_path, kind):
    def run(**options):
        return digest(load(photos, batch_size=16, augment=True, image_size=24, seed=2, repeat=2, **options))

    assert run(cache=kind, cache_dir=tmp_path) == run()


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_with_a_size_it_is_the_sized_image_that_is_kept(photos, tmp_path, kind):
    def run(**options):
        return digest(
            load(photos, batch_size=16, augment="light", image_size=24, seed=2, repeat=2, **options)
        )

    assert run(cache=kind, cache_dir=tmp_path) == run()


def test_cached_epochs_have_an_order_of_their_own(cells):
    dataset = load(cells, cache="memory", with_ids=True)
    orders = [ids(dataset) for _ in range(3)]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2]


def test_a_cached_epoch_reads_no_shard(cells, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(cells, copy)
    dataset = load(copy, cache="memory", with_ids=True)
    first = ids(dataset)
    for shard in copy.glob("*.tfrecord*"):
        shard.unlink()
    assert sorted(ids(dataset)) == sorted(first)
