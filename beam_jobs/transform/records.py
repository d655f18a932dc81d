"""Shards to tensors: a shard's records, a batch at a time, column by column."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from beam_jobs.plan import JobPlan
from beam_jobs.statistics.canonical import PADDING, Column, Spans, Stored, gathered, read_columns, stored
from beam_jobs.store_path import StorePath
from schemas.features import Feature
from schemas.framing import FOOTER_BYTES, HEADER_BYTES
from schemas.index import ShardIndex, decode_index
from schemas.manifest import ShardEntry

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
    data: bytes, lengths: npt.NDArray[np.uint64], plan: JobPlan, names: Collection[str], where: str
) -> Columns:
    """The values of features `names` of assembled records, frames back to back, as `encode_records` takes them.

    Raises:
      HeadraceError: a record cannot be read; `where` names the file.
    """
    packing = plan.packing
    padded = np.zeros(len(data) + PADDING, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    stops = np.cumsum(lengths.astype(np.int64))
    starts = stops - lengths.astype(np.int64) + HEADER_BYTES
    form = stored(plan.features, packing)
    columns: Columns = {}
    for name, column in read_columns(padded, starts, stops - FOOTER_BYTES, form, where).items():
        if name in packing:
            assert not isinstance(column.values, Spans)
            for place, feature in enumerate(packing[name]):
                columns[feature] = pa.array(np.ascontiguousarray(column.values[place :: len(packing[name])]))
        elif name in names:
            columns[name] = _array(column, form[name], len(lengths))
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


def _array(column: Column, form: Stored, rows: int) -> pa.Array:
    if isinstance(column.values, Spans):
        buffers = [None, pa.py_buffer(_offsets(column.values.sizes)), pa.py_buffer(gathered(column.values))]
        values = pa.Array.from_buffers(pa.large_binary(), len(column.values.sizes), buffers)
    else:
        values = pa.array(column.values)
    if form.size == 1:
        return values
    counts = np.full(rows, form.size) if column.counts is None else column.counts
    return pa.LargeListArray.from_arrays(pa.array(_offsets(counts)), values)


def _offsets(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
