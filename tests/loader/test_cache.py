"""Caches change how fast values come, never which."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_load import digest, ids

from loader import load
from loader.cache import Column, choose, memory_cache
from loader.disk_cache import disk_cache
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


def test_disk_cache_gets_its_name_when_it_is_complete(tmp_path):
    cache = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    cache.put(np.arange(3), values(range(3)))
    assert not list(tmp_path.glob("headrace-*"))
    other = disk_cache(COLUMNS, 4, tmp_path, ["y"])
    assert other.missing(np.arange(4)).tolist() == [0, 1, 2, 3]
    # Who wants the same takes part, and sees at once what is there.
    late = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    assert late.missing(np.arange(4)).tolist() == [3]
    late.put(np.array([3]), values([3]))
    assert len(list(tmp_path.glob("headrace-*"))) == 1
    assert cache.missing(np.arange(4)).tolist() == []
    for found in (cache, late, disk_cache(COLUMNS, 4, tmp_path, ["x"])):
        for got, expected in zip(found.get(np.array([2, 3, 1])), values([2, 3, 1]), strict=True):
            np.testing.assert_array_equal(got, expected)
    cache.put(np.arange(4), values(range(4)))  # late, and no harm


def test_disk_cache_whose_last_writer_was_killed_is_complete_when_it_is_opened_again(tmp_path):
    cache = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    cache._complete = None  # killed behind the last flag
    cache.put(np.arange(4), values(range(4)))
    assert not list(tmp_path.glob("headrace-*"))
    again = disk_cache(COLUMNS, 4, tmp_path, ["x"])
    assert len(list(tmp_path.glob("headrace-*"))) == 1
    for got, expected in zip(again.get(np.array([2, 3, 1])), values([2, 3, 1]), strict=True):
        np.testing.assert_array_equal(got, expected)


FILL = """
import sys; sys.path[:0] = sys.argv[2:3]
import numpy as np; from test_cache import COLUMNS, values; from loader.disk_cache import disk_cache
from pathlib import Path
cache = disk_cache(COLUMNS, 60, Path(sys.argv[1]), ["x"])
for i in np.random.default_rng(int(sys.argv[3])).permutation(60):
    if len(cache.missing(np.array([i]))):
        cache.put(np.array([i]), values([i]))
        print(i, flush=True)
"""


def test_processes_fill_one_cache_and_one_that_is_killed_harms_nothing(tmp_path):
    here = str(Path(__file__).parent)
    filling = [
        subprocess.Popen(
            [sys.executable, "-c", FILL, str(tmp_path), here, str(seed)], stdout=subprocess.PIPE, text=True
        )
        for seed in range(2)
    ]
    victim, rest = filling
    for _ in range(5):
        victim.stdout.readline()
    victim.kill()
    for process in filling:
        process.communicate(timeout=60)
    assert rest.returncode == 0
    cache = disk_cache(COLUMNS, 60, tmp_path, ["x"])
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["headrace-"]
    for got, expected in zip(cache.get(np.arange(60)), values(range(60)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_what_an_earlier_boot_left_is_removed(tmp_path):
    (tmp_path / ".partial-0123-abc").mkdir()
    (tmp_path / ".partial-0123-abc" / "0.rows").write_bytes(b"x")
    disk_cache(COLUMNS, 4, tmp_path, ["x"])
    assert not (tmp_path / ".partial-0123-abc").exists()


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_room_for_some_keeps_the_first_and_reads_the_rest(cells, tmp_path, kind):
    limit = 40 * (30 * 30 + 8)

    def run(**options):
        return load(cells, batch_size=16, augment="light", seed=2, repeat=3, **options)

    bounded = run(cache=kind, cache_dir=tmp_path, cache_bytes=limit)
    assert digest(bounded) == digest(run())
    kept = bounded._recipe.cache
    assert kept.room == kept.stored == 40
    if kind == "disk":
        assert sum(f.stat().st_size for f in tmp_path.glob("headrace-*/*.rows")) == limit


def test_auto_takes_memory_then_disk_then_nothing(tmp_path):
    small, huge = 1 << 20, 1 << 50
    assert choose(small, small, tmp_path, remote=False) == ("memory", "decoded")
    assert choose(huge, small, tmp_path, remote=False) is None
    assert choose(huge, small, tmp_path, remote=True) == ("memory", "encoded")
    assert choose(None, huge, tmp_path, remote=True) is None
    memory = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    status = os.statvfs(tmp_path)
    between = (memory + status.f_bavail * status.f_frsize) // 4
    if memory // 2 < between:  # a disk with more room than the memory has
        assert choose(between, None, tmp_path / "new", remote=False) == ("disk", "decoded")


@pytest.mark.parametrize("form", ["encoded", "decoded"])
def test_the_form_can_be_chosen(photos, form):
    def run(**options):
        return load(photos, batch_size=16, image_size=24, augment="light", seed=2, repeat=2, **options)

    cached = run(cache="auto", cache_as=form)
    assert (cached._recipe.cache is not None) == (form == "decoded")
    assert digest(cached) == digest(run())


def test_forms_that_cannot_be(photos):
    for options, message in [
        (
            {"cache": "memory", "cache_as": "decoded", "augment": True},
            r"(?s)cannot be cached decoded.*encoded",
        ),
        ({"cache_as": "decoded"}, r"(?s)cache_as.*there is none.*auto"),
        ({"cache_bytes": 10**9}, r"(?s)cache_bytes.*there is none"),
        ({"cache": "disk", "cache_bytes": 0}, r"(?s)cache_bytes.*at least 1"),
        ({"cache": "disk", "cache_as": "raw"}, r"(?s)cannot be cached so.*raw.*decoded, encoded"),
    ]:
        with pytest.raises(HeadraceError, match=message):
            load(photos, image_size=8, **options)


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
