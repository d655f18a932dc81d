"""The features that indexes hold too, on their way from a partition's columns to the index of a shard.

Between the two lie rows of fixed width, one a record, so that a run's can be sorted, and any of them read, like
the rows of its own index.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.blocks import offsets_of
from schemas.columns import ColumnKind, column_kinds, feature_of, max_text_bytes
from schemas.features import Feature, TextFeature
from schemas.index import COLUMN_TYPES

Rows = npt.NDArray[np.void]

_NUMBERS: Mapping[ColumnKind, str] = {"int64": "<i8", "float32": "<f4", "bool": "?", "length": "<i4"}


def row_type(features: Mapping[str, Feature], indexed: list[str]) -> np.dtype[np.void]:
    """The type of a row: a field for each column of the index, by its name."""
    fields: list[tuple[str, object]] = []
    for column, kind in column_kinds(features, indexed).items():
        feature = features[feature_of(column)]
        if isinstance(feature, TextFeature):
            fields.append((column, [("size", "u1"), ("text", "u1", (max(1, max_text_bytes(feature)),))]))
        else:
            fields.append((column, _NUMBERS[kind]))
    return np.dtype(fields)


def to_rows(columns: Mapping[str, pa.Array], row: np.dtype[np.void]) -> Rows:
    """The rows of records whose features, as they go into the shards, are `columns`."""
    rows = np.zeros(len(next(iter(columns.values()))), row)
    for name in row.names or ():
        column = columns[feature_of(name)]
        if pa.types.is_large_list(column.type):
            column = pc.list_value_length(column)
        if pa.types.is_large_binary(column.type):
            offsets = offsets_of(column)
            rows[name]["size"] = np.diff(offsets)
            data = np.frombuffer(column.buffers()[2] or b"", np.uint8)
            rows[name]["text"][_used(rows[name])] = data[offsets[0] : offsets[-1]]
        else:
            rows[name] = column.to_numpy(zero_copy_only=False)
    return rows


def to_columns(rows: Rows) -> dict[str, pa.Array]:
    """The columns of an index that `rows` hold."""
    return {name: _column(rows[name]) for name in rows.dtype.names or ()}


def _column(values: Rows) -> pa.Array:
    if values.dtype.names is None:
        return pa.array(np.ascontiguousarray(values))
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values["size"], out=offsets[1:])
    data = values["text"][_used(values)]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(COLUMN_TYPES["text"], len(values), buffers)


def _used(texts: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which of the bytes reserved for texts belong to them, bool (n, width)."""
    used: npt.NDArray[np.bool_] = np.arange(texts["text"].shape[1]) < texts["size"][:, None]
    return used
