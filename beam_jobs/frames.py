"""TFRecord frames, checked and found: 8 bytes length, its CRC, the data, their CRC.

Everything is bounded by a buffer of a few megabytes, whatever lengths a damaged file claims. Headers and CRCs
are compared by the column; only the data's CRC costs a Python call a record (0.3 µs).
See tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt

from schemas.framing import FRAME_OVERHEAD, HEADER_BYTES, masked_crc, masked_crcs

BUFFER_BYTES = 8 << 20  # 8 MiB
_DRAIN_BYTES = 1 << 20  # 1 MiB: of most files nothing is left to drain
_CRC_BYTES = 4

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one record, or with the file at `offset` where `record` is None."""

    record: int | None
    offset: int
    what: str
    expected: str = ""
    found: str = ""


class HashingReader:
    """A file read once from start to end, its SHA-256 taken on the way."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None] | None = None) -> None:
        self._file = file
        self._progress = progress
        self._sha256 = hashlib.sha256()
        self.position = 0

    def fill(self, view: memoryview) -> int:
        """Read until `view` is full or the file ends; the bytes read."""
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                break
            done += count
        self._sha256.update(view[:done])
        self.position += done
        if self._progress is not None:
            self._progress(done)
        return done

    def drain(self) -> int:
        """Read what is left; how many bytes that was."""
        start, view = self.position, memoryview(bytearray(_DRAIN_BYTES))
        while self.fill(view):
            pass
        return self.position - start

    @property
    def sha256(self) -> str:
        """Of the bytes read so far."""
        return self._sha256.hexdigest()


def check_frames(reader: HashingReader, offsets: Numbers, lengths: Numbers) -> Iterator[Fault]:
    """Every fault of the frames that lie back to back at `offsets`, where `reader` stands at the first."""
    buffer = bytearray(BUFFER_BYTES)
    ends = offsets + lengths
    first = 0
    while first < len(offsets):
        after = int(np.searchsorted(ends, offsets[first] + BUFFER_BYTES, side="right"))
        if after == first:
            yield from _check_large(reader, memoryview(buffer), first, int(lengths[first]))
            first += 1
            continue
        start = int(offsets[first])
        view = memoryview(buffer)[: int(ends[after - 1]) - start]
        held = reader.fill(view)
        # Where the file ends early, only the records before that are whole.
        whole = first + int(np.searchsorted(ends[first:after], start + held, side="right"))
        window = slice(first, whole)
        for fault in find_faults(np.frombuffer(view, np.uint8), offsets[window] - start, lengths[window]):
            yield Fault(
                first + (fault.record or 0), start + fault.offset, fault.what, fault.expected, fault.found
            )
        if whole < after:
            yield _cut_short(whole, int(offsets[whole]), int(lengths[whole]), start + held)
            return
        first = after


def walk_frames(file: BinaryIO, size: int) -> tuple[Numbers, Numbers, Fault | None]:
    """Offsets and lengths of a file's frames by its own headers, and the fault that ended the walk early."""
    descriptor = file.fileno()
    offsets: list[int] = []
    lengths: list[int] = []
    offset, fault = 0, None
    while offset < size and fault is None:
        header = os.pread(descriptor, HEADER_BYTES, offset)
        length = struct.unpack_from("<Q", header)[0] + FRAME_OVERHEAD if len(header) == HEADER_BYTES else 0
        if length and masked_crc(google_crc32c.value(header[:8])) != struct.unpack_from("<I", header, 8)[0]:
            fault = Fault(
                len(offsets), offset, "the CRC of its length differs; records after it cannot be found"
            )
        elif not length or length > size - offset:
            fault = _cut_short(len(offsets), offset, length, size)
        else:
            offsets.append(offset)
            lengths.append(length)
            offset += length
    return np.array(offsets, np.int64), np.array(lengths, np.int64), fault


def _cut_short(record: int, offset: int, length: int, size: int) -> Fault:
    expected = f"{length} bytes" if length else "a frame"
    return Fault(record, offset, "the file ends within it", expected, f"{size - offset} bytes")


def find_faults(data: Bytes, starts: Numbers, lengths: Numbers) -> Iterator[Fault]:
    """Faults of the frames at `starts` in `data`; records and offsets are counted from its beginning."""
    if not len(starts):
        return
    headers = data[starts[:, None] + np.arange(HEADER_BYTES)]
    written = headers[:, :8].copy().view("<u8").ravel()
    header_crcs = headers[:, 8:].copy().view("<u4").ravel()
    sizes = lengths - FRAME_OVERHEAD
    bodies = starts + HEADER_BYTES
    footers = data[(bodies + sizes)[:, None] + np.arange(_CRC_BYTES)].view("<u4").ravel()
    crc = google_crc32c.value
    begins, ends = bodies.tolist(), (bodies + sizes).tolist()
    found = np.array([crc(data[a:b]) for a, b in zip(begins, ends, strict=True)], np.uint32)
    found_headers = crcs_of_8(headers[:, :8])
    faulty = (
        (written != sizes.astype(np.uint64))
        | (masked_crcs(found_headers) != header_crcs)
        | (masked_crcs(found) != footers)
    )
    for i in np.flatnonzero(faulty).tolist():
        yield Fault(
            i,
            int(starts[i]),
            *_compare(
                (int(sizes[i]), int(written[i])),
                (int(header_crcs[i]), masked_crc(int(found_headers[i]))),
                (int(footers[i]), masked_crc(int(found[i]))),
            ),
        )


def _check_large(reader: HashingReader, buffer: memoryview, record: int, length: int) -> Iterator[Fault]:
    """Faults of the one frame at the reader's position that is larger than the buffer."""
    start, size = reader.position, length - FRAME_OVERHEAD
    header = memoryview(bytearray(HEADER_BYTES))
    footer = memoryview(bytearray(_CRC_BYTES))
    held, crc, left = reader.fill(header), 0, size
    while left and held:
        held = reader.fill(buffer[: min(left, len(buffer))])
        crc = google_crc32c.extend(crc, np.frombuffer(buffer[:held], np.uint8))
        left -= held
    if left or reader.fill(footer) < _CRC_BYTES:
        yield _cut_short(record, start, length, reader.position)
        return
    written, header_crc = struct.unpack("<QI", header)
    checks = (
        (size, written),
        (header_crc, masked_crc(google_crc32c.value(bytes(header[:8])))),
        (struct.unpack("<I", footer)[0], masked_crc(crc)),
    )
    if any(a != b for a, b in checks):
        yield Fault(record, start, *_compare(*checks))


def _compare(sizes: tuple[int, int], headers: tuple[int, int], data: tuple[int, int]) -> tuple[str, str, str]:
    """What differs first, what was expected and what was found. Of CRCs, the one in the frame is expected."""
    if headers[0] != headers[1]:
        return "the CRC of its length differs", f"{headers[0]:08x}", f"{headers[1]:08x}"
    if sizes[0] != sizes[1]:
        return "its length differs from the index", f"{sizes[0]} bytes", f"{sizes[1]} bytes"
    return "the CRC of its data differs", f"{data[0]:08x}", f"{data[1]:08x}"


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


def crcs_of_8(words: Bytes) -> npt.NDArray[np.uint32]:
    """CRC32C of each row of 8 bytes: uint32 (n,)."""
    crc = np.full(len(words), _CRC_ZERO, dtype=np.uint32)
    for place in np.flatnonzero(np.bitwise_or.reduce(words, axis=0)):  # a zero has no share
        crc ^= _CRC_TABLES[place][words[:, place]]
    return crc
