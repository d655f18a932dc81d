"""A place in a store, written as a path: `root / "runs" / name`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from beam_jobs.store import Sink, Store

MOST_BYTES = 1 << 33  # 8 GiB: of a file that is read as a whole, such as a table or an index
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class StorePath:
    """A file of a store, or the directory that files lie in; `path` is relative to the store, "" for all of it."""

    store: Store
    path: str

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self.store, f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        return self.store.where(self.path)

    @property
    def name(self) -> str:
        """Its last part."""
        return self.path.rpartition("/")[2]

    def with_suffix(self, suffix: str) -> StorePath:
        """The same with another ending."""
        # Not by pathlib, which takes longer than to read a small run.
        return StorePath(self.store, os.path.splitext(self.path)[0] + suffix)  # noqa: PTH122

    def size(self) -> int | None:
        """Bytes of the file; None where there is none."""
        return self.store.size(self.path)

    def exists(self) -> bool:
        """Whether it is a file."""
        return self.size() is not None

    def read(self) -> bytes:
        """All of the file.

        Raises:
          FileNotFoundError: there is none.
        """
        return self.store.read(self.path, MOST_BYTES)

    def read_range(self, start: int, length: int) -> bytes:
        """Some of the file."""
        return self.store.read_range(self.path, start, length)

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """Some of the file, a few MiB at a time."""
        for offset in range(start, start + length, _PIECE_BYTES):
            yield self.read_range(offset, min(_PIECE_BYTES, start + length - offset))

    def writing(self, *, durable: bool) -> AbstractContextManager[Sink]:
        """See `Store.writing`."""
        return self.store.writing(self.path, durable=durable)

    def write(self, data: bytes, *, durable: bool) -> None:
        """Writes the file, whole or not at all."""
        self.store.write(self.path, data, durable=durable)

    def copy_to(self, target: StorePath) -> None:
        """Gives the file one more name."""
        self.store.copy(self.path, target.path)

    def names(self) -> list[str]:
        """The files below, relative to it; asked anew each time, and maybe late."""
        return self.store.names(self.path)

    def delete(self) -> None:
        """Removes the file, if it is there."""
        self.store.delete(self.path)

    def delete_tree(self) -> None:
        """Removes the files below, as far as they are listed."""
        self.store.delete_tree(self.path)


def fill(parts: Sequence[tuple[StorePath, int, memoryview]]) -> None:
    """Reads many ranges of files of one store at a time."""
    if parts:
        parts[0][0].store.fill([(place.path, offset, target) for place, offset, target in parts])
