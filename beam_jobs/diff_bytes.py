"""Do two shards hold the same records? Their bytes say so.

The CRC of each frame could not: of 32 bits, it proves that two records differ, never that they are equal, and
fetching it alone means a read for each record. Records that lie side by side in both shards are read and compared
together, as nearly all are where few differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from beam_jobs.examples import DamagedRecordError, data_of
from schemas import HeadraceError
from schemas.storage import Place

_WINDOW_BYTES = 16 << 20  # of each version held at a time; more where one record is larger

Numbers = npt.NDArray[np.int64]
File = tuple[Place, str]  # a shard of a version


def equal_frames(
    before: File, after: File, old: Numbers, new: Numbers, lengths: Numbers
) -> npt.NDArray[np.bool_]:
    """Whether the frame of `lengths[k]` bytes at `old[k]` of one file is that at `new[k]` of the other.

    Raises:
      HeadraceError: a file is missing or ends too early, or frames differ because one is damaged.
    """
    equal = np.ones(len(lengths), np.bool_)
    for spans in _windows(old, new, lengths):
        sizes = [int(lengths[first:stop].sum()) for first, stop in spans]
        here, there = (
            place.read_ranges([(path, int(at[k]), size) for (k, _), size in zip(spans, sizes, strict=True)])
            for (place, path), at in ((before, old), (after, new))
        )
        for (first, stop), a, b in zip(spans, here, there, strict=True):
            if a == b and len(a) == int(lengths[first:stop].sum()):
                continue
            at = 0
            for k in range(first, stop):
                end = at + int(lengths[k])
                if a[at:end] != b[at:end] or len(a) < end:
                    data = [
                        _data(file, frame[at:end], int(offset), end - at)
                        for file, frame, offset in ((before, a, old[k]), (after, b, new[k]))
                    ]
                    if data[0] == data[1]:
                        raise _damaged(before, f"its header or that in {after[1]} is, at byte {int(old[k])}")
                    equal[k] = False
                at = end
    return equal


def _windows(old: Numbers, new: Numbers, lengths: Numbers) -> Iterator[list[tuple[int, int]]]:
    """The records in windows; each a list of spans (first, stop) that lie together in both files."""
    if not len(lengths):
        return
    window = (np.cumsum(lengths) - lengths) // _WINDOW_BYTES
    apart = (np.diff(old) != lengths[:-1]) | (np.diff(new) != lengths[:-1]) | (np.diff(window) != 0)
    ends = [0, *(np.flatnonzero(apart) + 1).tolist(), len(lengths)]
    spans: list[tuple[int, int]] = []
    for first, stop in pairwise(ends):
        if spans and window[first] != window[spans[-1][0]]:
            yield spans
            spans = []
        spans.append((first, stop))
    yield spans


def _data(file: File, frame: bytes, offset: int, length: int) -> bytes:
    try:
        return data_of(frame, offset, length)
    except DamagedRecordError as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: File, why: str) -> HeadraceError:
    place, path = file
    return HeadraceError(
        "A record is damaged, so it cannot be compared.",
        where=place.where(path),
        value=why,
        hint=f"Run `headrace verify {place}`; copy the file again, or prepare the version again.",
    )
