"""Merging ranges of sorted runs, in bounded memory: first the order, from the indexes, then the bytes, in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.blocks import binary
from beam_jobs.frames import find_faults
from beam_jobs.pieces import SPARE, are_large, bounds, copied, neighbours_together
from beam_jobs.placed import read_places
from beam_jobs.previous import OldShards
from beam_jobs.runs import (
    INDEX_DTYPE,
    Run,
    hash_order,
    read_facts,
    read_index,
    read_indexed,
    read_kept,
    records_path,
)
from beam_jobs.store_path import StorePath
from beam_jobs.stretches import gather, read_into

Rows = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_FACT_ROWS = 1 << 14
_HELD_RUNS = 256  # of the files of more, 16 MiB at most, no more are held
_WINDOW_BYTES = 16 << 20  # of records held at a time; more where one record is larger


@dataclass(frozen=True)
class Range:
    """Rows of a run's index, and where their records lie.

    Attributes:
      ordinal: place of the run's partition in the source's order.
      start, stop: rows of the index.
      offset: where in the file of the run's own records those of the range begin.
      committed: whether the version before holds all of them.
      placement: the file that says where the records go, where not all of them are of the shard's split.
      split: that split.
    """

    run: Run
    ordinal: int
    start: int
    stop: int
    offset: int
    committed: bool
    placement: StorePath | None = None
    split: int = 0


@dataclass(frozen=True)
class Merge:
    """How ranges interleave; n records taken together, range after range.

    Attributes:
      ranges: in the order of the source.
      index: `INDEX_DTYPE` (n,).
      owners: int64 (n,), which range each record is of.
      kept: bool (n,), whether the version before holds it.
      offsets: int64 (n,), where in the file of its run's own records it lies, if that holds it.
      wanted: bool for each row of each range: whether it is one of the n; None where all are.
      order: int64 (n,), by key hash; equal ones in the order of the source.
      repeated: bool (n,), in that order: whether a record has the key of the one before.
    """

    ranges: Sequence[Range]
    index: npt.NDArray[np.void]
    owners: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    wanted: Sequence[npt.NDArray[np.bool_] | None]
    order: npt.NDArray[np.int64]
    repeated: npt.NDArray[np.bool_]

    @property
    def chosen(self) -> npt.NDArray[np.int64]:
        """The first record of every key, in order."""
        return self.order[~self.repeated]


@dataclass(frozen=True)
class Places:
    """Where the n records of a merge lie.

    Attributes:
      files: those they lie in.
      file: int64 (n,), which of them.
      offset: int64 (n,), where in it.
      old: the shards of the version before, if any record lies there.
      old_shards: which of `files` are such shards, and their numbers.
    """

    files: list[StorePath]
    file: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    old: OldShards | None
    old_shards: dict[int, int]


@dataclass(frozen=True)
class Piece:
    """Records of a merge that are written, and looked at, together: valid until the next piece is asked for.

    Attributes:
      parts: uint8, the records' bytes in order, to lie back to back.
      data: uint8, in which all of them lie, and `SPARE` bytes behind each.
      starts, lengths: int64 (n,), where each record lies in `data`, in order.
    """

    parts: list[Bytes]
    data: Bytes
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def plan_merge(ranges: Iterable[Range]) -> Merge:
    """The merge of ranges, which come in the order of their ordinals.

    Reads their indexes, 32 bytes a record, and keeps those of the shard's records.
    """
    held: list[Range] = []
    parts, keeps, offsets, masks = [], [], [], []
    for part in ranges:
        rows = read_index(part.run, part.start, part.stop)
        kept = np.ones(len(rows), np.bool_) if part.committed else read_kept(part.run, part.start, part.stop)
        own = np.where(kept, 0, rows["length"]).astype(np.int64)
        wanted = None
        if part.placement is not None:
            wanted = read_places(part.placement, part.start, part.stop) == part.split
        masks.append(wanted)
        parts.append(_wanted(rows, wanted))
        keeps.append(_wanted(kept, wanted))
        offsets.append(_wanted(part.offset + np.cumsum(own) - own, wanted))
        held.append(part if len(held) < _HELD_RUNS else replace(part, run=part.run.released()))
    # The type is said aloud: by itself, numpy would make the big-endian hashes native.
    index = np.concatenate([np.zeros(0, dtype=INDEX_DTYPE), *parts], dtype=INDEX_DTYPE)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int64)
    order = hash_order(index["hash"], owners, index["row"])
    hashes = index["hash"][order]
    repeated = np.zeros(len(order), dtype=np.bool_)
    repeated[1:] = hashes[1:] == hashes[:-1]
    return Merge(
        held,
        index,
        owners,
        np.concatenate([np.zeros(0, np.bool_), *keeps]),
        np.concatenate([np.zeros(0, np.int64), *offsets]),
        masks,
        order,
        repeated,
    )


def locate(merge: Merge, old: OldShards | None) -> Places:
    """Where the records lie: in their runs, or in the shards of the version before."""
    files = [records_path(part.run.path) for part in merge.ranges]
    file, offset = merge.owners.copy(), merge.offsets.copy()
    kept = np.flatnonzero(merge.kept)
    old_shards = {}
    if len(kept):
        assert old is not None
        held, places = old.locate(merge.index["hash"][kept], merge.index["length"][kept])
        for number in np.unique(held).tolist():
            old_shards[len(files)] = number
            file[kept[held == number]] = len(files)
            files.append(old.path(number))
        offset[kept] = places
    return Places(files, file, offset, old, old_shards)


def merged_indexed(merge: Merge, row: np.dtype[np.void]) -> Rows:
    """What the index holds of the kept records' features, in order."""
    return _merged(merge, row, read_indexed)


def merged_facts(merge: Merge, row: np.dtype[np.void]) -> Rows:
    """What is noted of the kept records beside them, in order: the facts that `row` has fields for."""
    return np.concatenate([np.zeros(0, row), *merged_fact_parts(merge, row)], dtype=row)


def merged_fact_parts(merge: Merge, row: np.dtype[np.void]) -> Iterator[Rows]:
    """The same, some thousand records at a time."""
    chosen = merge.chosen
    firsts = np.searchsorted(merge.owners, np.arange(len(merge.ranges)))
    for start in range(0, len(chosen), _FACT_ROWS):
        places = chosen[start : start + _FACT_ROWS]
        owners, rows = merge.owners[places], np.zeros(len(places), row)
        for owner in np.unique(owners).tolist():
            # A range is sorted as we are, so what is wanted of it lies together.
            part, wanted, inside = merge.ranges[owner], merge.wanted[owner], places[owners == owner]
            inside = (
                inside - firsts[owner] if wanted is None else np.flatnonzero(wanted)[inside - firsts[owner]]
            )
            low, high = int(inside.min()), int(inside.max()) + 1
            found = read_facts(part.run, row, part.start + low, part.start + high)
            rows[owners == owner] = found[inside - low]
        yield rows


def _merged(merge: Merge, row: np.dtype[np.void], read: Callable[..., Rows]) -> Rows:
    parts = [
        _wanted(read(part.run, row, part.start, part.stop), wanted)
        for part, wanted in zip(merge.ranges, merge.wanted, strict=True)
    ]
    return np.concatenate([np.zeros(0, row), *parts], dtype=row)[merge.chosen]


def _wanted(rows: Rows, wanted: npt.NDArray[np.bool_] | None) -> Rows:
    return rows if wanted is None else rows[wanted]


def merged_pieces(merge: Merge, places: Places) -> Iterator[Piece]:
    """The chosen records in order, by the pieces that `bounds` tells.

    Raises:
      HeadraceError: a record that is taken from the version before is damaged.
    """
    chosen = merge.chosen
    lengths = merge.index["length"].astype(np.int64)[chosen]
    windows = [(start, stop, int(lengths[start:stop].sum())) for start, stop in _windows(lengths)]
    # One buffer for all windows of small records: new pages cost more than the bytes that are read into them.
    most = max((size for start, stop, size in windows if not are_large(size, stop - start)), default=0)
    buffer = np.empty(most + SPARE, np.uint8)
    for start, stop, size in windows:
        wanted, sizes = chosen[start:stop], lengths[start:stop]
        # Each file is sorted as we are, so what a window wants of it lies together: a few long stretches.
        by_file = np.lexsort((places.offset[wanted], places.file[wanted]))
        large = are_large(size, len(wanted))
        data, starts = _hold(places, wanted[by_file], sizes[by_file], None if large else buffer)
        order = np.empty(len(by_file), np.int64)
        order[by_file] = np.arange(len(by_file))
        for first, last in pairwise(bounds(sizes)):
            if large:
                yield _in_place(data, starts[order[first:last]], sizes[first:last])
            else:
                yield _copied(binary(np.append(starts, size), data), order[first:last], sizes[first:last])


def _in_place(data: Bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Piece:
    parts = neighbours_together([data], np.zeros_like(starts), starts, starts + lengths)
    return Piece(parts, data, starts, lengths)


def _copied(
    values: pa.LargeBinaryArray, order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Piece:
    data = copied(values, order, lengths)
    return Piece([data[: int(lengths.sum())]], data, np.cumsum(lengths) - lengths, lengths)


def _windows(lengths: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The first record of each window, and the one behind its last: whole pieces."""
    ends, cuts = np.cumsum(lengths), bounds(lengths)
    start = 0
    for cut, after in pairwise([*cuts, len(lengths) + 1]):
        done = int(ends[start - 1]) if start else 0
        if cut > start and (after > len(lengths) or int(ends[after - 1]) > done + _WINDOW_BYTES):
            yield start, cut
            start = cut


def _hold(
    places: Places, wanted: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], buffer: Bytes | None
) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Records `wanted`, by file and offset, and where each begins: back to back in the buffer, if there is one."""
    file, offset = places.file[wanted], places.offset[wanted]
    apart = (np.diff(file) != 0) | (offset[1:] != offset[:-1] + lengths[:-1])
    firsts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    sizes = np.add.reduceat(lengths, firsts)
    found = zip(file[firsts].tolist(), offset[firsts].tolist(), sizes.tolist(), strict=True)
    stretches = [(places.files[number], start, size) for number, start, size in found]
    packed = np.cumsum(lengths) - lengths
    if buffer is None:
        data, begins = gather(stretches)
    else:
        data, begins = buffer[: int(lengths.sum()) + SPARE], packed[firsts]
        read_into(data, stretches, begins)
    starts = packed + np.repeat(begins - packed[firsts], np.diff([*firsts, len(wanted)]))
    for number, shard in places.old_shards.items():
        # Written long ago, and by the SHA-256 of the new shard everything in it would be taken for good.
        taken = np.flatnonzero(file == number)
        if any(find_faults(data, starts[taken], lengths[taken])):
            assert places.old is not None
            raise places.old.damaged(shard)
    return data, starts
