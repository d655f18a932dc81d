"""What is on disk: a split's shards, checked against the manifest, and where each record lies. No TensorFlow."""

from __future__ import annotations

import bisect
import mmap
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from loader import native
from loader.checks import check_name
from schemas import HeadraceError, Manifest, read_manifest
from schemas.index import Column, decode_bounds, decode_column, read_bounds, read_column
from schemas.manifest import ShardEntry, SplitEntry
from schemas.storage import LocalPlace, Place, open_place

_MAPPED_BYTES = 4 << 20  # 4 MiB
_MAPPED_KEPT_BYTES = 256 << 10  # 256 KiB
_INDEX_READS = 4  # indexes of this machine read at a time
_INDEXES_HELD = 64  # remote ones that are here at a time, before they are taken apart

Ids = npt.NDArray[np.int64]
_T = TypeVar("_T")


def open_split(
    directory: str | Path, split: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[Manifest, Split]:
    """The manifest of a data set and one of its splits.

    Args:
      directory: a path of this machine or a URL.
      split: its name.
      storage_options: for fsspec's file system of the URL.

    Raises:
      HeadraceError: there is no data set or no such split, or a shard is missing or has another size.
    """
    place = open_place(directory, storage_options)
    manifest = read_manifest(place)
    check_name("split", split, manifest.splits, f"The data set in {place} has no such split.")
    return manifest, Split(place, manifest.splits[split])


class Split:
    """The shards of a split as one sequence of records; `id` is a record's position in it.

    The shards' bytes are one sequence too, as if the files lay one behind the other: frames follow each other
    without a gap in a shard, so that one array says where each record lies. Indexes are read when first needed.

    Attributes:
      records: number of records.
      bytes: of all shards.
      shards: those that hold records.
      starts: the id of each shard's first record, and behind the last one the number of records.
      bases: where each shard begins in the sequence of bytes, and where the last one ends.
    """

    def __init__(self, place: Place, entry: SplitEntry) -> None:
        self.place = place
        self.records = entry.records
        self.bytes = entry.bytes
        self.shards = [shard for shard in entry.shards if shard.records]
        self.starts = np.cumsum([0, *(shard.records for shard in self.shards)]).tolist()
        self.bases = np.cumsum([0, *(shard.bytes for shard in self.shards)]).tolist()
        if self.starts[-1] != self.records:
            raise HeadraceError(
                "The manifest contradicts itself: the shards of a split do not add up.",
                where=place.where("manifest.json"),
                value=f"{self.starts[-1]} records in shards",
                allowed=f"{self.records}",
            )
        if not place.is_remote:  # there it would be a request a shard; a short one is noticed when it is read
            for shard in self.shards:
                _check_size(place, shard)
        self._shard_starts = np.array(self.starts[:-1], np.int64)
        self._bases = np.array(self.bases, np.int64)
        # 8 bytes a record; the operating system hands out memory only for what is written.
        self._offsets = np.empty(self.records + 1, np.int64)
        self._offsets[self.starts] = self.bases
        self._known = np.zeros(len(self.shards), bool)
        self._columns: dict[str, Column] = {}
        self._lock = threading.Lock()

    def shard_of(self, example_id: int) -> int:
        """The number of the shard that holds a record."""
        return bisect.bisect_right(self.starts, example_id) - 1

    def spans(self, first: Ids, last: Ids) -> tuple[Ids, Ids]:
        """Where the records `first` begin and the records `last` end in the sequence of bytes, int64 each.

        Raises:
          HeadraceError: an index is missing, damaged, of another version, or of another shard.
        """
        if not self._known.all():
            self._learn(np.concatenate([first, last]))
        return self._offsets[first], self._offsets[last + 1]

    def frames(self, shard: int) -> Ids:
        """Byte offsets of a shard's records and of its end, int64 of shape (records + 1,). See `spans`."""
        first, stop = self.starts[shard], self.starts[shard + 1]
        self._learn(np.array([first]))
        return self._offsets[first : stop + 1] - self.bases[shard]

    def pieces(self, start: int, stop: int) -> list[tuple[str, int, int]]:
        """The bytes `start` … `stop - 1` of the sequence: path of the shard, offset in it, length."""
        found, shard = [], bisect.bisect_right(self.bases, start) - 1
        while start < stop:
            end = min(stop, self.bases[shard + 1])
            found.append((self.shards[shard].path, start - self.bases[shard], end - start))
            start, shard = end, shard + 1
        return found

    def read(self, starts: Ids, stops: Ids, *, kept: bool = False) -> bytes | mmap.mmap:
        """The bytes of several ranges of the sequence, one range behind the other; `kept` if for more than a moment.

        Raises:
          HeadraceError: a file is missing, shorter than it was, or cannot be read.
        """
        place = self.place
        if native.core is None or not isinstance(place, LocalPlace):
            wanted = [
                piece
                for bounds in zip(starts.tolist(), stops.tolist(), strict=True)
                for piece in self.pieces(*bounds)
            ]
            found = list(place.read_ranges(wanted))
            for data, piece in zip(found, wanted, strict=True):
                if len(data) != piece[2]:
                    raise self._short(piece[0], piece[1] + len(data))
            return b"".join(found)
        if (
            len(starts)
            and (np.searchsorted(self._bases, stops) != np.searchsorted(self._bases, starts, "right")).any()
        ):
            starts, stops = self._cut(starts, stops)
        shards = np.searchsorted(self._bases, starts, "right") - 1
        numbers, inverse = np.unique(shards, return_inverse=True)
        paths = [self.shards[number].path for number in numbers.tolist()]
        offsets = starts - self._bases[shards]
        with place.descriptors(paths, len(starts)) as files:
            ranges = np.stack([np.array(files, np.int64)[inverse], offsets, stops - starts], axis=-1)
            data, row, got = native.core.read(ranges, _mapped(int((stops - starts).sum()), kept=kept))
        if data is None:
            raise self._short(paths[inverse[row]], int(offsets[row]) + got)
        whole: bytes | mmap.mmap = data
        return whole

    def _cut(self, starts: Ids, stops: Ids) -> tuple[Ids, Ids]:
        """The same ranges, none of which goes over the end of a shard."""
        cuts = []
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            inner = self._bases[
                np.searchsorted(self._bases, start, "right") : np.searchsorted(self._bases, stop)
            ]
            cuts.append(np.array([start, *inner.tolist(), stop]))
        return np.concatenate([cut[:-1] for cut in cuts]), np.concatenate([cut[1:] for cut in cuts])

    def _short(self, path: str, size: int) -> HeadraceError:
        return HeadraceError(
            "A shard ends before its last record.",
            where=self.place.where(path),
            value=f"{size} bytes",
            hint="It was changed while it was read; run `headrace verify` on the data set.",
        )

    def column(self, feature: str) -> Column:
        """What the indexes hold of a feature, of every record by id, shape (records,); read once, not to be changed.

        int64 of a class_label or int64, float32, bool, str objects of a text, and int32 of a list of any length:
        how many values it has.

        Raises:
          HeadraceError: the indexes do not hold it (see `index:` in the job), or as `spans`.
        """
        with self._lock:
            if feature not in self._columns:
                parts = self._indexes(
                    range(len(self.shards)),
                    lambda where: read_column(where, feature),
                    lambda data, where: decode_column(data, feature, where),
                )
                for entry, part in zip(self.shards, parts, strict=True):
                    if len(part) != entry.records:
                        where = self.place.where(entry.index.path)
                        raise _foreign_index(entry, where, f"{len(part)} records")
                values = np.concatenate(parts) if parts else np.zeros(0, np.int64)
                values.flags.writeable = False
                self._columns[feature] = values
            return self._columns[feature]

    def _learn(self, ids: Ids) -> None:
        """Read the indexes of the shards that hold these records."""
        shards = np.unique(np.searchsorted(self._shard_starts, ids, side="right") - 1)
        if self._known[shards].all():
            return
        with self._lock:
            missing = shards[~self._known[shards]].tolist()
            for shard, bounds in zip(
                missing, self._indexes(missing, read_bounds, decode_bounds), strict=True
            ):
                entry, first = self.shards[shard], self.starts[shard]
                if len(bounds) != entry.records + 1 or bounds[-1] != entry.bytes:
                    where = self.place.where(entry.index.path)
                    raise _foreign_index(entry, where, f"{len(bounds) - 1} records, {bounds[-1]} bytes")
                self._offsets[first : first + entry.records] = (
                    bounds[:-1].astype(np.int64) + self.bases[shard]
                )
                self._known[shard] = True

    def _indexes(
        self, shards: Sequence[int], read: Callable[[str], _T], decode: Callable[[bytes, str], _T]
    ) -> list[_T]:
        """Something of the indexes of these shards, many at a time.

        Args:
          shards: their numbers.
          read: takes it from a file of this machine.
          decode: takes it from the bytes of a remote one, whose name it gets too.
        """
        files = [self.shards[shard].index for shard in shards]
        names = [self.place.where(file.path) for file in files]
        if not self.place.is_remote:
            if len(names) < _INDEX_READS:
                return [read(name) for name in names]
            with ThreadPoolExecutor(_INDEX_READS, "headrace-index") as pool:
                return list(pool.map(read, names))
        found: list[_T] = []
        for start in range(0, len(files), _INDEXES_HELD):
            held = slice(start, start + _INDEXES_HELD)
            data = self.place.read_ranges([(file.path, 0, file.bytes) for file in files[held]])
            found += map(decode, data, names[held])
        return found


def _mapped(size: int, *, kept: bool) -> mmap.mmap | None:
    """Memory of its own for much that is read at once: the C library would keep it, in pieces, when it is freed.

    Having it made and taken back takes as long as reading does, so not for what is used up at once.
    """
    if size < (_MAPPED_KEPT_BYTES if kept else _MAPPED_BYTES):
        return None
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _check_size(place: Place, shard: ShardEntry) -> None:
    try:
        size = place.size(shard.path)
    except OSError as error:
        raise HeadraceError(
            "A shard is missing.",
            where=place.where(shard.path),
            value=error.strerror,
            hint="The data set is incomplete: copy it again in full, or prepare it again.",
        ) from error
    if size != shard.bytes:
        raise HeadraceError(
            "A shard is not the one that the manifest describes: its size differs.",
            where=place.where(shard.path),
            value=f"{size} bytes",
            allowed=f"{shard.bytes} bytes",
            hint="Run `headrace verify` on the data set, then copy or prepare it again.",
        )


def _foreign_index(shard: ShardEntry, where: str, found: str) -> HeadraceError:
    return HeadraceError(
        "An index does not belong to its shard.",
        where=where,
        value=found,
        allowed=f"{shard.records} records, {shard.bytes} bytes",
        hint="Run `headrace verify` on the data set, then copy or prepare it again.",
    )
