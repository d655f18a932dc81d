"""Record batches as sources yield them: no structs, bytes as large_binary, about 8 MiB each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources.base import Fault
from schemas.errors import HeadraceError

BATCH_BYTES = 8 << 20
_WHOLE = {int, type(None)}


def flatten(records: pa.RecordBatch, where: str) -> pa.RecordBatch:
    """The same records with every struct as columns `name.field`, and lists of structs as a list of each field.

    Dictionaries become their values, bytes large_binary.

    Raises:
      HeadraceError: two columns come to have one name.
    """
    columns: dict[str, pa.Array] = {}
    stack = list(zip(records.schema.names, records.columns, strict=True))[::-1]
    while stack:
        name, column = stack.pop()
        fields = _fields(column)
        if fields is not None:
            stack += [(f"{name}.{field}", values) for field, values in fields][::-1]
            continue
        if name in columns:
            raise HeadraceError("Two columns have one name.", where=where, value=name)
        columns[name] = _plain(column)
    if not columns:
        raise HeadraceError("The records have no columns.", where=where)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def flat_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """The schema that `flatten` gives to records of `schema`."""
    return flatten(pa.RecordBatch.from_pylist([], pa.schema(list(schema))), where).schema


def pieces(records: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Slices of about 8 MiB or one record, each with the number of records before it."""
    start = 0
    while start < records.num_rows:
        count = records.num_rows - start
        # Halved until it fits: records may differ in size.
        while count > 1 and records.slice(start, count).nbytes > BATCH_BYTES:
            count = (count + 1) // 2
        yield start, records.slice(start, count)
        start += count


def without_bad_text(
    records: pa.RecordBatch, rows: npt.NDArray[np.int64]
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64], list[Fault]]:
    """Flat records without those in which a text is no UTF-8, their rows, and a fault for each that is left out."""
    faults: dict[int, Fault] = {}
    for name, column in zip(records.schema.names, records.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            reason = f"column {name!r} is not UTF-8"
            faults.update({i: Fault(int(rows[i]), "bad_encoding", reason) for i in _invalid(column)})
    return (*without(records, rows, faults), [faults[place] for place in sorted(faults)])


def without(
    records: pa.RecordBatch, rows: npt.NDArray[np.int64], places: Collection[int]
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
    """The records and their rows without those at `places`."""
    if not places:
        return records, rows
    keep = np.ones(len(rows), dtype=np.bool_)
    keep[list(places)] = False
    return records.filter(pa.array(keep)), rows[keep]


def any_cut(values: Iterable[Any], kind: pa.DataType) -> bool:
    """Whether Arrow, asked for this type, quietly cuts one of these values.

    It does so to numbers that are not whole, and to the time of a moment of which a day is asked.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "biu":
        return False
    if pa.types.is_list(kind):
        return any(any_cut(inner, kind.value_type) for inner in values if inner is not None)
    if pa.types.is_integer(kind):
        return not _WHOLE.issuperset(map(type, values)) and any(map(_has_fraction, values))
    return pa.types.is_date32(kind) and any(map(_has_time, values))


def _has_fraction(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return not value.is_integer()
    return isinstance(value, Decimal) and value.is_finite() and value != value.to_integral_value()


def _has_time(value: Any) -> bool:
    return isinstance(value, datetime) and value.time() != time.min


def _invalid(column: pa.Array) -> list[int]:
    """Places of the values that are invalid on their own."""
    found = []
    for place in range(len(column)):
        try:
            column.slice(place, 1).validate(full=True)
        except pa.ArrowInvalid:
            found.append(place)
    return found


def _fields(column: pa.Array) -> list[tuple[str, pa.Array]] | None:
    """The fields of a column of structs or of lists of structs."""
    kind = column.type
    if pa.types.is_struct(kind):
        # `flatten` and not `field`: a record without a struct has no fields either.
        return list(zip([kind.field(i).name for i in range(kind.num_fields)], column.flatten(), strict=True))
    if pa.types.is_fixed_size_list(kind) and pa.types.is_struct(kind.value_type):
        column = column.cast(pa.list_(kind.value_type))
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(
        kind.value_type
    ):
        return None
    offsets = pa.array(column.offsets.to_numpy())
    mask = column.is_null() if column.null_count else None
    return [
        (name, type(column).from_arrays(offsets, values, mask=mask))
        for name, values in _fields(column.values) or []
    ]


def _plain(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return column.cast(pa.large_binary())
    return column
