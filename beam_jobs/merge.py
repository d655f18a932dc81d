"""Merging ranges of sorted runs, in bounded memory: first the order, from the indexes, then the bytes, in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.runs import INDEX_DTYPE, Run, in_order, read_index, read_indexed, read_records_into

_WINDOW_BYTES = 16 << 20  # of records held at a time; more where one record is larger


@dataclass(frozen=True)
class Range:
    """Rows of a run's index, and where their records lie in the run.

    Attributes:
      ordinal: place of the run's partition in the source's order.
      start, stop: rows of the index.
      offset, bytes: of the records.
    """

    run: Run
    ordinal: int
    start: int
    stop: int
    offset: int
    bytes: int


@dataclass(frozen=True)
class Merge:
    """How ranges interleave; n records taken together, range after range.

    Attributes:
      ranges: in the order of the source.
      index: `INDEX_DTYPE` (n,).
      owners: int64 (n,), which range each record is of.
      order: int64 (n,), the records by key hash; equal ones in the order of the source.
      repeated: bool (n,), in that order: whether a record has the key of the one before.
    """

    ranges: Sequence[Range]
    index: npt.NDArray[np.void]
    owners: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    repeated: npt.NDArray[np.bool_]

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The first record of every key, in order."""
        return self.order[~self.repeated]


def plan_merge(ranges: Sequence[Range]) -> Merge:
    """The merge of all ranges. Reads their indexes, 32 bytes a record."""
    ranges = sorted(ranges, key=lambda part: part.ordinal)
    parts = [read_index(part.run, part.start, part.stop) for part in ranges]
    # The type is said aloud: by itself, numpy would make the big-endian hashes native.
    index = np.concatenate([np.zeros(0, dtype=INDEX_DTYPE), *parts], dtype=INDEX_DTYPE)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int64)
    order = np.lexsort((index["row"], owners, index["hash"]["lo"], index["hash"]["hi"]))
    hashes = index["hash"][order]
    repeated = np.zeros(len(order), dtype=np.bool_)
    repeated[1:] = hashes[1:] == hashes[:-1]
    return Merge(ranges, index, owners, order, repeated)


def merged_indexed(merge: Merge, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """What the index holds of the kept records' features, in order."""
    parts = [read_indexed(part.run, row, part.start, part.stop) for part in merge.ranges]
    return np.concatenate([np.zeros(0, row), *parts], dtype=row)[merge.kept]


def merged_records(merge: Merge) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of the kept records in order, a few MiB at a time."""
    kept = merge.kept
    lengths = merge.index["length"].astype(np.int64)
    ends = np.cumsum(lengths[kept])
    starts = np.cumsum(lengths) - lengths  # of each record, the ranges taken together
    start = 0
    while start < len(kept):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _WINDOW_BYTES, side="right")))
        wanted = kept[start:stop]
        # Each run is sorted as we are, so what a window wants of it lies together: a few long reads.
        places = np.sort(wanted)
        yield from in_order(_read(merge, places, starts, lengths), np.searchsorted(places, wanted))
        start = stop


def _read(
    merge: Merge, places: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> pa.LargeBinaryArray:
    """The records at ascending `places`."""
    offsets = np.concatenate([[0], np.cumsum(lengths[places])])
    buffer = np.empty(int(offsets[-1]), dtype=np.uint8)
    apart = (np.diff(places) != 1) | (np.diff(merge.owners[places]) != 0)
    firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    for first, last in zip(firsts.tolist(), [*firsts[1:].tolist(), len(places)], strict=True):
        part = merge.ranges[int(merge.owners[places[first]])]
        # Where the range's own first record lies, the ranges taken together.
        base = int(starts[np.searchsorted(merge.owners, merge.owners[places[first]])])
        at = part.offset + int(starts[places[first]]) - base
        read_records_into(part.run, at, memoryview(buffer.data)[int(offsets[first]) : int(offsets[last])])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(buffer)]
    return pa.Array.from_buffers(pa.large_binary(), len(places), buffers)
