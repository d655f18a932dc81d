"""Bytes of many records, a place in the records after the other, copied to where they belong.

What has as many bytes in all records is laid out side by side in a small matrix, of which numpy then copies one item a
record; so do the rows of what has few. All of it is done some hundred records at a time, which the processor's caches
hold, and each byte is copied twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ByteMatrix = npt.NDArray[np.uint8]
Lengths = npt.NDArray[np.int64]
Size: TypeAlias = "int | Lengths"  # bytes of each record at one place; a number where all have as many

_WIDEST = 64  # bytes of a value that is copied by its row; longer ones differ more in length
_PIECE_BYTES = 1 << 19  # laid out at a time


@dataclass(frozen=True)
class Block:
    """Bytes of every record at one place: uint8 (n, width), of which the first `sizes` of each count (None: all)."""

    bytes: ByteMatrix
    sizes: Lengths | None = None

    @property
    def size(self) -> Size:
        """How many bytes of each record count."""
        return self.bytes.shape[1] if self.sizes is None else self.sizes


# What all records have alike, or not; long values stay where they are.
Part: TypeAlias = "bytes | Block | pa.LargeBinaryArray"


def join(parts: Sequence[Part], rows: int) -> pa.LargeBinaryArray:
    """All parts of each of `rows` records, back to back."""
    shortened: list[Part] = []
    behind = 0  # so many bytes at least come in each record behind the part
    for part in reversed(parts):
        shortened.append(_short(part, behind))
        behind += _least(part)
    arrays: list[pa.LargeBinaryArray] = []
    short: list[bytes | Block] = []
    for part in reversed(shortened):
        if isinstance(part, bytes | Block):
            short.append(part)
            continue
        arrays += [_laid_out(short, rows), part] if short else [part]
        short = []
    arrays += [_laid_out(short, rows)] if short else []
    if len(arrays) == 1:
        return arrays[0]
    return pc.binary_join_element_wise(*arrays, pa.scalar(b"", pa.large_binary()))


def binary(offsets: Lengths, data: npt.NDArray[np.uint8]) -> pa.LargeBinaryArray:
    """The values that begin, and the last of which ends, at offsets of `data`."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def offsets_of(array: pa.Array) -> Lengths:
    """Where each value of a large_binary begins in its buffer, and where the last one ends: int64 (n + 1,)."""
    return np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]


def items(data: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.void]:
    """The `width` bytes that begin at each byte of `data`, a view: numpy copies such an item like a number."""
    return np.lib.stride_tricks.as_strided(data[:width].view(f"V{width}"), (len(data) - width + 1,), (1,))


def _short(part: Part, behind: int) -> Part:
    """The part, as a block where its values are short, and can be copied by rows; see `_put`."""
    if not isinstance(part, pa.LargeBinaryArray) or not len(part):
        return part
    offsets = offsets_of(part)
    sizes = np.diff(offsets)
    widest, least = int(sizes.max()), int(sizes.min())
    if widest > _WIDEST or widest - least > behind:
        return part
    data = np.frombuffer(part.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    if widest == least:
        return Block(data.reshape(len(part), widest))
    data = np.concatenate([data, np.zeros(widest, np.uint8)])
    return Block(items(data, widest)[offsets[:-1] - offsets[0]].view(np.uint8).reshape(-1, widest), sizes)


def _least(part: Part) -> int:
    """How many bytes of a part each record has at least."""
    if isinstance(part, bytes):
        return len(part)
    sizes = part.size if isinstance(part, Block) else np.diff(offsets_of(part))
    return sizes if isinstance(sizes, int) else int(sizes.min(initial=0))


def _laid_out(parts: Sequence[bytes | Block], rows: int) -> pa.LargeBinaryArray:
    """Each record's parts back to back, where none is long."""
    widths = sum((_width(part) for part in parts), start=np.zeros(rows, np.int64))
    offsets = np.concatenate([[0], np.cumsum(widths)])
    data = np.empty(int(offsets[-1]), np.uint8)
    segments: list[_Segment | Block] = []
    segment: _Segment | None = None
    for part in parts:
        if isinstance(part, Block) and part.sizes is not None:
            segments.append(part)
            segment = None
            continue
        if segment is None:
            segment = _Segment()
            segments.append(segment)
        segment.add(part)
    step = max(1, _PIECE_BYTES * rows // max(len(data), 1))
    for start in range(0, rows, step):
        piece = slice(start, min(start + step, rows))
        places, ends = offsets[piece].copy(), offsets[1:][piece]
        for each in segments:
            if isinstance(each, Block):
                places += _put(data, places, ends, each, piece)
            else:
                places += each.put(data, places, piece)
    return binary(offsets, data)


class _Segment:
    """Parts that have as many bytes in all records: what is alike in all, most of it, is laid out at once."""

    def __init__(self) -> None:
        self._alike = bytearray()
        self._blocks: list[tuple[int, ByteMatrix]] = []

    def add(self, part: bytes | Block) -> None:
        if isinstance(part, Block):
            self._blocks.append((len(self._alike), part.bytes))
            self._alike += bytes(part.bytes.shape[1])
        else:
            self._alike += part

    def put(self, data: npt.NDArray[np.uint8], places: Lengths, piece: slice) -> int:
        """Copies the records of a piece to their places; how many bytes each has."""
        width = len(self._alike)
        rows = np.empty((len(places), width), np.uint8)
        rows[:] = np.frombuffer(self._alike, np.uint8)
        for start, block in self._blocks:
            rows[:, start : start + block.shape[1]] = block[piece]
        _copy(data, places, rows)
        return width


def _put(data: npt.NDArray[np.uint8], places: Lengths, ends: Lengths, block: Block, piece: slice) -> Lengths:
    """Copies the block's bytes of the records of a piece to their places; how many each has."""
    assert block.sizes is not None
    rows, sizes = block.bytes[piece], block.sizes[piece]
    if bool((places + rows.shape[1] <= ends).all()):
        # What does not count is copied too, to where the record's next bytes will be.
        _copy(data, places, rows)
        return sizes
    for size in np.flatnonzero(np.bincount(sizes)).tolist():
        chosen = np.flatnonzero(sizes == size)
        _copy(data, places[chosen], rows[chosen, :size])
    return sizes


def _copy(data: npt.NDArray[np.uint8], places: Lengths, rows: ByteMatrix) -> None:
    width = rows.shape[1]
    if width and len(rows):
        items(data, width)[places] = np.ascontiguousarray(rows).view(f"V{width}").ravel()


def _width(part: bytes | Block) -> Size:
    return len(part) if isinstance(part, bytes) else part.size
