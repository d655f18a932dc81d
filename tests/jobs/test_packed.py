"""A packed data set gives the loader what an unpacked one gives; other readers see the vectors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs import load_job, run
from beam_jobs.inspect_dataset import inspect, print_inspection
from beam_jobs.verify import verify
from schemas import Manifest, read_index, read_manifest
from tests.jobs.small_job import digests, options

JOB = """
name: table
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}", key: key, partition_bytes: 3000}}
clean: [{map: "tests.jobs.test_packed:with_list"}]
features:
  label: {type: class_label, names: [a, b, c], from: kind}
  count: {type: int64}
  large: {type: int64}
  share: {type: float32, allow_nan: true}
  fare: {type: float32, min: 0, default: 2.5}
  wet: {type: bool, default: false}
  title: {type: text}
  pair: {type: float32, from: [fare, fare], default: 0}
  ids: {type: int64, shape: [null]}
label: label
index: [label, share, wet, ids]
write: {shards: 3}
"""
RECORDS = 300


def with_list(record: dict[str, Any]) -> dict[str, Any]:
    """The job's function: a list of any length."""
    return {**record, "ids": list(range(int(record["count"]) % 4))}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    lines = ["key,kind,count,large,share,fare,wet,title"]
    for i in range(RECORDS):
        large = (-1) ** i * int(rng.integers(0, 1 << 62)) if i else -(2**63)
        share = "inf" if i % 9 == 0 else f"{rng.normal():.5f}"
        fare, wet = ("", "") if i % 5 == 0 else (f"{i / 7:.3f}", ["true", "no"][i % 2])
        lines.append(f"k{i},{'abc'[i % 3]},{i},{large},{share},{fare},{wet},row {i}")
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def prepare(rows: Path, out: Path, more: str) -> Path:
    (out / "job.yaml").write_text(JOB + more)
    return run(load_job(out / "job.yaml", {"data": str(rows)}), out).path


@pytest.fixture(scope="module")
def plain(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(rows, tmp_path_factory.mktemp("plain"), "")


@pytest.fixture(scope="module")
def packed(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(rows, tmp_path_factory.mktemp("packed"), "pack: true\n")


def same(found: Any, wanted: Any) -> None:
    import tensorflow as tf

    tf.nest.assert_same_structure(found, wanted)
    for one, other in zip(
        tf.nest.flatten(found, expand_composites=True),
        tf.nest.flatten(wanted, expand_composites=True),
        strict=True,
    ):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("batch_size", [None, 32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label": False},
        {"features": "fare"},
        {"features": ["wet", "share", "title"]},
        {"features": ["pair", "ids"], "label": "wet"},
        {"cache": "memory"},
    ],
    ids=str,
)
def test_the_loader_gives_the_same(
    plain: Path, packed: Path, options: dict[str, Any], batch_size: int | None
) -> None:
    from loader import load

    one, other = (load(d, shuffle=False, batch_size=batch_size, **options) for d in (packed, plain))
    assert one.element_spec == other.element_spec
    count = 0
    for found, wanted in zip(one, other, strict=True):
        same(found, wanted)
        count += 1
    assert count == (RECORDS if batch_size is None else -(-RECORDS // batch_size))


def test_a_shuffled_epoch_holds_every_record(packed: Path) -> None:
    from loader import load

    counts = np.concatenate(
        [batch["count"].numpy() for batch, _ in load(packed, features=["count", "fare"], batch_size=64)]
    )
    assert sorted(counts.tolist()) == list(range(RECORDS))


def test_records_are_smaller_and_indexes_the_same(plain: Path, packed: Path) -> None:
    one, other = read_manifest(packed), read_manifest(plain)
    assert one.packed == {"_float32": ["fare", "share"], "_int64": ["count", "label", "large", "wet"]}
    assert one.features.keys() == other.features.keys()
    assert one.splits["train"].bytes < 0.75 * other.splits["train"].bytes
    for a, b in zip(one.splits["train"].shards, other.splits["train"].shards, strict=True):
        indexes = read_index(packed / a.index.path), read_index(plain / b.index.path)
        assert indexes[0].columns == indexes[1].columns
        np.testing.assert_array_equal(indexes[0].key_hashes, indexes[1].key_hashes)
    assert Manifest.model_validate_json(one.model_dump_json(by_alias=True)) == one


@pytest.mark.parametrize(("mode", "workers"), [("in_memory", 1), ("multi_threading", 4)])
def test_bytes_are_the_same_in_every_runner_mode(
    mode: str, workers: int, rows: Path, packed: Path, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(JOB + "pack: true\n")
    job = load_job(tmp_path / "job.yaml", {"data": str(rows)})
    assert digests(run(job, tmp_path, options(mode, workers)).path) == digests(packed)


def test_it_is_intact(packed: Path) -> None:
    assert verify(packed).problems == ()


def test_it_is_inspected_by_the_features_names(plain: Path, packed: Path) -> None:
    one, other = inspect(packed, records=3), inspect(plain, records=3)
    assert [record.values for record in one.records] == [record.values for record in other.records]
    out = io.StringIO()
    print_inspection(one, out)
    assert "  _int64    count, label, large, wet" in out.getvalue().splitlines()


@pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated:DeprecationWarning")  # TFDS on a newer protobuf
def test_tfds_and_tfx_see_the_vectors(packed: Path) -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    builder = tfds.builder_from_directory(packed)
    first = next(iter(tfds.as_numpy(builder.as_dataset(split="train"))))
    assert sorted(first) == ["_float32", "_int64", "ids", "pair", "title"]
    assert (first["_int64"].shape, first["_int64"].dtype) == ((4,), np.int64)
    assert (first["_float32"].shape, first["_float32"].dtype) == ((2,), np.float32)
    schema = text_format.Parse((packed / "schema.pbtxt").read_text(), schema_pb2.Schema())
    by_name = {feature.name: feature for feature in schema.feature}
    assert [dim.size for dim in by_name["_int64"].shape.dim] == [4]
    assert list(by_name["_int64"].annotation.comment) == ["Packed: count, label, large, wet"]
    # Canonical bytes, as of any record.
    shard = str(packed / read_manifest(packed).splits["train"].shards[0].path)
    for record in tf.data.TFRecordDataset(shard).take(5).as_numpy_iterator():
        assert tf.train.Example.FromString(record).SerializeToString(deterministic=True) == record
