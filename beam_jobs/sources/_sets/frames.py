"""TFRecord frames of a stream, found and checked piece by piece, whatever lengths a damaged or hostile file claims.

See `schemas.framing` for what a frame is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt

from beam_jobs.sources._text.rows import RowBlock
from beam_jobs.sources._text.text_file import DAMAGED, Read, TextFile
from beam_jobs.sources.base import Fault
from schemas.framing import FOOTER_BYTES, FRAME_OVERHEAD, HEADER_BYTES, masked_crc

_PIECE = 64 << 10
_STEP = 4 << 10  # of compressed data; what of one step is damaged gives nothing
_LENGTH = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_END = "the file ends"
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameBlock:
    """Frames that follow each other.

    Attributes:
      rows: their bytes and borders; a frame whose end is missing, or that is too large, ends where its bytes do.
      places: int64 (n,), which of the rows are whole and intact.
      starts, ends: int64 (n,), where the data of those lie in `rows.data`.
      faults: of the other rows; their `row` is the place.
    """

    rows: RowBlock
    places: Positions
    starts: Positions
    ends: Positions
    faults: list[Fault]


class RecordFile(TextFile):
    """One TFRecord file, plain or compressed as a whole; what it is, its first bytes say."""

    def __init__(self, root: str, name: str, compression: str | None = None) -> None:
        super().__init__(root, name, "utf-8")
        self._unpack = None
        self.compression = compression if compression is not None else self._find_compression()
        if self.compression == "gzip":
            self._unpack = lambda raw: _Inflated(raw, 16 + zlib.MAX_WBITS)
        elif self.compression == "zlib":
            self._unpack = lambda raw: _Inflated(raw, zlib.MAX_WBITS)

    def _find_compression(self) -> str:
        head = b""
        with self.open() as read:
            while len(head) < HEADER_BYTES and (piece := read(HEADER_BYTES - len(head))):
                head += piece
        if len(head) == HEADER_BYTES and _length(head, 0) is not None:
            return "none"
        if head[:2] == b"\x1f\x8b":
            return "gzip"
        # TensorFlow's other kind has no magic: the first two bytes are a multiple of 31, the first names deflate.
        return (
            "zlib"
            if len(head) > 1 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0
            else "none"
        )


class _Inflated:
    """A compressed stream as a file to read from. Of damaged data it gives nearly all that lies before the damage."""

    def __init__(self, raw: BinaryIO, form: int) -> None:
        self._raw = raw
        self._form = form
        self._stream = zlib.decompressobj(form)
        self._held = b""

    def read(self, size: int) -> bytes:
        while True:
            if self._stream.eof:  # gzip: another member may follow, or zeros
                self._held = (self._stream.unused_data + self._held).lstrip(b"\0")
                if not (self._held or self._hold()):
                    return b""
                self._stream = zlib.decompressobj(self._form)
            packed = self._stream.unconsumed_tail
            if not packed:
                if not (self._held or self._hold()):
                    raise EOFError("they end too early")
                packed, self._held = self._held[:_STEP], self._held[_STEP:]
            if piece := self._stream.decompress(packed, size):
                return piece

    def _hold(self) -> bytes:
        self._held = self._raw.read(_PIECE)
        return self._held


@dataclass
class _Walk:
    """Where the walk over the frames is: what it holds of the stream, and what it has found there."""

    read: Read
    chunk: int
    offset: int
    data: bytes = b""
    place: int = 0
    ended: str | None = None
    rows: list[int] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many bytes are held from `place` on."""
        return len(self.data) - self.place

    def fill(self, wanted: int) -> bool:
        """Holds so many bytes from `place` on, or a chunk; False where the stream has fewer."""
        if self.left >= wanted:
            return True
        pieces, missing = [self.data], max(wanted, self.chunk) - self.left
        while missing > 0 and self.ended is None:
            try:
                piece = self.read(min(missing, self.chunk))
            except DAMAGED as error:
                self.ended = f"the compressed data are damaged ({error})"
                break
            if not piece:
                self.ended = _END
            pieces.append(piece)
            missing -= len(piece)
        self.data = b"".join(pieces)
        return self.left >= wanted

    def fault(self, rule: str, reason: str) -> None:
        """The frame at `place` is a row that cannot be read."""
        self.faults.append(Fault(len(self.rows), rule, f"{reason}, at byte {self.offset + self.place}"))
        self.rows.append(self.place)

    def flush(self, end: int) -> FrameBlock:
        """What was found up to byte `end` of the data, which are let go."""
        bounds = np.array([*self.rows, end] if self.rows else [0], dtype=np.int64)
        blank = np.zeros(len(self.rows), dtype=bool)
        rows = RowBlock(memoryview(self.data)[:end], self.offset, bounds, blank, False)
        spans = np.array(self.spans, dtype=np.int64).reshape(-1, 3)
        block = FrameBlock(rows, spans[:, 0], spans[:, 1], spans[:, 2], self.faults)
        self.data, self.offset, self.place = self.data[end:], self.offset + end, 0
        self.rows, self.spans, self.faults = [], [], []
        return block

    def skip(self, size: int | None) -> Iterator[FrameBlock]:
        """Goes on by so many bytes, or to the end, without holding them."""
        while (size is None or size > 0) and (self.fill(1)):
            step = len(self.data) if size is None else min(size, len(self.data))
            size = None if size is None else size - step
            yield self.flush(step)


def frame_blocks(
    read: Read, chunk: int, max_bytes: int, offset: int = 0, *, check: bool = True
) -> Iterator[FrameBlock]:
    """The frames of the stream that `read(size)` returns piece by piece, about `chunk` bytes at a time.

    A record whose CRC differs is a fault, and so is one of more than `max_bytes`, which is never held. After a length
    that is not to be trusted no frame can be found: the rest is one fault. Without `check` the data's CRCs are not
    looked at.
    """
    walk = _Walk(read, chunk, offset)
    while True:
        if walk.rows and walk.left < HEADER_BYTES:
            yield walk.flush(walk.place)
        if not walk.fill(HEADER_BYTES):
            break
        length = _length(walk.data, walk.place)
        if length is None:
            walk.fault("bad_length", "the CRC of its length differs, and the rest of the file cannot be read")
        elif length > max_bytes:
            walk.fault("too_large", f"{length} bytes are more than max_record_bytes, {max_bytes}")
        else:
            if walk.rows and walk.left < FRAME_OVERHEAD + length:
                yield walk.flush(walk.place)
            if walk.fill(FRAME_OVERHEAD + length):
                _take(walk, length, check=check)
                continue
            walk.fault("truncated_record", f"{walk.ended} within its {FRAME_OVERHEAD + length} bytes")
            length = None
        yield walk.flush(walk.place + HEADER_BYTES)
        yield from walk.skip(None if length is None else length + FOOTER_BYTES)
        if length is None:
            return
    if walk.left or walk.ended != _END:
        walk.fault("truncated_record", f"{walk.ended} within its header")
    if walk.rows:
        yield walk.flush(len(walk.data))


def _take(walk: _Walk, length: int, *, check: bool) -> None:
    start = walk.place + HEADER_BYTES
    end = start + length
    if check and masked_crc(google_crc32c.value(walk.data[start:end])) != _CRC.unpack_from(walk.data, end)[0]:
        walk.fault("bad_crc", "the CRC of its data differs")
    else:
        walk.spans.append((len(walk.rows), start, end))
        walk.rows.append(walk.place)
    walk.place = end + FOOTER_BYTES


def _length(data: bytes, place: int) -> int | None:
    """The length in the frame's header at `place`, None where its CRC differs."""
    length, crc = _LENGTH.unpack_from(data, place)
    return int(length) if masked_crc(google_crc32c.value(data[place : place + 8])) == crc else None
