"""Columns to framed TFRecords of canonical `tf.train.Example`s, a column at a time.

The bytes are those of protobuf's `SerializeToString(deterministic=True)`: features sorted by name. Plain
`SerializeToString()` gives different bytes in different processes, and a Python loop over records is six times
slower. Each record becomes a row of byte blocks: small fields of all records are laid out side by side in one
matrix, large values stay where they are, and one `binary_join_element_wise` copies everything into place.

Wire format: https://protobuf.dev/programming-guides/encoding/; framing: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.framing import FOOTER_BYTES, FRAME_OVERHEAD, HEADER_BYTES, masked_crcs
from schemas.packing import Packing

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 0x0A, 0x12, 0x1A  # tags of tf.train.Feature's fields 1, 2 and 3

ByteMatrix = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Block:
    """Bytes of every record at one place: uint8 (n, width), of which `mask` says which count (None: all)."""

    bytes: ByteMatrix
    mask: npt.NDArray[np.bool_] | None = None

    def sizes(self) -> Lengths:
        if self.mask is None:
            return np.full(len(self.bytes), self.bytes.shape[1], dtype=np.int64)
        return self.mask.sum(axis=1, dtype=np.int64)


_Part: TypeAlias = "_Block | pa.LargeBinaryArray"


def encode_records(columns: Mapping[str, pa.Array]) -> tuple[pa.LargeBinaryArray, npt.NDArray[np.uint64]]:
    """One framed TFRecord for each row, and the bytes of each, uint64 (n,).

    Args:
      columns: arrays of n values without nulls: int64, float32, large_binary, or large_list of int64 or float32
        (a list may be empty; a fixed-length vector is a list too).

    Raises:
      TypeError: an array has another type.
    """
    names = sorted(columns)
    rows = len(columns[names[0]])
    parts: list[_Part] = []
    total = np.zeros(rows, dtype=np.int64)
    for name in names:
        entry, size = _entry(name, columns[name], rows)
        parts += entry
        total += size
    head: list[_Part] = [_constant(bytes(HEADER_BYTES) + b"\x0a", rows), _varints(total)]
    records = _join([*head, *parts, _constant(bytes(FOOTER_BYTES), rows)], rows)
    return records, _frame(records)


def pack_columns(columns: Mapping[str, pa.Array], packing: Packing) -> dict[str, pa.Array]:
    """The columns with vectors in place of those that are packed; see `schemas.packing`."""
    packed = dict(columns)
    for vector, names in packing.items():
        matrix = np.stack([packed.pop(name).to_numpy(zero_copy_only=False) for name in names], axis=1)
        offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int64) * len(names))
        packed[vector] = pa.LargeListArray.from_arrays(offsets, pa.array(matrix.ravel()))
    return packed


def _entry(name: str, column: pa.Array, rows: int) -> tuple[list[_Part], Lengths]:
    """The map entry of one feature for every record, and its size.

    Entry: 0x0A len { 0x0A len key, 0x12 len { kind len { list } } }. Sizes are worked out from the inside.
    """
    kind, content, content_size = _list(column, rows)
    kind_size = 1 + _varint_size(content_size) + content_size
    key = name.encode()
    key_bytes = b"\x0a" + _varint(len(key)) + key
    body_size = len(key_bytes) + 1 + _varint_size(kind_size) + kind_size
    head: list[_Part] = [
        _constant(b"\x0a", rows),
        _varints(body_size),
        _constant(key_bytes + b"\x12", rows),
        _varints(kind_size),
        _constant(bytes([kind]), rows),
        _varints(content_size),
    ]
    return [*head, *content], 1 + _varint_size(body_size) + body_size


def _list(column: pa.Array, rows: int) -> tuple[int, list[_Part], Lengths]:
    """A column as BytesList, FloatList or Int64List messages: tag of the kind, parts, sizes."""
    if pa.types.is_large_binary(column.type):
        sizes = np.diff(_offsets(column))
        return (
            _BYTES_LIST,
            [_constant(b"\x0a", rows), _varints(sizes), column],
            1 + _varint_size(sizes) + sizes,
        )
    if pa.types.is_float32(column.type):
        values = column.to_numpy(zero_copy_only=False).astype("<f4").view(np.uint8).reshape(rows, 4)
        return _FLOAT_LIST, [_constant(b"\x0a\x04", rows), _Block(values)], np.full(rows, 6, dtype=np.int64)
    if pa.types.is_int64(column.type):
        block = _varints(column.to_numpy(zero_copy_only=False))
        sizes = block.sizes()
        return (
            _INT64_LIST,
            [_constant(b"\x0a", rows), _varints(sizes), block],
            1 + _varint_size(sizes) + sizes,
        )
    if pa.types.is_large_list(column.type):
        kind, packed = _packed(column)
        sizes = np.diff(_offsets(packed))
        some = (sizes > 0)[:, None]  # protobuf leaves an empty packed field out
        tag, size = _constant(b"\x0a", rows), _varints(sizes)
        size_mask = some if size.mask is None else size.mask & some
        head = [_Block(tag.bytes, some), _Block(size.bytes, np.broadcast_to(size_mask, size.bytes.shape))]
        return kind, [*head, packed], np.where(sizes > 0, 1 + _varint_size(sizes) + sizes, 0)
    raise TypeError(f"cannot encode a column of type {column.type}")


def _packed(column: pa.LargeListArray) -> tuple[int, pa.LargeBinaryArray]:
    """The packed values of every list, back to back."""
    offsets = np.asarray(column.offsets, dtype=np.int64)
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False)
    offsets = offsets - offsets[0]
    if pa.types.is_float32(column.type.value_type):
        return _FLOAT_LIST, _binary(offsets * 4, np.ascontiguousarray(values.astype("<f4")).view(np.uint8))
    if pa.types.is_int64(column.type.value_type):
        block = _varints(values)
        ends = np.concatenate([[0], np.cumsum(block.sizes())])
        return _INT64_LIST, _binary(ends[offsets], _flat(block))
    raise TypeError(f"cannot encode a list of {column.type.value_type}")


def _constant(data: bytes, rows: int) -> _Block:
    return _Block(np.broadcast_to(np.frombuffer(data, dtype=np.uint8), (rows, len(data))))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_size(values: Lengths) -> Lengths:
    """Bytes of each value as a varint; the values are not negative."""
    sizes = np.ones(len(values), dtype=np.int64)
    bound = 0x80
    while bound < 1 << 63 and len(values) and bool((values >= bound).any()):
        sizes += values >= bound
        bound <<= 7
    return sizes


def _varints(values: npt.NDArray[np.int64]) -> _Block:
    """Base-128 varints, seven bits a byte, low first; negative numbers are two's complement in ten bytes."""
    unsigned = values.astype(np.int64, copy=False).view(np.uint64)
    if len(values) and bool((unsigned == unsigned[0]).all()):  # as most sizes are
        return _constant(_varint(int(unsigned[0])), len(values))
    highest = int(unsigned.max()) if len(unsigned) else 0
    width = max(1, -(-highest.bit_length() // 7))
    if width == 1:
        return _Block(unsigned.astype(np.uint8)[:, None])
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    shifted = unsigned[:, None] >> shifts
    mask = shifted > 0
    mask[:, 0] = True
    data = (shifted & np.uint64(0x7F)).astype(np.uint8)
    data[:, :-1] |= mask[:, 1:].astype(np.uint8) << np.uint8(7)
    return _Block(data, None if bool(mask.all()) else mask)


def _join(parts: list[_Part], rows: int) -> pa.LargeBinaryArray:
    """All parts of each record, back to back. Neighbouring blocks become one matrix first."""
    arrays: list[pa.LargeBinaryArray] = []
    blocks: list[_Block] = []
    for part in [*parts, None]:
        if isinstance(part, _Block):
            blocks.append(part)
            continue
        if blocks:
            arrays.append(_merge(blocks, rows))
            blocks = []
        if part is not None:
            arrays.append(part)
    if len(arrays) == 1:
        return arrays[0]
    return pc.binary_join_element_wise(*arrays, pa.scalar(b"", pa.large_binary()))


def _merge(blocks: list[_Block], rows: int) -> pa.LargeBinaryArray:
    # What is the same in all rows, most of it, is laid out at once; only what differs is copied a column at a time.
    width = sum(block.bytes.shape[1] for block in blocks)
    data = np.empty((rows, width), dtype=np.uint8)
    data[:] = np.concatenate([block.bytes[0] for block in blocks]) if rows else 0
    mask = None if all(block.mask is None for block in blocks) else np.ones((rows, width), dtype=np.bool_)
    at = 0
    for block in blocks:
        columns = slice(at, at + block.bytes.shape[1])
        if block.bytes.strides[0]:  # else one row stands for all
            data[:, columns] = block.bytes
        if mask is not None and block.mask is not None:
            mask[:, columns] = block.mask
        at = columns.stop
    merged = _Block(data, mask)
    return _binary(np.concatenate([[0], np.cumsum(merged.sizes())]), _flat(merged))


def _flat(block: _Block) -> npt.NDArray[np.uint8]:
    return block.bytes.ravel() if block.mask is None else block.bytes[block.mask]


def _binary(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _offsets(array: pa.Array) -> npt.NDArray[np.int64]:
    return np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]


def _frame(records: pa.LargeBinaryArray) -> npt.NDArray[np.uint64]:
    """Fills in the length and the two CRCs around each record, in place; gives the size of each frame."""
    offsets = _offsets(records)
    # Nothing else holds the freshly joined buffer yet; writing into it saves a copy of every record.
    buffer = (
        np.frombuffer(records.buffers()[2], dtype=np.uint8) if len(records) else np.zeros(0, dtype=np.uint8)
    )
    starts, ends = offsets[:-1], offsets[1:]
    sizes = (ends - starts).astype(np.uint64)
    data_sizes = sizes - np.uint64(FRAME_OVERHEAD)
    length_bytes = data_sizes.astype("<u8").view(np.uint8).reshape(-1, 8)
    _scatter(buffer, starts, length_bytes)
    _scatter(buffer, starts + 8, _u32(masked_crcs(_crc_of_8(length_bytes))))
    crc32c = google_crc32c.value
    crcs = [
        crc32c(buffer[start:end])
        for start, end in zip((starts + HEADER_BYTES).tolist(), (ends - FOOTER_BYTES).tolist(), strict=True)
    ]
    _scatter(buffer, ends - FOOTER_BYTES, _u32(masked_crcs(np.array(crcs, dtype=np.uint32))))
    return sizes


def _scatter(buffer: npt.NDArray[np.uint8], at: Lengths, rows: ByteMatrix) -> None:
    for column in range(rows.shape[1]):
        buffer[at + column] = rows[:, column]


def _u32(values: npt.NDArray[np.uint32]) -> ByteMatrix:
    return values.astype("<u4").view(np.uint8).reshape(-1, 4)


def _crc_tables() -> tuple[int, npt.NDArray[np.uint32]]:
    """A CRC is linear over XOR: crc(x) = crc(0) ^ the share of every byte, looked up by place and value."""
    zero = google_crc32c.value(bytes(8))
    tables = np.zeros((8, 256), dtype=np.uint32)
    for place in range(8):
        for value in range(256):
            word = bytearray(8)
            word[place] = value
            tables[place, value] = google_crc32c.value(bytes(word)) ^ zero
    return zero, tables


_CRC_ZERO, _CRC_TABLES = _crc_tables()


def _crc_of_8(words: ByteMatrix) -> npt.NDArray[np.uint32]:
    """CRC32C of each row of 8 bytes: uint32 (n,)."""
    crc = np.full(len(words), _CRC_ZERO, dtype=np.uint32)
    for place in range(8):
        crc ^= _CRC_TABLES[place][words[:, place]]
    return crc
