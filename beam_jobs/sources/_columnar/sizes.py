"""How much columns take once they are decoded: a few bytes can stand for gigabytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

BATCH_BYTES = 8 << 20
_NUMBER_BYTES = 8


def small_batches(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch's rows in batches of about 8 MiB each, once decoded; a row that is larger alone."""
    pieces = -(-decoded_bytes(batch) // BATCH_BYTES)
    if pieces <= 1 or batch.num_rows <= 1:
        yield batch
        return
    rows = max(1, batch.num_rows // pieces)
    for start in range(0, batch.num_rows, rows):
        # Anew, for rows are not of one size.
        yield from small_batches(batch.slice(start, rows))


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """About how many bytes the rows of the batch take as plain columns."""
    return sum(_bytes(column) for column in batch.columns)


def largest_texts(name: str, array: pa.Array) -> Iterator[tuple[str, int]]:
    """The bytes of the largest text of a column's dictionary, which need not be that of a row; a struct's by field."""
    if pt.is_struct(array.type):
        for field, child in zip(array.type, array.flatten(), strict=True):
            yield from largest_texts(f"{name}.{field.name}", child)
    elif pt.is_dictionary(array.type) and _is_text(array.type.value_type):
        yield name, pc.max(pc.binary_length(array.dictionary)).as_py() or 0


def _bytes(array: pa.Array) -> int:
    kind, rows = array.type, len(array)
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes(array.storage)
    if pt.is_dictionary(kind):
        if _is_text(kind.value_type):
            lengths = pc.binary_length(array.dictionary).take(array.indices)
            return rows * _NUMBER_BYTES + (pc.sum(lengths).as_py() or 0)
        return rows * _largest(array.dictionary)
    if pt.is_run_end_encoded(kind):
        return rows * _largest(array.values)
    if _is_text(kind):
        return rows * _NUMBER_BYTES + (pc.sum(pc.binary_length(array)).as_py() or 0)
    if pt.is_struct(kind):
        return sum(_bytes(child) for child in array.flatten())
    if pt.is_map(kind):
        offsets = np.asarray(array.offsets)
        part = slice(int(offsets[0]), int(offsets[-1]))
        return rows * _NUMBER_BYTES + _bytes(array.keys[part]) + _bytes(array.items[part])
    if pt.is_nested(kind) and not pt.is_union(kind):
        return rows * _NUMBER_BYTES + _bytes(array.flatten())
    return rows * (kind.byte_width if pt.is_fixed_size_binary(kind) else _NUMBER_BYTES)


def _largest(values: pa.Array) -> int:
    """At least the bytes of the largest value."""
    if _is_text(values.type):
        return _NUMBER_BYTES + (pc.max(pc.binary_length(values)).as_py() or 0)
    return _bytes(values) if pt.is_nested(values.type) else _NUMBER_BYTES


def _is_text(kind: pa.DataType) -> bool:
    return (
        pt.is_string(kind)
        or pt.is_large_string(kind)
        or pt.is_binary(kind)
        or pt.is_large_binary(kind)
        or pt.is_string_view(kind)
        or pt.is_binary_view(kind)
    )
