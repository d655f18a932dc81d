"""Pieces of a file of records: what lies in 8 MiB is copied into order, hashed, written and looked at together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 8 << 20  # more where one record is larger
_PIECE_RECORDS = 1 << 15
SPARE = 512  # bytes that may be read behind a piece, whatever they are

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


def bounds(lengths: Numbers) -> list[int]:
    """Where pieces of records of these lengths begin, and where the last ends: from any of them on, the same."""
    ends = np.cumsum(lengths)
    found = [0]
    while found[-1] < len(lengths):
        done = int(ends[found[-1] - 1]) if found[-1] else 0
        stop = int(np.searchsorted(ends, done + PIECE_BYTES, side="right"))
        found.append(max(found[-1] + 1, min(stop, found[-1] + _PIECE_RECORDS)))
    return found


def with_spare(part: Bytes) -> Bytes | None:
    """The bytes and `SPARE` more behind them, where they are part of an array that has so many."""
    whole = part.base
    if not isinstance(whole, np.ndarray) or whole.dtype != np.uint8 or whole.ndim != 1:
        return None
    start = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    stop = start + len(part) + SPARE
    return whole[start:stop] if start >= 0 and stop <= len(whole) else None
