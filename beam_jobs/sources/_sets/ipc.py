"""Where the record batches of an Arrow stream lie, found by the headers of its messages: their bodies are not read.

A message is 0xFFFFFFFF, the length of its metadata (4 bytes, little-endian), the metadata, the body. The metadata are
a FlatBuffer, of which two tables are looked at: Message (version, header type, header, body length) and RecordBatch
(length …). See https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pyarrow as pa

_CONTINUATION = 0xFFFFFFFF
_PREFIX_BYTES = 8
_MAX_METADATA_BYTES = 64 << 20
_SCHEMA, _RECORD_BATCH = 1, 3
_DAMAGED = (struct.error, pa.ArrowException)


class DamagedStreamError(ValueError):
    """Bytes that are no Arrow stream; says what and at which byte."""


class Unit(NamedTuple):
    """A part of a file that is read as a whole.

    Attributes:
      place: the byte at which it begins; of a row group its number.
      size: how many bytes it has, about.
      rows: how many records it holds.
    """

    place: int
    size: int
    rows: int


def walk_stream(file: pa.NativeFile, size: int) -> tuple[pa.Schema, list[Unit]]:
    """The schema and the record batches of an Arrow stream of `size` bytes.

    Raises:
      DamagedStreamError: it is none, it ends early, or its columns are dictionaries.
    """
    schema, messages, start = None, [], 0
    while start + _PREFIX_BYTES <= size:
        file.seek(start)
        mark, length = struct.unpack("<II", file.read(_PREFIX_BYTES))
        if mark != _CONTINUATION:
            raise DamagedStreamError(f"there is no message of an Arrow stream at byte {start}")
        if not length:
            break  # the end of the stream
        if length > min(_MAX_METADATA_BYTES, size - start - _PREFIX_BYTES):
            raise DamagedStreamError(f"{length} bytes of metadata at byte {start}, and the file ends before")
        try:
            kind, body, rows = _message(file.read(length))
        except _DAMAGED as error:
            raise DamagedStreamError(f"the message at byte {start} cannot be read: {error}") from None
        end = start + _PREFIX_BYTES + length + body
        if body < 0 or end > size:
            raise DamagedStreamError(
                f"a message of {end - start} bytes at byte {start}, and the file ends before"
            )
        if kind == _SCHEMA and schema is None:
            schema = _schema(file, start, end)
        elif kind == _RECORD_BATCH and schema is not None and rows >= 0:
            messages.append(Unit(start, end - start, rows))
        else:
            raise DamagedStreamError(
                f"the message at byte {start} is no record batch; dictionaries are not read: export it as Parquet"
            )
        start = end
    if schema is None:
        raise DamagedStreamError("the file holds no Arrow stream")
    return schema, messages


def read_message(file: pa.NativeFile, message: Unit, schema: pa.Schema) -> pa.RecordBatch:
    """One record batch, all of it checked but for texts, which may be no UTF-8.

    Raises:
      DamagedStreamError: it cannot be read.
    """
    file.seek(message.place)
    try:
        found = pa.ipc.read_message(pa.BufferReader(file.read_buffer(message.size)))
        batch = pa.ipc.read_record_batch(found, schema)
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid:
            pa.RecordBatch.from_arrays(
                [column.cast(_bytes_for_text(column.type)) for column in batch.columns], names=schema.names
            ).validate(full=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DamagedStreamError(
            f"the record batch at byte {message.place} cannot be read: {error}"
        ) from None
    return batch


def _bytes_for_text(kind: pa.DataType) -> pa.DataType:
    """The same type with bytes in place of texts, which are laid out alike."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_for_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_bytes_for_text(kind.value_type)))
    return kind


def _schema(file: pa.NativeFile, start: int, end: int) -> pa.Schema:
    file.seek(start)
    try:
        return pa.ipc.read_schema(pa.BufferReader(file.read_buffer(end - start)))
    except _DAMAGED as error:
        raise DamagedStreamError(f"the schema cannot be read: {error}") from None


def _message(metadata: bytes) -> tuple[int, int, int]:
    """Header type, length of the body, and the number of rows where the header is of a record batch."""
    message = _unpack("<I", metadata, 0)
    kind = _unpack("<B", metadata, _place(metadata, message, 1))
    body_at = _field(metadata, message, 3)
    body = _unpack("<q", metadata, message + body_at) if body_at else 0
    if kind != _RECORD_BATCH:
        return kind, body, 0
    header = _place(metadata, message, 2)
    header += _unpack("<I", metadata, header)
    rows_at = _field(metadata, header, 0)
    return kind, body, _unpack("<q", metadata, header + rows_at) if rows_at else 0


def _place(data: bytes, table: int, number: int) -> int:
    offset = _field(data, table, number)
    if not offset:
        raise struct.error(f"field {number} is missing")
    return table + offset


def _field(data: bytes, table: int, number: int) -> int:
    """Where field `number` of a FlatBuffer's table lies, from the table's start; 0 where it is left out."""
    index = table - _unpack("<i", data, table)
    return _unpack("<H", data, index + 4 + 2 * number) if 4 + 2 * number < _unpack("<H", data, index) else 0


def _unpack(form: str, data: bytes, place: int) -> int:
    if place < 0:
        raise struct.error("a place before the start")
    value: int = struct.unpack_from(form, data, place)[0]
    return value
