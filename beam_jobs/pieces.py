"""Pieces of a file of records: what lies in 8 MiB is copied into order, hashed, written and looked at together.

Of few records, which are large and hardly ever copied, it is 16 MiB: a look costs a millisecond, however few they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.blocks import offsets_of

PIECE_BYTES = 8 << 20  # more where one record is larger
_PIECE_RECORDS = 1 << 15
_FEW_RECORDS = 1 << 10
_LARGE_RECORD_BYTES = 4096
SPARE = 512  # bytes that may be read behind a piece, whatever they are

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


def bounds(lengths: Numbers) -> list[int]:
    """Where pieces of records of these lengths begin, and where the last ends: from any of them on, the same."""
    ends = np.cumsum(lengths)
    found = [0]
    while found[-1] < len(lengths):
        done = int(ends[found[-1] - 1]) if found[-1] else 0
        stop, most = (int(np.searchsorted(ends, done + n * PIECE_BYTES, side="right")) for n in (1, 2))
        stop = max(stop, min(most, found[-1] + _FEW_RECORDS))
        found.append(max(found[-1] + 1, min(stop, found[-1] + _PIECE_RECORDS)))
    return found


def neighbours_together(
    buffers: Sequence[Bytes], owners: Numbers, starts: Numbers, ends: Numbers
) -> list[Bytes]:
    """Views of records, one or more, from `starts` to `ends` of the buffers that own them; one of neighbours."""
    apart = np.flatnonzero((owners[1:] != owners[:-1]) | (starts[1:] != ends[:-1])) + 1
    firsts = np.concatenate([[0], apart])
    lasts = np.append(firsts[1:], len(starts)) - 1
    places = zip(owners[firsts].tolist(), starts[firsts].tolist(), ends[lasts].tolist(), strict=True)
    return [buffers[owner][start:end] for owner, start, end in places]


def copied(values: pa.LargeBinaryArray, order: Numbers, lengths: Numbers) -> Bytes:
    """The values in `order`, which have these lengths, back to back, and `SPARE` bytes or more behind them.

    Copying a few MiB at a time lets the hash, the checksum and the write each release the interpreter lock once
    for many records.
    """
    # Copied once more, the first record is what lies behind the others.
    spare = np.repeat(order[0], -(-SPARE // int(lengths[0])))
    part = values.take(pa.array(np.concatenate([order, spare])))
    return np.frombuffer(part.buffers()[2], np.uint8)[int(offsets_of(part)[0]) :]


def are_large(size: int, records: int) -> bool:
    """Whether records of so many bytes together are better written from where they are than copied together."""
    return size >= _LARGE_RECORD_BYTES * max(records, 1)
