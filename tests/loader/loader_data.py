"""Writes small data sets in the contract's format, with TensorFlow's own writer: an oracle beside beam_jobs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from pydantic import TypeAdapter

from schemas import Manifest
from schemas.columns import ColumnKind, column_kinds, feature_of, indexed_by_default
from schemas.features import Feature
from schemas.framing import FRAME_OVERHEAD
from schemas.hashing import fingerprint
from schemas.index import COLUMN_TYPES, encode_index
from schemas.manifest import FileEntry, ShardEntry, SplitEntry
from schemas.naming import index_name, shard_name

Record = Mapping[str, Any]


def example(record: Record) -> bytes:
    """A record as tf.train.Example, feature type chosen by the value's; None is left out."""
    feature = {}
    for name, value in record.items():
        if value is None:
            continue
        values = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        first = values[0] if len(values) else 0
        if isinstance(first, (bytes, str)):
            raw = [v.encode() if isinstance(v, str) else v for v in values]
            feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))
        elif isinstance(first, (float, np.floating)):
            feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            ints = [int(v) for v in values]
            feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=ints))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


def _entry(directory: Path, path: str) -> FileEntry:
    data = (directory / path).read_bytes()
    return FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def index_columns(kinds: Mapping[str, ColumnKind], records: Sequence[Record]) -> dict[str, pa.Array]:
    """What an index holds of the records' features, value by value."""
    columns = {}
    for column, kind in kinds.items():
        values = [record[feature_of(column)] for record in records]
        if kind == "length":
            values = [len(value) for value in values]
        elif kind == "text":
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
        elif kind == "bool":
            values = [bool(value) for value in values]
        columns[column] = pa.array(values, COLUMN_TYPES[kind])
    return columns


def write_shard(
    directory: Path,
    path: str,
    records: Sequence[Record],
    start: int,
    kinds: Mapping[str, ColumnKind] | None = None,
) -> ShardEntry:
    """One shard and its index; `start` is the position of its first record in the split."""
    lengths, hashes = [], []
    with tf.io.TFRecordWriter(str(directory / path)) as writer:
        for position, record in enumerate(records, start):
            data = example(record)
            writer.write(data)
            lengths.append(len(data) + FRAME_OVERHEAD)
            hashes.append(np.frombuffer(position.to_bytes(16, "big"), np.uint8))
    index = encode_index(
        np.array(lengths, np.uint64),
        np.array(hashes, np.uint8).reshape(-1, 16),
        index_columns(kinds or {}, records),
    )
    (directory / index_name(path)).parent.mkdir(exist_ok=True)
    (directory / index_name(path)).write_bytes(index)
    entry = _entry(directory, path)
    return ShardEntry(**entry.model_dump(), records=len(records), index=_entry(directory, index_name(path)))


def write_dataset(
    directory: Path,
    features: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Sequence[Sequence[Record]]],
    *,
    name: str = "toy",
    label: str | None = None,
    index: Sequence[str] | None = None,
    own: str | None = None,
) -> Path:
    """A data set version in `directory`: `splits` maps each split to its shards, each a list of records.

    Its indexes hold the features `index`; as in a job, the label and lists of any length if None. `own`
    is its fingerprint, for orders that are pinned whatever the encoders.
    """
    directory.mkdir(parents=True, exist_ok=True)
    typed = TypeAdapter(dict[str, Feature]).validate_python(features)
    indexed = indexed_by_default(typed, label) if index is None else list(index)
    kinds = column_kinds(typed, indexed)
    entries = {}
    for split, shards in splits.items():
        written, start = [], 0
        for number, records in enumerate(shards):
            path = shard_name(name, split, number, len(shards))
            written.append(write_shard(directory, path, records, start, kinds))
            start += len(records)
        entries[split] = SplitEntry(records=start, bytes=sum(s.bytes for s in written), shards=written)
    shas = [shard.sha256 for entry in entries.values() for shard in entry.shards]
    manifest = Manifest(
        headrace_version="0.1.0",
        name=name,
        version="1.0.0",
        fingerprint=own or fingerprint(dict(features), shas),
        spec_fingerprint="0",
        spec={"label": label},
        features=typed,
        indexed=sorted(indexed),
        splits=entries,
        books={},
        dead_letters={},
        files=[],
    )
    (directory / "manifest.json").write_text(manifest.to_json())
    return directory


def deal(records: Sequence[Record], shards: int) -> list[list[Record]]:
    """`records` in order over `shards` shards of nearly equal size."""
    bounds = [len(records) * i // shards for i in range(shards + 1)]
    return [list(records[a:b]) for a, b in itertools.pairwise(bounds)]
