"""Rows as they come from a database: as Arrow, or as tuples of which each value may turn out to be of another type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sources._sql.digest import offsets_of
from beam_jobs.sources._sql.statements import ARROW, Column, Table
from beam_jobs.sources._sql.values import Values, no_text
from beam_jobs.sources.base import Fault

CHUNK_BYTES = 4 << 20
_STEP_ROWS, _MOST_ROWS = 256, 1 << 14
_NUMBERS = np.arange(1 << 16, dtype=np.int64)
_NUMBERS.flags.writeable = False  # chunks share it


@dataclass(frozen=True)
class Chunk:
    """Some rows of a result, in its order.

    Attributes:
      records: the columns of the statement, by their names, of the rows that could be read.
      rows: int64, the place of each among all rows of the chunk.
      total: how many rows the chunk has, with those that could not be read.
      first, last: values that order the chunk's first and last row, read or not.
      faults: the rest; their `row` counts as `rows` does.
    """

    records: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    total: int
    first: list[Any]
    last: list[Any]
    faults: list[Fault] = field(default_factory=list)


def from_arrow(batch: pa.RecordBatch, table: Table) -> Chunk:
    """A chunk of what a client gives as Arrow; text that is no UTF-8 is a fault."""
    columns = [_as_kind(array, column) for array, column in zip(batch.columns, table.columns, strict=True)]
    faults: dict[int, Fault] = {}
    for column, array in zip(table.columns, columns, strict=True):
        if pa.types.is_string(array.type):
            _check_text(array, column, faults)
    records = pa.RecordBatch.from_arrays(columns, names=[column.name for column in table.columns])
    ends = [[columns[place][row].as_py() for place in table.order] for row in (0, batch.num_rows - 1)]
    return _without(records, faults, *ends)


def _as_kind(array: pa.Array, column: Column) -> pa.Array:
    kind = ARROW[column.kind]
    return array if array.type.equals(kind) else pc.cast(array, kind)


def _check_text(array: pa.Array, column: Column, faults: dict[int, Fault]) -> None:
    if _is_ascii(array):  # found out in an eighth of the time
        return
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        for row, value in enumerate(array.cast(pa.binary())):
            raw = value.as_py()
            try:
                str(raw or b"", "utf-8")
            except UnicodeDecodeError:
                faults.setdefault(row, no_text(row, column, raw))


def _is_ascii(array: pa.Array) -> bool:
    data, offsets = array.buffers()[2], offsets_of(array)
    return data is None or int(np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]].max(initial=0)) < 0x80


def from_values(columns: Sequence[Values], table: Table) -> Chunk:
    """A chunk of Python's values; one that is not of its column's type makes a fault of its row."""
    faults: dict[int, Fault] = {}
    arrays = [column.array(faults) for column in columns]
    records = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in table.columns])
    ends = [[columns[place].end(row, arrays[place]) for place in table.order] for row in (0, -1)]
    return _without(records, faults, *ends)


def _numbers(count: int) -> npt.NDArray[np.int64]:
    return _NUMBERS[:count] if count <= len(_NUMBERS) else np.arange(count, dtype=np.int64)


def _without(records: pa.RecordBatch, faults: dict[int, Fault], first: list[Any], last: list[Any]) -> Chunk:
    rows = _numbers(records.num_rows)
    if faults:
        rows = np.delete(rows, list(faults))
        records = records.take(pa.array(rows))
    total = len(rows) + len(faults)
    return Chunk(records, rows, total, first, last, [faults[row] for row in sorted(faults)])


def tuples_to_chunks(
    fetch: Callable[[int], Sequence[Any]],
    explaining: Callable[[], AbstractContextManager[None]],
    table: Table,
) -> Iterator[Chunk]:
    """Chunks of about 4 MiB from a client that gives as many rows as it is asked for."""
    filling = CHUNK_BYTES // (8 * len(table.columns))  # rows, of which a value has 8 bytes or more
    most = min(_MOST_ROWS, filling + _STEP_ROWS)
    columns: list[Values] = []
    rows = size = 0
    while True:
        with explaining():
            found = fetch(_STEP_ROWS)  # a few at a time: the next ones may be images
        if not found:
            break
        columns = columns or [Values(column, most) for column in table.columns]
        for column, values in zip(columns, zip(*found, strict=True), strict=True):
            size += column.extend(values)
        rows += len(found)
        if size >= CHUNK_BYTES or rows > most - _STEP_ROWS:
            yield from_values(columns, table)
            columns, rows, size = [], 0, 0
    if columns:
        yield from_values(columns, table)


def part(chunk: Chunk, start: int, stop: int) -> Chunk:
    """The chunk's rows from `start` on, up to `stop`."""
    if not chunk.faults:  # all rows are there
        records = chunk.records.slice(start, stop - start)
        return Chunk(records, chunk.rows[: stop - start], stop - start, chunk.first, chunk.last)
    low, high = np.searchsorted(chunk.rows, [start, stop]).tolist()
    faults = [Fault(f.row - start, f.rule, f.reason, f.raw) for f in chunk.faults if start <= f.row < stop]
    records = chunk.records.slice(low, high - low)
    return Chunk(records, chunk.rows[low:high] - start, stop - start, chunk.first, chunk.last, faults)


def row_bytes(records: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """About how many bytes each record has."""
    sizes = np.zeros(records.num_rows, dtype=np.int64)
    for array in records.columns:
        if pa.types.is_string(array.type) or pa.types.is_large_binary(array.type):
            sizes += pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False) + 4
        elif pa.types.is_list(array.type):
            sizes += (
                8 * pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
                + 4
            )
        else:
            sizes += 8
    return sizes


def keys_of(records: pa.RecordBatch, table: Table) -> pa.Array:
    """The text of each record's key as bytes; several columns are joined by `|`, `|` and `\\` escaped by `\\`."""
    parts = [records.column(place) for place in table.key]
    if len(parts) == 1:
        part = parts[0]
        return (
            part.cast(pa.binary()) if pa.types.is_large_binary(part.type) else _text(part).cast(pa.binary())
        )
    escaped = [
        pc.replace_substring(pc.replace_substring(_text(part), "\\", "\\\\"), "|", "\\|") for part in parts
    ]
    return pc.binary_join_element_wise(*escaped, "|").cast(pa.binary())


def _text(part: pa.Array) -> pa.Array:
    if pa.types.is_large_binary(part.type):
        return pa.array([None if value is None else value.hex() for value in part.to_pylist()], pa.string())
    return part.cast(pa.string())
