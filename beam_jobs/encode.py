"""Columns to framed TFRecords of canonical `tf.train.Example`s, a column at a time.

The bytes are those of protobuf's `SerializeToString(deterministic=True)`: features sorted by name. Plain
`SerializeToString()` gives different bytes in different processes, and a Python loop over records is six times
slower. Each record becomes a row of byte blocks: small fields of all records are laid out side by side in one
matrix, large values stay where they are, and one `binary_join_element_wise` copies everything into place.

Wire format: https://protobuf.dev/programming-guides/encoding/; framing: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

from collections.abc import Mapping

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.blocks import Block, ByteMatrix, Lengths, Part, Size, binary, items, join, offsets_of
from beam_jobs.frames import crcs_of_8
from schemas.framing import FOOTER_BYTES, FRAME_OVERHEAD, HEADER_BYTES, masked_crcs
from schemas.packing import Packing

_SEALED = 512  # records
_SEALED_BYTES = 1 << 20
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 0x0A, 0x12, 0x1A  # tags of tf.train.Feature's fields 1, 2 and 3


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
    if not rows:
        return pa.array([], pa.large_binary()), np.zeros(0, np.uint64)
    parts: list[Part] = []
    total: Size = 0
    for name in names:
        entry, size = _entry(name, columns[name], rows)
        parts += entry
        total = total + size
    sizes = 1 + _varint_size(total) + total
    head: list[Part] = [_header(sizes), b"\x0a", _varints(total)]
    records = join([*head, *parts, bytes(FOOTER_BYTES)], rows)
    _seal(records)
    return records, np.broadcast_to(np.asarray(sizes + FRAME_OVERHEAD, np.uint64), rows)


def pack_columns(columns: Mapping[str, pa.Array], packing: Packing) -> dict[str, pa.Array]:
    """The columns with vectors in place of those that are packed; see `schemas.packing`."""
    packed = dict(columns)
    for vector, names in packing.items():
        matrix = np.stack([packed.pop(name).to_numpy(zero_copy_only=False) for name in names], axis=1)
        offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int64) * len(names))
        packed[vector] = pa.LargeListArray.from_arrays(offsets, pa.array(matrix.ravel()))
    return packed


def _entry(name: str, column: pa.Array, rows: int) -> tuple[list[Part], Size]:
    """The map entry of one feature for every record, and its size.

    Entry: 0x0A len { 0x0A len key, 0x12 len { kind len { list } } }. Sizes are worked out from the inside.
    """
    kind, content, content_size = _list(column, rows)
    kind_size = 1 + _varint_size(content_size) + content_size
    key = name.encode()
    key_bytes = b"\x0a" + _varint(len(key)) + key
    body_size = len(key_bytes) + 1 + _varint_size(kind_size) + kind_size
    head: list[Part] = [
        b"\x0a",
        _varints(body_size),
        key_bytes + b"\x12",
        _varints(kind_size),
        bytes([kind]),
        _varints(content_size),
    ]
    return [*head, *content], 1 + _varint_size(body_size) + body_size


def _list(column: pa.Array, rows: int) -> tuple[int, list[Part], Size]:
    """A column as BytesList, FloatList or Int64List messages: tag of the kind, parts, sizes."""
    if pa.types.is_large_binary(column.type):
        sizes = _one_size(np.diff(offsets_of(column)))
        return _BYTES_LIST, [b"\x0a", _varints(sizes), column], 1 + _varint_size(sizes) + sizes
    if pa.types.is_float32(column.type):
        values = column.to_numpy(zero_copy_only=False).astype("<f4", copy=False)
        return _FLOAT_LIST, [b"\x0a\x04", Block(_bytes_of(values).reshape(rows, 4))], 6
    if pa.types.is_int64(column.type):
        block = _varints(column.to_numpy(zero_copy_only=False))
        sizes = len(block) if isinstance(block, bytes) else block.size
        return _INT64_LIST, [b"\x0a", _varints(sizes), block], 1 + _varint_size(sizes) + sizes
    if pa.types.is_large_list(column.type):
        kind, packed = _packed(column)
        sizes = _one_size(np.diff(offsets_of(packed)))
        if isinstance(sizes, int):
            if not sizes:
                return kind, [], 0  # protobuf leaves an empty packed field out
            return kind, [b"\x0a", _varints(sizes), packed], 1 + _varint_size(sizes) + sizes
        some, size = sizes > 0, _varints(sizes)
        assert isinstance(size, Block), "there are two sizes"
        tag = Block(np.full((rows, 1), 0x0A, np.uint8), some.astype(np.int64))
        head = [tag, Block(size.bytes, np.where(some, size.size, 0))]
        return kind, [*head, packed], np.where(some, 1 + _varint_size(sizes) + sizes, 0)
    raise TypeError(f"cannot encode a column of type {column.type}")


def _packed(column: pa.LargeListArray) -> tuple[int, pa.LargeBinaryArray]:
    """The packed values of every list, back to back."""
    offsets = np.asarray(column.offsets, dtype=np.int64)
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False)
    offsets = offsets - offsets[0]
    if pa.types.is_float32(column.type.value_type):
        return _FLOAT_LIST, binary(offsets * 4, _bytes_of(values.astype("<f4", copy=False)))
    if pa.types.is_int64(column.type.value_type):
        block = _varints(values)
        if isinstance(block, bytes):
            block = Block(np.broadcast_to(np.frombuffer(block, np.uint8), (len(values), len(block))))
        ends = np.concatenate([[0], np.cumsum(np.broadcast_to(block.size, len(values)))])
        return _INT64_LIST, binary(ends[offsets], _counting(block))
    raise TypeError(f"cannot encode a list of {column.type.value_type}")


def _counting(block: Block) -> npt.NDArray[np.uint8]:
    """The bytes of a block that count, back to back."""
    if block.sizes is None:
        return np.ascontiguousarray(block.bytes).ravel()
    return block.bytes[np.arange(block.bytes.shape[1]) < block.sizes[:, None]]


def _bytes_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8)


def _one_size(sizes: Lengths) -> Size:
    """The sizes, a number where all are the same."""
    return int(sizes[0]) if bool((sizes == sizes[0]).all()) else sizes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_size(values: Size) -> Size:
    """Bytes of each value as a varint; the values are not negative."""
    if isinstance(values, int):
        return len(_varint(values))
    sizes = np.ones(len(values), dtype=np.int64)
    for bits in range(7, int(values.max()).bit_length(), 7):
        sizes += values >= 1 << bits
    return sizes


def _varints(values: Size) -> bytes | Block:
    """Base-128 varints, seven bits a byte, low first; negative numbers are two's complement in ten bytes."""
    if isinstance(values, int):
        return _varint(values)
    unsigned = values.astype(np.int64, copy=False).view(np.uint64)
    low, high = (int(unsigned.min()), int(unsigned.max())) if len(unsigned) else (0, 0)
    if low == high:
        return _varint(low)
    width = max(1, -(-high.bit_length() // 7))
    if width == 1:
        return Block(unsigned.astype(np.uint8)[:, None])
    sizes = np.ones(len(unsigned), np.int64)
    data = np.empty((len(unsigned), width), np.uint8)
    for place in range(width):
        rest = unsigned >> np.uint64(7 * place) if place else unsigned
        data[:, place] = rest & np.uint64(0x7F)
        if place < width - 1:
            more = rest > np.uint64(0x7F)
            data[:, place] |= more.view(np.uint8) << np.uint8(7)
            sizes += more
    return Block(data, None if low >= 1 << 7 * (width - 1) else sizes)


def _header(sizes: Size) -> bytes | Block:
    """What a frame has before its data: their size, and its CRC."""
    words = np.atleast_1d(np.asarray(sizes, "<u8")).view(np.uint8).reshape(-1, 8)
    data = np.concatenate([words, _u32(masked_crcs(crcs_of_8(words)))], axis=1)
    return data.tobytes() if isinstance(sizes, int) else Block(data)


def _seal(records: pa.LargeBinaryArray) -> None:
    """Puts the CRC of each record's data behind them, in place: nothing else holds the freshly joined buffer yet."""
    offsets = offsets_of(records)
    data = np.frombuffer(records.buffers()[2], np.uint8)
    crcs = _crcs(data, offsets[:-1] + HEADER_BYTES, offsets[1:] - FOOTER_BYTES)
    items(data, FOOTER_BYTES)[offsets[1:] - FOOTER_BYTES] = masked_crcs(crcs).astype("<u4").view("V4")


def _crcs(data: npt.NDArray[np.uint8], starts: Lengths, ends: Lengths) -> npt.NDArray[np.uint32]:
    """CRC32C of what lies from each start to each end: uint32 (n,)."""
    found: list[int] = []
    for first in range(0, len(starts), _SEALED):
        piece = slice(first, first + _SEALED)
        low, high = int(starts[first]), int(ends[piece][-1])
        content = data[low:high]
        # A slice of bytes takes half the time of one of an array.
        within = content.tobytes() if high - low <= _SEALED_BYTES else content
        bounds = zip((starts[piece] - low).tolist(), (ends[piece] - low).tolist(), strict=True)
        found += [google_crc32c.value(within[start:end]) for start, end in bounds]
    return np.array(found, np.uint32)


def _u32(values: npt.NDArray[np.uint32]) -> ByteMatrix:
    return values.astype("<u4").view(np.uint8).reshape(-1, 4)
