"""What is on disk: a split's shards, checked against the manifest, and where each record lies. No TensorFlow."""

from __future__ import annotations

import bisect
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loader.checks import check_name
from schemas import HeadraceError, Manifest, ShardIndex, read_index, read_manifest
from schemas.manifest import ShardEntry, SplitEntry


def open_split(directory: str | Path, split: str) -> tuple[Manifest, Split]:
    """The manifest of a data set and one of its splits.

    Raises:
      HeadraceError: there is no data set or no such split, or a shard is missing or has another size.
    """
    manifest = read_manifest(directory)
    check_name("split", split, manifest.splits, f"The data set in {directory} has no such split.")
    return manifest, Split(Path(directory), manifest.splits[split])


class Split:
    """The shards of a split as one sequence of records; `id` is a record's position in it."""

    def __init__(self, directory: Path, entry: SplitEntry) -> None:
        self.records = entry.records
        self.bytes = entry.bytes
        self._shards = [shard for shard in entry.shards if shard.records]
        self.paths = [directory / shard.path for shard in self._shards]
        self._index_paths = [directory / shard.index.path for shard in self._shards]
        self.starts = np.cumsum([0, *(shard.records for shard in self._shards)]).tolist()
        if self.starts[-1] != self.records:
            raise HeadraceError(
                "The manifest contradicts itself: the shards of a split do not add up.",
                where=str(directory / "manifest.json"),
                value=f"{self.starts[-1]} records in shards",
                allowed=f"{self.records}",
            )
        for path, shard in zip(self.paths, self._shards, strict=True):
            _check_size(path, shard)
        self._frames: list[npt.NDArray[np.int64] | None] = [None] * len(self._shards)
        self._lock = threading.Lock()

    def shard_of(self, example_id: int) -> int:
        """The number of the shard that holds a record."""
        return bisect.bisect_right(self.starts, example_id) - 1

    def frames(self, shard: int) -> npt.NDArray[np.int64]:
        """Byte offsets of a shard's records and of its end, int64 of shape (records + 1,); read when first asked.

        Raises:
          HeadraceError: the index is missing, damaged, of another version, or of another shard.
        """
        frames = self._frames[shard]
        if frames is None:
            with self._lock:
                frames = self._frames[shard] = self._read_frames(shard)
        return frames

    def _read_frames(self, shard: int) -> npt.NDArray[np.int64]:
        index = read_index(self._index_paths[shard])
        _check_index(index, self._shards[shard], self._index_paths[shard])
        return np.append(index.offsets, np.uint64(index.end)).astype(np.int64)


def _check_size(path: Path, shard: ShardEntry) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise HeadraceError(
            "A shard is missing.",
            where=str(path),
            value=error.strerror,
            hint="The data set is incomplete: copy it again in full, or prepare it again.",
        ) from error
    if size != shard.bytes:
        raise HeadraceError(
            "A shard is not the one that the manifest describes: its size differs.",
            where=str(path),
            value=f"{size} bytes",
            allowed=f"{shard.bytes} bytes",
            hint="Run `headrace verify` on the data set, then copy or prepare it again.",
        )


def _check_index(index: ShardIndex, shard: ShardEntry, path: Path) -> None:
    if len(index) != shard.records or index.end != shard.bytes:
        raise HeadraceError(
            "An index does not belong to its shard.",
            where=str(path),
            value=f"{len(index)} records, {index.end} bytes",
            allowed=f"{shard.records} records, {shard.bytes} bytes",
            hint="Run `headrace verify` on the data set, then copy or prepare it again.",
        )
