"""What holds for every store, well-behaved or not: a directory and object stores are one thing to those who write."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.local_store import LocalStore
from beam_jobs.objects import PART_BYTES
from beam_jobs.store import Sink, Store, open_store
from schemas import HeadraceError

LONG = np.random.default_rng(5).bytes(2 * PART_BYTES + 12345)


@pytest.mark.parametrize("durable", [True, False])
def test_written_is_what_is_read(store: Store, durable: bool) -> None:
    store.write("a/b.bin", b"some bytes", durable=durable)
    assert store.size("a/b.bin") == 10
    assert store.read("a/b.bin", 10) == b"some bytes"
    assert store.read_range("a/b.bin", 5, 3) == b"byt"
    store.write("a/b.bin", b"others", durable=durable)
    assert store.read("a/b.bin", 10) == b"others"


def test_nothing_there(store: Store) -> None:
    store.write("a/b", b"x", durable=False)
    assert store.size("a/c") is None
    assert store.size("a/b/c") is None
    with pytest.raises(FileNotFoundError, match="toy/a/c"):
        store.read("a/c", 10)
    with pytest.raises((FileNotFoundError, HeadraceError), match="toy/a/c"):
        store.read_range("a/c", 0, 1)
    store.delete("a/c")
    store.delete_tree("z")
    assert store.names("z") == []


def test_larger_than_it_can_be(store: Store) -> None:
    store.write("a", b"0123456789", durable=False)
    with pytest.raises(HeadraceError, match=r"(?s)larger than it can be.*toy/a.*10 bytes.*9 bytes"):
        store.read("a", 9)


def test_empty_file(store: Store) -> None:
    store.write("empty", b"", durable=True)
    assert store.size("empty") == 0
    assert store.read("empty", 5) == b""
    assert store.names("") == ["empty"]


@pytest.mark.parametrize("size", [PART_BYTES, PART_BYTES + 1, len(LONG)])
def test_long_files(store: Store, size: int) -> None:
    """Written in pieces that have nothing to do with the parts that are sent."""
    pieces = random.Random(size)
    with store.writing("long", durable=True) as sink:
        at = 0
        while at < size:
            step = min(pieces.randint(1, 6 << 20), size - at)
            piece = bytearray(LONG[at : at + step])
            if at % 2:
                sink.write(piece)
            else:
                sink.writev([memoryview(piece)[:7], np.frombuffer(piece, np.uint8)[7:]])
            at += step
            assert sink.tell() == at
        assert store.size("long") is None
    assert store.size("long") == size
    targets = [bytearray(1000) for _ in range(20)]
    store.fill([("long", place * (size // 20), memoryview(target)) for place, target in enumerate(targets)])
    assert targets == [LONG[place * (size // 20) :][:1000] for place in range(20)]
    whole = bytearray(size)
    store.fill([("long", 0, memoryview(whole))])
    assert whole == LONG[:size]
    with pytest.raises(OSError, match=f"toy/long ends before byte {size + 3}"):
        store.read_range("long", size - 5, 8)


def test_pyarrow_writes_into_it(store: Store) -> None:
    table = pa.table({"a": list(range(1000))})
    with store.writing("t.parquet", durable=True) as sink, pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
    with store.writing("t.arrow", durable=False) as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert pq.read_table(pa.BufferReader(store.read("t.parquet", 1 << 20))) == table
    assert pa.ipc.open_file(store.read("t.arrow", 1 << 20)).read_all() == table


@pytest.mark.parametrize("size", [10, len(LONG)])
def test_nothing_remains_of_a_file_that_failed(store: Store, size: int) -> None:
    store.write("x/old", b"old", durable=True)
    for path in ("x/old", "x/new"):
        with pytest.raises(KeyboardInterrupt), store.writing(path, durable=True) as sink:
            _write_and_stop(sink, LONG[:size])
    assert store.names("x") == ["old"]
    assert store.read("x/old", 10) == b"old"


def test_copies(store: Store) -> None:
    store.write("1.0.0/shard", b"bytes", durable=True)
    store.copy("1.0.0/shard", "2.0.0/deep/shard")
    store.copy("1.0.0/shard", "2.0.0/deep/shard")
    store.write("1.0.0/shard", b"other", durable=True)
    assert store.read("2.0.0/deep/shard", 10) == b"bytes"
    store.copy("1.0.0/shard", "2.0.0/deep/shard")
    assert store.read("2.0.0/deep/shard", 10) == b"other"
    assert store.names("2.0.0") == ["deep/shard"]
    with pytest.raises(FileNotFoundError, match="nope"):
        store.copy("1.0.0/nope", "2.0.0/nope")


def test_names_and_deleting(store: Store) -> None:
    paths = ["b/x", "a/2", "a/10", "a/deep/1", "ab/c", "a/ä ö?#%&+.bin"]
    for path in paths:
        store.write(path, path.encode(), durable=False)
    assert store.names("a") == sorted(["10", "2", "deep/1", "ä ö?#%&+.bin"])
    assert store.names("") == sorted(paths)
    for path in paths:
        assert store.read(path, 100) == path.encode()
    store.delete("a/10")
    store.delete("a/10")
    store.delete("a/ä ö?#%&+.bin")
    assert store.names("a") == ["2", "deep/1"]
    store.delete_tree("a")
    assert store.names("") == ["ab/c", "b/x"]
    store.tidy()
    assert store.names("") == ["ab/c", "b/x"]


def test_many_threads(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.write(f"runs/{n}", b"%d" % n * 99, durable=False), range(40)))
        read = list(pool.map(lambda n: store.read(f"runs/{n}", 1000), range(40)))
    assert read == [b"%d" % n * 99 for n in range(40)]
    assert len(store.names("runs")) == 40


def test_version_appears_when_it_is_published(store: Store) -> None:
    with store.exclusive() as job:
        job.prepare("1.0.0")
        job.prepare("1.0.0")
        stage = job.stage("1.0.0")
        job.write(f"{stage}/index/a", b"index", durable=True)
        job.write(f"{stage}/shard", b"records", durable=True)
        assert store.size("1.0.0/manifest.json") is None
        job.publish("1.0.0", b"{}")
        assert store.read("1.0.0/manifest.json", 10) == b"{}"
        assert store.names("1.0.0") == ["index/a", "manifest.json", "shard"]
        job.prepare("2.0.0")
        job.write(f"{job.stage('2.0.0')}/shard", b"others", durable=True)
        job.publish("2.0.0", b"{}")
    assert store.read("1.0.0/shard", 10) == b"records"


def test_a_stage_that_a_dead_job_left_goes_on(store: Store) -> None:
    with store.exclusive() as job:
        job.prepare("1.0.0")
        job.write(f"{job.stage('1.0.0')}/shard", b"records", durable=True)
    with store.exclusive() as job:
        job.prepare("1.0.0")
        assert job.read(f"{job.stage('1.0.0')}/shard", 10) == b"records"


def test_what_others_put_there_is_left_alone(store: Store) -> None:
    store.write("1.0.0/toy-train.tfrecord-00000-of-00001", b"of TFDS", durable=True)
    with (
        store.exclusive() as job,
        pytest.raises(HeadraceError, match=r"(?s)files already.*toy/1.0.0.*new `version:`"),
    ):
        job.prepare("1.0.0")
    assert store.names("1.0.0") == ["toy-train.tfrecord-00000-of-00001"]


def test_published_meanwhile(store: Store) -> None:
    with store.exclusive() as job:
        job.prepare("1.0.0")
        job.write(f"{job.stage('1.0.0')}/shard", b"records", durable=True)
        store.write("1.0.0/manifest.json", b"of another", durable=True)
        with pytest.raises(HeadraceError, match=r"(?s)committed this version meanwhile.*toy/1.0.0"):
            job.publish("1.0.0", b"{}")
    assert store.read("1.0.0/manifest.json", 20) == b"of another"


def test_pickled(store: Store) -> None:
    store.write("a", b"x", durable=True)
    again = pickle.loads(pickle.dumps(store))
    assert again.read("a", 1) == b"x"
    assert again.where("a") == store.where("a")
    assert b"geheim" not in pickle.dumps(store)


def test_opened_by_name(tmp_path: object, bucket: object) -> None:
    for out in (str(tmp_path), f"file://{tmp_path}"):
        found = open_store(out, "toy")
        assert isinstance(found, LocalStore)
        assert found.where("a") == f"{tmp_path}/toy/a"
    assert open_store("s3://b/out/", "toy").where("a") == "s3://b/out/toy/a"
    with pytest.raises(HeadraceError, match=r"(?s)cannot be written there.*https://host/x.*s3://bucket"):
        open_store("https://user:geheim@host", "x")


def _write_and_stop(sink: Sink, data: bytes) -> None:
    sink.write(data)
    raise KeyboardInterrupt
