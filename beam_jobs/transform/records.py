"""Shards to tensors: a shard's records, a batch at a time, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from beam_jobs.sources._sets.example import (
    BYTES_LIST,
    FLOAT_LIST,
    INT64_LIST,
    Examples,
    find_features,
    values_of,
)
from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.features import Feature, Float32Feature
from schemas.framing import FOOTER_BYTES, HEADER_BYTES
from schemas.index import ShardIndex, decode_index
from schemas.manifest import ShardEntry
from schemas.packing import Packing

# A batch is a function of the shard's bytes alone: sums are rounded batch by batch.
_BATCH_ROWS = 8192
_BATCH_BYTES = 16 << 20

Columns = dict[str, pa.Array]


def read_index(directory: StorePath, entry: ShardEntry) -> ShardIndex:
    """The index of a shard."""
    path = directory / entry.index.path
    return decode_index(path.read(), str(path))


def batches(directory: StorePath, entry: ShardEntry, index: ShardIndex) -> Iterator[tuple[int, int, bytes]]:
    """The first and last record of each batch, the last one left out, and the bytes of their frames."""
    ends = (index.offsets + index.lengths).astype(np.int64)
    start = 0
    while start < len(index):
        offset = int(index.offsets[start])
        stop = int(np.searchsorted(ends, offset + _BATCH_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + _BATCH_ROWS))
        yield start, stop, (directory / entry.path).read_range(offset, int(ends[stop - 1]) - offset)
        start = stop


def columns_of(
    data: bytes,
    lengths: npt.NDArray[np.uint64],
    features: Mapping[str, Feature],
    packing: Packing,
    where: str,
) -> Columns:
    """The values of `features` in records whose frames lie back to back: arrays as `encode_records` takes them."""
    ends = np.cumsum(lengths.astype(np.int64))
    starts = ends - lengths.astype(np.int64) + HEADER_BYTES
    vectors = {vector: [n for n in names if n in features] for vector, names in packing.items()}
    packed = {name for names in vectors.values() for name in names}
    wanted = frozenset(
        name.encode()
        for name in [*(v for v, names in vectors.items() if names), *(n for n in features if n not in packed)]
    )
    examples = find_features(memoryview(data), starts, ends - FOOTER_BYTES, wanted)
    columns: Columns = {}
    for vector, names in vectors.items():
        if names:
            width = len(packing[vector])
            values = _values(examples, vector, features[names[0]], width, where).to_numpy()
            matrix = values.reshape(-1, width)
            for name in names:
                columns[name] = pa.array(np.ascontiguousarray(matrix[:, packing[vector].index(name)]))
    for name, feature in features.items():
        if name in packed:
            continue
        shape: Sequence[int | None] = getattr(feature, "shape", ())
        if len(shape) == 0:
            columns[name] = _values(examples, name, feature, 1, where)
        elif tuple(shape) == (None,):
            values, counts = _lists(examples, name, feature, where)
            columns[name] = pa.LargeListArray.from_arrays(pa.array(_offsets(counts)), values)
        else:
            width = shape[0] or 0
            values = _values(examples, name, feature, width, where)
            offsets = np.arange(len(lengths) + 1, dtype=np.int64) * width
            columns[name] = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    return columns


def tensors(columns: Columns, features: Mapping[str, Feature]) -> dict[str, Any]:
    """The columns as tensors, lists of any length sparse: what the traced function takes."""
    return {name: _tensor(columns[name], features[name]) for name in sorted(features)}


def _tensor(column: pa.Array, feature: Feature) -> Any:
    shape: Sequence[int | None] = getattr(feature, "shape", ())
    if len(shape) == 0:
        return tf.constant(column.to_numpy(zero_copy_only=False))
    values = column.values.to_numpy(zero_copy_only=False)
    if tuple(shape) != (None,):
        return tf.constant(values.reshape(len(column), -1))
    counts = np.diff(column.offsets.to_numpy())
    rows = np.repeat(np.arange(len(column)), counts)
    places = np.arange(len(values)) - np.repeat(_offsets(counts)[:-1], counts)
    widest = int(counts.max(initial=0))
    return tf.SparseTensor(np.stack([rows, places], axis=1), values, [len(column), widest])


def _values(examples: Examples, name: str, feature: Feature, count: int, where: str) -> pa.Array:
    values, counts = _lists(examples, name, feature, where)
    if not (counts == count).all():
        raise _unlike(where, name)
    return values


def _lists(
    examples: Examples, name: str, feature: Feature, where: str
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    values, counts, bad = values_of(examples, examples.feature(name), _kind(feature))
    if bad or examples.bad:
        raise _unlike(where, name)
    return values, counts


def _kind(feature: Feature) -> int:
    if isinstance(feature, Float32Feature):
        return FLOAT_LIST
    return BYTES_LIST if feature.type in ("text", "bytes", "image") else INT64_LIST


def _offsets(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _unlike(where: str, name: str) -> HeadraceError:
    return HeadraceError(
        "A record of a shard does not hold what was written.",
        where=f"{where}, feature {name!r}",
        hint="The shard was damaged after it was written: run the same command again.",
    )
