"""Records by id: any order, any threads, exactly the damaged record lost."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from loader_data import write_shard

from loader.cache import Column, memory_cache
from loader.dataset import open_split
from loader.part import Part
from loader.read import CachedReader, Reader
from schemas import HeadraceError

RECORDS = 2000  # of the table
WHOLE = Part("train", range(RECORDS))


def reader(directory: Path, **options: object) -> Reader:
    return Reader(open_split(directory, "train")[1], **options)


@pytest.fixture(scope="module")
def records(table: Path) -> list[bytes]:
    """All records of the table, as TensorFlow's own reader gives them."""
    import tensorflow as tf

    shards = [str(table / shard.path) for shard in open_split(table, "train")[1].shards]
    return [record.numpy() for record in tf.data.TFRecordDataset(shards)]


@pytest.fixture
def copy(table: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(table, tmp_path / "copy"))


def shard(directory: Path) -> Path:
    return directory / "toy-train.tfrecord-00001-of-00003"


class TestOrder:
    @pytest.mark.parametrize("block", [1, 7, 64, 5000])
    @pytest.mark.parametrize("capacity", [0, 3000, 1 << 30])
    def test_any_ids_in_the_order_given(self, table, records, rng, block, capacity):
        opened = reader(table, block=block, capacity=capacity)
        for size in (0, 1, 500, 3000):
            ids = rng.integers(-1, RECORDS, size)  # with holes, and some twice
            found, valid = opened.read(ids)
            assert found.texts().tolist() == [records[i] if i >= 0 else b"" for i in ids]
            assert valid.tolist() == (ids >= 0).tolist()

    @pytest.mark.parametrize("block", [1, 40])
    def test_stored_order_takes_few_reads(self, table, records, block):
        opened = reader(table, block=block)
        found = [
            record for i in range(0, RECORDS, 500) for record in opened.read(np.arange(i, i + 500))[0].texts()
        ]
        assert found == records
        assert opened.stats()["reads"] <= 10  # four calls, three shards, and blocks across their borders

    def test_nothing_but_holes(self, table):
        found, valid = reader(table).read(np.full(3, -1))
        assert found.texts().tolist() == [b""] * 3
        assert not valid.any()

    def test_large_reads_are_cut(self, table, records, monkeypatch):
        monkeypatch.setattr("loader.read._MAX_READ", 1000)
        opened = reader(table)
        assert opened.read(np.arange(RECORDS))[0].texts().tolist() == records
        assert opened.stats()["reads"] > 100


class TestBlocks:
    def test_each_is_read_once_whoever_asks(self, table, records, rng):
        order = rng.permutation(RECORDS)
        opened = reader(table, block=10)
        with ThreadPoolExecutor(8) as pool:
            parts = list(pool.map(lambda ids: opened.read(ids)[0].texts(), np.array_split(order, 40)))
        assert np.concatenate(parts).tolist() == [records[i] for i in order]
        stats = opened.stats()
        assert stats["records"] == RECORDS
        assert stats["bytes"] == opened._split.bytes
        assert stats["reads"] <= RECORDS // 10 + 3
        assert opened._blocks.bytes == 0

    def test_those_never_taken_whole_are_bounded(self, table, records, rng):
        opened = reader(table, block=20, capacity=10_000)
        for ids in np.array_split(rng.permutation(RECORDS // 2) * 2, 20):  # a filter: even records only
            assert opened.read(ids)[0].texts().tolist() == [records[i] for i in ids]
            assert opened._blocks.bytes <= 10_000
            assert opened._blocks.bytes == opened._blocks._bytes.sum()

    def test_a_failed_read_is_tried_again_by_the_next_call(self, copy, records):
        data = shard(copy).read_bytes()
        opened = reader(copy, block=10)
        shard(copy).write_bytes(data[:-5])
        for _ in range(2):
            with pytest.raises(
                HeadraceError, match=r"(?s)ends before its last record.*00001-of-00003.*bytes"
            ):
                opened.read(np.arange(RECORDS))
        shard(copy).write_bytes(data)
        assert opened.read(np.arange(RECORDS))[0].texts().tolist() == records


class TestDamage:
    def test_every_byte_of_a_frame(self, copy, caplog):
        """A flipped byte is noticed, or harmless; every other record is as it was."""
        split = open_split(copy, "train")[1]
        first, (start, stop) = split.starts[1], split.frames(1)[3:5].tolist()
        intact = Reader(split).read(np.arange(RECORDS))[0].texts().tolist()
        data = shard(copy).read_bytes()
        for position in range(start, stop):
            damaged = bytearray(data)
            damaged[position] ^= 1 << position % 8
            shard(copy).write_bytes(damaged)
            opened = reader(copy, block=16, on_corrupt="skip")
            found, valid = opened.read(np.arange(first, first + 10))
            if 8 <= position - start < 12:  # the CRC of the length, which nothing depends on
                assert valid.all()
                assert found.texts().tolist() == intact[first : first + 10]
                continue
            assert valid.tolist() == [i != 3 for i in range(10)]
            assert found.texts()[3] == b""
            assert found[valid].texts().tolist() == [intact[first + i] for i in range(10) if i != 3]
            reason = "its length field" if position - start < 8 else "its CRC"
            assert opened.stats()["corrupt"] == [
                {
                    "shard": shard(copy).name,
                    "record": 3,
                    "offset": start,
                    "reason": f"{reason} does not fit its bytes",
                }
            ]
            with pytest.raises(
                HeadraceError, match=rf"(?s)damaged: {reason}.*record 3, byte {start}.*verify.*skip"
            ):
                reader(copy).read(np.array([first + 3]))

    def test_is_counted_and_logged_once_a_record(self, copy, caplog):
        split = open_split(copy, "train")[1]
        data = bytearray(shard(copy).read_bytes())
        for start in split.frames(1)[:-1].tolist():
            data[start + 15] ^= 255
        shard(copy).write_bytes(data)
        opened = reader(copy, block=8, on_corrupt="skip")
        with caplog.at_level(logging.WARNING, "headrace.loader"):
            for _ in range(2):
                _, valid = opened.read(np.arange(RECORDS))
        lost = split.starts[2] - split.starts[1]
        assert np.count_nonzero(~valid) == lost
        stats = opened.stats()
        assert stats["corrupt_records"] == lost
        assert len(stats["corrupt"]) == 100
        assert len(caplog.messages) == 100
        assert f"{shard(copy)}, record 0, byte 0: its CRC" in caplog.messages[0]
        assert "further ones are counted" in caplog.messages[-1]

    def test_of_another_record_does_not_matter(self, copy, records):
        """A block brings neighbours along that nobody asked for."""
        split = open_split(copy, "train")[1]
        data = bytearray(shard(copy).read_bytes())
        data[split.frames(1)[3] + 20] ^= 1
        shard(copy).write_bytes(data)
        wanted = split.starts[1] + np.array([2, 4])
        assert reader(copy, block=50).read(wanted)[0].texts().tolist() == [records[i] for i in wanted]


def index(directory: Path, number: int) -> Path:
    return directory / "index" / f"toy-train.tfrecord-0000{number}-of-00003.arrow"


def test_index_missing_swapped_or_of_another_version(copy, tmp_path):
    everything = np.arange(RECORDS)
    write_shard(tmp_path, "other", [{"x": 1}], 0)
    index(copy, 1).write_bytes((tmp_path / "index/other.arrow").read_bytes())
    with pytest.raises(HeadraceError, match=r"(?s)does not belong to its shard.*00001"):
        reader(copy).read(everything)
    data = index(copy, 0).read_bytes()
    table = pa.ipc.open_file(data).read_all().replace_schema_metadata({"headrace_index_version": "0"})
    with pa.ipc.new_file(str(index(copy, 0)), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(HeadraceError, match=r"(?s)another version of Headrace.*index version 0"):
        reader(copy).read(everything)
    index(copy, 0).write_bytes(data[:-40])
    with pytest.raises(HeadraceError, match=r"not an intact shard index"):
        reader(copy).read(everything)
    index(copy, 0).unlink()
    with pytest.raises(HeadraceError, match=r"index is missing"):
        reader(copy).read(everything)


def test_only_the_indexes_asked_for_are_read(copy, records):
    index(copy, 2).unlink()
    opened = reader(copy)
    assert opened.read(np.arange(600))[0].texts().tolist() == records[:600]
    with pytest.raises(HeadraceError, match=r"(?s)index is missing.*00002"):
        opened.read(np.array([RECORDS - 1]))


class TestCachedReader:
    def test_second_time_reads_nothing(self, table, records, rng):
        cached = CachedReader(reader(table), memory_cache([Column("record", "bytes")], RECORDS), WHOLE)
        for _ in range(2):
            for ids in np.array_split(rng.permutation(RECORDS), 7):
                found, valid = cached.read(np.append(ids, -1))
                assert found.texts().tolist() == [*(records[i] for i in ids), b""]
                assert valid.tolist() == [*[True] * len(ids), False]
        assert cached.stats()["records"] == RECORDS

    def test_damaged_records_are_not_kept(self, copy, records):
        split = open_split(copy, "train")[1]
        intact = shard(copy).read_bytes()
        data = bytearray(intact)
        data[20] ^= 1
        shard(copy).write_bytes(data)
        cache = memory_cache([Column("record", "bytes")], RECORDS)
        cached = CachedReader(reader(copy, on_corrupt="skip"), cache, WHOLE)
        everything, lost = np.arange(RECORDS), split.starts[1]
        assert np.flatnonzero(~cached.read(everything)[1]).tolist() == [lost]
        assert np.flatnonzero(~cached.read(everything)[1]).tolist() == [lost]
        shard(copy).write_bytes(intact)
        found, valid = cached.read(everything)
        assert valid.all()
        assert found.texts().tolist() == records
