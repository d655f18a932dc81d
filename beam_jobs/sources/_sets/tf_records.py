"""The records of a TFRecord file, one after the other; of all bytes that a length claims none is taken on trust."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c
import pyarrow as pa

from schemas.framing import FOOTER_BYTES, FRAME_OVERHEAD, HEADER_BYTES, masked_crc
from schemas.units import format_bytes

MAX_RECORD_BYTES = 256 << 20
_BUFFER_BYTES = 1 << 20


class DamagedFileError(ValueError):
    """Bytes that are no TFRecords; says which and where."""


class Record(NamedTuple):
    """A record of a file.

    Attributes:
      start, end: bytes of its frame.
      data: what it holds; None where it was skipped, or where `problem` says what is wrong.
      problem: rule and reason.
    """

    start: int
    end: int
    data: bytes | None
    problem: tuple[str, str] | None = None


def walk_records(file: pa.NativeFile, size: int) -> list[int]:
    """Where each record of a file of `size` bytes begins, and where the last one ends. Their data are not read.

    Raises:
      DamagedFileError: a length is damaged, or the file ends within a record.
    """
    starts = [0]
    while starts[-1] < size:
        file.seek(starts[-1])
        starts.append(_end(file.read(HEADER_BYTES), starts[-1], size))
    return starts


def read_records(file: pa.NativeFile, start: int, end: int) -> Iterator[Record]:
    """The records between two bytes of a file. One whose CRC differs or that is too long is a problem of its own.

    Raises:
      DamagedFileError: a length is damaged, or the file ends within a record.
    """
    file.seek(start)
    buffered = pa.BufferedInputStream(file, _BUFFER_BYTES)
    while start < end:
        after = _end(buffered.read(HEADER_BYTES), start, end)
        length = after - start - FRAME_OVERHEAD
        if length > MAX_RECORD_BYTES:
            left = length + FOOTER_BYTES
            while left > 0:
                left -= len(buffered.read(min(left, _BUFFER_BYTES))) or left
            reason = (
                f"{format_bytes(length)} at byte {start}; at most {format_bytes(MAX_RECORD_BYTES)} are read"
            )
            yield Record(start, after, None, ("too_large", reason))
        else:
            data, crc = buffered.read(length), buffered.read(FOOTER_BYTES)
            if len(data) < length or len(crc) < FOOTER_BYTES:
                raise DamagedFileError(f"the file ends within the record at byte {start}")
            if masked_crc(google_crc32c.value(data)) != int.from_bytes(crc, "little"):
                yield Record(
                    start, after, None, ("bad_crc", f"the CRC of the record at byte {start} differs")
                )
            else:
                yield Record(start, after, data)
        start = after


def _end(header: bytes, start: int, limit: int) -> int:
    """The end of the frame that begins with `header`."""
    if len(header) < HEADER_BYTES:
        raise DamagedFileError(f"the file ends within the record at byte {start}")
    length, crc = struct.unpack("<QI", header)
    if masked_crc(google_crc32c.value(header[:8])) != crc:
        raise DamagedFileError(
            f"the CRC of the length at byte {start} differs, so that nothing behind it can be found"
        )
    if length + FRAME_OVERHEAD > limit - start:
        raise DamagedFileError(f"the file ends within the record at byte {start}")
    end: int = start + length + FRAME_OVERHEAD
    return end
