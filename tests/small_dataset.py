"""A small data set made from the contract alone, by the simplest code there is: an oracle for readers."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_jobs.interop import interop_files
from schemas import Books, Manifest, parse_spec
from schemas.hashing import as_sortable, fingerprint, key_hashes, shard_bounds
from schemas.index import encode_index
from schemas.manifest import FileEntry, ShardEntry, SplitEntry
from schemas.naming import DEAD_LETTERS, MANIFEST, index_name, shard_name

JOB = """
name: pond
version: 2.0.1
description: Fish and reeds.
sources: {photos: {kind: image_folder, path: photos}, extra: {kind: csv, path: extra.csv, key: path}}
join: [{table: extra, left_on: path, right_on: path}]
features:
  image: {type: image, formats: [png]}
  label: {type: class_label, names: [fish, reed]}
  count: {type: int64, min: -5, max: 10000}
  weights: {type: float32, shape: [3]}
  ids: {type: int64, shape: [null]}
  wet: {type: bool}
  title: {type: text, max_bytes: 100}
  raw: {type: bytes}
label: label
index: [label, wet, title, ids]
split: {fractions: {train: 0.75, test: 0.25}}
"""


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def chunk(tag: int, data: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(data)) + data


def example(values: Mapping[str, list[Any]]) -> bytes:
    """A tf.train.Example, canonical: features by name, numbers packed."""
    entries = b""
    for name, items in sorted(values.items()):
        if items and isinstance(items[0], bytes):
            feature = chunk(1, b"".join(chunk(1, item) for item in items))
        elif items and isinstance(items[0], float):
            feature = chunk(2, chunk(1, struct.pack(f"<{len(items)}f", *items)))
        else:
            feature = chunk(3, chunk(1, b"".join(map(varint, items))) if items else b"")
        entries += chunk(1, chunk(1, name.encode()) + chunk(2, feature))
    return chunk(1, entries)


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def png(i: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (5 + i % 3, 4), (i % 256, 80, 10)).save(out, "PNG")
    return out.getvalue()


def record(i: int) -> dict[str, list[Any]]:
    return {
        "image": [png(i)],
        "label": [i % 2],
        "count": [i - 5],
        "weights": [i / 4, -1.5, 0.0],
        "ids": list(range(i % 4)),
        "wet": [i % 2],
        "title": [f"Nº {i}: a pond\nwith fish".encode()],
        "raw": [bytes([i % 256, 255])],
    }


def make(
    root: Path, *, records: int = 40, shards: Mapping[str, int] | None = None, padding: int = 0
) -> Manifest:
    """A whole, intact data set version in `root`; its manifest."""
    shards = shards or {"train": 4, "test": 1}
    spec = parse_spec(JOB)
    (root / "index").mkdir(parents=True)
    splits, first = {}, 0
    for split, count in shards.items():
        own = range(first, first + records // len(shards))
        first = own.stop
        splits[split] = _write_split(root, spec.name, split, count, list(own), padding)
    letters = [
        ("photos", f"p/{i}.png", "", "validate", ["range", "decode"][i % 2], f"no. {i}", "") for i in range(5)
    ]
    table = pa.table(dict(zip(("source", "origin", "key", "stage", "rule", "reason", "raw"), zip(*letters, strict=True), strict=True)))  # noqa: E501  # fmt: skip
    (root / DEAD_LETTERS).parent.mkdir()
    pq.write_table(table, root / DEAD_LETTERS)
    files = interop_files(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        features=spec.features,
        label=spec.label,
        splits=splits,
    )
    for path, data in files.items():
        (root / path).write_bytes(data)
    shas = {name: [shard.sha256 for shard in entry.shards] for name, entry in splits.items()}
    manifest = Manifest(
        headrace_version="0.1.0",
        name=spec.name,
        version=spec.version,
        description=spec.description,
        fingerprint=fingerprint(spec.fingerprint, shas),
        spec_fingerprint=spec.fingerprint,
        spec=spec.model_dump(by_alias=True, mode="json", exclude_unset=True),
        features=spec.features,
        indexed=sorted(spec.indexed),
        splits=splits,
        books={
            "photos": Books(read=first + 8, written=first, dead_lettered=5, dropped={"tiny": 3}),
            "extra": Books(read=first, written=first),
        },
        dead_letters={"validate.decode": 2, "validate.range": 3},
        files=[entry_of(root, path) for path in sorted([*files, DEAD_LETTERS])],
    )
    (root / MANIFEST).write_text(manifest.to_json(), "utf-8")
    return manifest


def _write_split(root: Path, name: str, split: str, count: int, own: list[int], padding: int) -> SplitEntry:
    hashes = key_hashes([f"{i}.png".encode() for i in own], seed=0)
    order = np.argsort(as_sortable(hashes), order=("hi", "lo"))
    shard_of = np.searchsorted(shard_bounds(count), as_sortable(hashes), side="right") - 1
    entries = []
    for number in range(count):
        members = [i for i in order.tolist() if shard_of[i] == number]
        frames = []
        for i in members:
            values = record(own[i])
            values["raw"] = [values["raw"][0] + bytes(padding)]
            frames.append(frame(example(values)))
        path = shard_name(name, split, number, count)
        (root / path).write_bytes(b"".join(frames))
        values = [record(own[i]) for i in members]
        columns = {
            "feature/label": pa.array([v["label"][0] for v in values], pa.int64()),
            "feature/title": pa.array([v["title"][0].decode() for v in values], pa.large_string()),
            "feature/wet": pa.array([bool(v["wet"][0]) for v in values], pa.bool_()),
            "length/ids": pa.array([len(v["ids"]) for v in values], pa.int32()),
        }
        index = encode_index(np.array([len(f) for f in frames], np.uint64), hashes[members], columns)
        (root / index_name(path)).write_bytes(index)
        shard = entry_of(root, path)
        entries.append(
            ShardEntry(**shard.model_dump(), records=len(frames), index=entry_of(root, index_name(path)))
        )
    return SplitEntry(records=len(own), bytes=sum(e.bytes for e in entries), shards=entries)


def entry_of(root: Path, path: str) -> FileEntry:
    data = (root / path).read_bytes()
    return FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
