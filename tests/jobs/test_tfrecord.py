"""A job on existing TFRecords: images, labels and lists out of them, and the same bytes however it is made."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import run
from beam_jobs.encode import encode_records
from beam_jobs.sources import open_source
from schemas.sources import TfrecordSource
from tests.jobs.small_job import digests, encoded_image, make_job, options

JOB = """
name: shards
version: 1.0.0
vars: {data: unset}
sources:
  old: {kind: tfrecord, path: "${data}/old.tfrecord-*", key: id, partition_bytes: 20000}
features:
  image: {type: image, formats: [jpeg], from: image/encoded}
  label: {type: class_label, names: [good, bad], from: image/class/text}
  boxes: {type: float32, shape: [null]}
  size: {type: int64, shape: [2]}
label: label
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: {train: 2, test: 1}, max_dead_letters: 20%}
"""
RECORDS = 120


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files: a plain one, and a compressed one that is cut off; damage of several kinds in them."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(3)
    lists = [[float(v) for v in range(i % 5)] for i in range(RECORDS)]
    columns = {
        "id": pa.array([b"r%03d" % i for i in range(RECORDS)], pa.large_binary()),
        "image/encoded": pa.array([encoded_image(rng) for _ in range(RECORDS)], pa.large_binary()),
        "image/class/text": pa.array(
            [[b"good", b"bad", b"\xff"][2 if i == 9 else i % 2] for i in range(RECORDS)], pa.large_binary()
        ),
        "boxes": pa.array(lists, pa.large_list(pa.float32())),
        "size": pa.array(
            [[20, 24][: 1 if i == 11 else 2] for i in range(RECORDS)], pa.large_list(pa.int64())
        ),
    }
    records, _ = encode_records(columns)
    frames = records.to_pylist()
    frames[5] = frames[5][:-1] + bytes([frames[5][-1] ^ 1])
    half = RECORDS // 2
    (folder / "old.tfrecord-00000-of-00002").write_bytes(b"".join(frames[:half]))
    packed = gzip.compress(b"".join(frames[half:]) + struct.pack("<Q", 7), mtime=0)
    (folder / "old.tfrecord-00001-of-00002").write_bytes(packed)
    return folder


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(make_job(data, JOB), tmp_path_factory.mktemp("out"), options("in_memory", 1)).path


def test_a_job_on_tfrecords(expected: Path) -> None:
    letters = pq.read_table(expected / "dead_letters" / "dead_letters.parquet").to_pylist()
    assert {(letter["origin"], letter["stage"], letter["rule"]) for letter in letters} == {
        ("old.tfrecord-00000-of-00002, record 6", "read", "bad_crc"),
        ("old.tfrecord-00000-of-00002, record 10", "validate", "bad_encoding"),
        ("old.tfrecord-00000-of-00002, record 12", "validate", "wrong_shape"),
        ("old.tfrecord-00001-of-00002, record 61", "read", "truncated_record"),
    }


@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_bytes(data: Path, expected: Path, tmp_path: Path, workers: int) -> None:
    assert digests(run(make_job(data, JOB), tmp_path, options("multi_processing", workers)).path) == digests(
        expected
    )


def test_a_data_set_of_ours_is_a_source(expected: Path, tmp_path: Path) -> None:
    """What is read from a data set's shards is what was written to them."""
    text = (
        JOB.replace("old.tfrecord-*", "shards-*")
        .replace("key: id, ", "")
        .replace("max_dead_letters: 20%", "")
    )
    text = (
        text.replace("image/encoded", "image")
        .replace(", from: image/class/text", "")
        .replace("[good, bad]", '["0", "1"]')
    )
    for shard in expected.glob("shards-*"):
        (tmp_path / shard.name).symlink_to(shard)
    result = run(make_job(tmp_path, text), tmp_path / "out")
    assert sum(split.records for split in result.manifest.splits.values()) == RECORDS - 3

    def records(version: Path) -> list[str]:
        source = open_source("x", TfrecordSource(kind="tfrecord", path=""), f"{version}/shards-*")
        batches = [batch.records for part in source.partitions() for batch in source.read(part)]
        return sorted(map(repr, pa.Table.from_batches(batches).to_pylist()))

    assert records(result.path) == records(expected)
