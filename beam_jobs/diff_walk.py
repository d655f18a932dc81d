"""Two versions walked side by side in key-hash order, all splits together, since a record keeps its hash when its
split changes. One index of each split is held at a time, whatever the numbers of shards, and a shard that both
versions share is not opened at all: the cost is that of what differs.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from beam_jobs.check_files import MAX_INDEX_BYTES, Checked, check_index
from schemas import HeadraceError, Manifest, ShardIndex, read_manifest
from schemas.hashing import KEY_HASH_DTYPE, as_sortable, shard_bounds
from schemas.manifest import ShardEntry
from schemas.storage import Place, missing, open_place

_END = 1 << 128  # of the hash space
_STEP_RECORDS = 1 << 20  # matched at a time, about


class Version:
    """A committed version: its manifest, and its indexes when they are asked for.

    Raises:
      HeadraceError: there is no data set, or its manifest is damaged.
    """

    def __init__(self, directory: str) -> None:
        self.place: Place = open_place(directory)
        self.manifest: Manifest = read_manifest(self.place)

    def index(self, split: str, number: int) -> ShardIndex:
        """The index of a shard.

        Raises:
          HeadraceError: it is missing, or is not what the manifest says.
        """
        shards = self.manifest.splits[split].shards
        entry = shards[number]
        where = self.place.where(entry.index.path)
        try:
            data = self.place.read_bytes(entry.index.path, MAX_INDEX_BYTES)
        except FileNotFoundError as error:
            raise missing(where) from error
        except OSError as error:
            raise HeadraceError("A file cannot be read.", where=where, value=error.strerror) from error
        checked = Checked(entry.index.path, entry.index.sha256)
        index = None
        if hashlib.sha256(data).hexdigest() != entry.index.sha256:
            checked.problem("its SHA-256 differs")
        else:
            index = check_index(checked, data, self.manifest, entry, number=number, shards=len(shards))
        if index is None or checked.problems:
            raise HeadraceError(
                "A shard's index is damaged.",
                where=where,
                value="; ".join(dict.fromkeys(problem.what for problem in checked.problems)),
                hint=f"Run `headrace verify {self.place}`; copy the file again, or prepare the version again.",
            )
        return index


@dataclass(frozen=True)
class Rows:
    """Records of one version with key hashes in one range, split after split.

    Attributes:
      version: whose they are.
      hashes: `KEY_HASH_DTYPE` (n,).
      splits: int64 (n,), by number.
      records, offsets, lengths: int64 (n,), number in the shard, place and bytes of the frame.
      shards: the one shard of each split which the range lies in, by the split's number.
    """

    version: Version
    hashes: npt.NDArray[np.void]
    splits: npt.NDArray[np.int64]
    records: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    shards: Mapping[int, ShardEntry]

    def __len__(self) -> int:
        return len(self.hashes)


class _Cursor:
    """A split's records by ranges of key hashes, which rise from call to call."""

    def __init__(self, version: Version, split: str, shared: set[int]) -> None:
        self._version, self._split, self._shared = version, split, shared
        self._number = -1
        self._index: ShardIndex | None = None
        bounds = shard_bounds(len(version.manifest.splits[split].shards))
        self.bounds = [(int(bound["hi"]) << 64) | int(bound["lo"]) for bound in bounds]

    def shard(self) -> ShardEntry:
        """The shard whose index is held."""
        return self._version.manifest.splits[self._split].shards[self._number]

    def rows(self, low: int, high: int) -> tuple[ShardIndex, int, int] | None:
        """The index of the shard that holds the range, and the range's rows in it; None where it has none."""
        number = bisect_right(self.bounds, low) - 1
        if number < 0 or number in self._shared:
            return None
        if self._index is None or number != self._number:
            self._index = None  # so that two are never held
            self._index, self._number = self._version.index(self._split, number), number
        hashes = as_sortable(self._index.key_hashes)
        start, stop = (
            len(hashes) if bound == _END else int(np.searchsorted(hashes, _as_hash(bound)))
            for bound in (low, high)
        )
        return (self._index, start, stop) if stop > start else None


def shared_shards(before: Manifest, after: Manifest, split: str) -> set[int]:
    """The numbers of a split's shards that are the same in both versions, index and all."""
    if split not in before.splits or split not in after.splits:
        return set()
    old, new = before.splits[split].shards, after.splits[split].shards
    if len(old) != len(new):
        return set()

    def content(shard: ShardEntry) -> tuple[str, str]:
        return shard.sha256, shard.index.sha256

    return {k for k, (a, b) in enumerate(zip(old, new, strict=True)) if content(a) == content(b)}


def walk(before: Version, after: Version, splits: Sequence[str]) -> Iterator[tuple[Rows, Rows]]:
    """Both versions' records by range of the hash space, shards that are shared left out.

    A range is never in more than one shard of a split, nor does it have many more than a million records.
    """
    shared = {name: shared_shards(before.manifest, after.manifest, name) for name in splits}
    sides = [
        {
            n: _Cursor(side, name, shared[name])
            for n, name in enumerate(splits)
            if name in side.manifest.splits
        }
        for side in (before, after)
    ]
    cursors = [cursor for side in sides for cursor in side.values()]
    bounds = sorted({bound for cursor in cursors for bound in cursor.bounds})
    for low, high in pairwise([*bounds, _END]):
        records = sum(rows[2] - rows[1] for cursor in cursors if (rows := cursor.rows(low, high)))
        steps = -(-records // _STEP_RECORDS)
        for step in range(steps):
            start, stop = (low + (high - low) * place // steps for place in (step, step + 1))
            yield _gather(before, sides[0], start, stop), _gather(after, sides[1], start, stop)


def _gather(version: Version, cursors: Mapping[int, _Cursor], low: int, high: int) -> Rows:
    hashes, columns = [np.zeros(0, KEY_HASH_DTYPE)], [np.zeros((4, 0), np.int64)]
    shards = {}
    for split, cursor in cursors.items():
        if (found := cursor.rows(low, high)) is None:
            continue
        index, start, stop = found
        shards[split] = cursor.shard()
        hashes.append(as_sortable(index.key_hashes[start:stop]))
        records = np.arange(start, stop)
        own = (np.full_like(records, split), records, index.offsets[start:stop], index.lengths[start:stop])
        columns.append(np.stack([column.astype(np.int64) for column in own]))
    numbers, records, offsets, lengths = np.concatenate(columns, axis=1)
    joined = np.concatenate(hashes, dtype=KEY_HASH_DTYPE)
    return Rows(version, joined, numbers, records, offsets, lengths, shards)


def _as_hash(bound: int) -> npt.NDArray[np.void]:
    return np.array((bound >> 64, bound & (2**64 - 1)), dtype=KEY_HASH_DTYPE)
