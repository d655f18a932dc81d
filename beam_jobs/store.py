"""Where a data set and its work files are written: a directory of this machine, or a prefix of an object store.

A store is the tree below `<out>/<name>`. Paths are relative to it, with slashes. Every file appears whole or not at
all, wherever its writer dies.

Nothing may depend on a listing for being right: an object store's may lag, so that it lacks what was just written and
still has what was deleted. Whether a file exists is asked of the file itself; what was to be deleted may be gone.

A job holds the store's lock, and its workers write through the store that `exclusive` gave: once another job has
taken the lock, since the holder seemed dead, they are refused.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from schemas import HeadraceError

Part = tuple[str, int, memoryview]  # path, byte offset, and what is to be filled from there


class Sink(io.RawIOBase):
    """A file being written; what it is given may be used again at once."""

    def writable(self) -> bool:
        """Always."""
        return True

    @abstractmethod
    def write(self, data: Any, /) -> int:
        """Writes all of `data`, anything with the buffer protocol."""

    def writev(self, parts: Sequence[Any]) -> None:
        """Writes all parts, one after the other."""
        for part in parts:
            self.write(part)

    def begin_flush(self) -> None:
        """Lets the disk begin with what was written so far, where that can be, so that the end waits less for it."""


class Store(Protocol):
    """One data set's tree. Any number of threads may use it; pickled, it goes to workers without credentials.

    Every method raises HeadraceError where the store cannot be reached or refuses, and every method that changes
    something where the lock is lost.

    Attributes:
      durable: whether whatever exists survives a power cut and is as it was written, asked for or not.
    """

    durable: bool

    @property
    def lock_file(self) -> Path | None:
        """The file that the operating system locks for a job, and that its worker processes share; None elsewhere."""
        ...

    def where(self, path: str) -> str:
        """The full name of a file, for people; without secrets."""
        ...

    def local(self, path: str) -> str | None:
        """The name of a file in this machine's file system; None where it is not there."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """All of a file.

        Raises:
          FileNotFoundError: there is none.
          HeadraceError: it holds more than `limit` bytes.
        """
        ...

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """The bytes of a file that exists; an error where it ends before."""
        ...

    def fill(self, parts: Sequence[Part]) -> None:
        """Reads many ranges at a time; an error where a file is missing or ends before."""
        ...

    def writing(self, path: str, *, durable: bool) -> AbstractContextManager[Sink]:
        """A file that takes its name, or its predecessor's, when the block ends well; else nothing remains.

        `durable`: it must survive a power cut.
        """
        ...

    def write(self, path: str, data: bytes, *, durable: bool) -> None:
        """Writes a file, whole or not at all."""
        ...

    def copy(self, source: str, target: str) -> None:
        """A file that exists, durable, under one more name: a link where that can be, and no byte moves."""
        ...

    def names(self, prefix: str) -> list[str]:
        """The files below a directory, relative to it, in order; asked anew each time, and maybe late."""
        ...

    def delete(self, path: str) -> None:
        """Removes a file, if it is there."""
        ...

    def delete_tree(self, prefix: str) -> None:
        """Removes the files below a directory, as far as they are listed."""
        ...

    def tidy(self) -> None:
        """Removes what killed writers left half-written; no job may be writing."""
        ...

    def exclusive(self) -> AbstractContextManager[Store]:
        """Holds the store's lock while the block runs; what workers write with.

        Raises:
          HeadraceError: another job holds it; the error says which.
        """
        ...

    def stage(self, version: str) -> str:
        """The directory in which the files of a version are written, before it exists."""
        ...

    def prepare(self, version: str) -> None:
        """Makes the stage of a version that does not exist yet.

        Raises:
          HeadraceError: something else stands where the version is to be.
        """
        ...

    def publish(self, version: str, manifest: bytes) -> None:
        """Makes the stage the version: from now on, and not before, `<version>/manifest.json` is there.

        Raises:
          HeadraceError: another job has published this version meanwhile; it was left as it is.
        """
        ...


def open_store(out: str | Path, name: str) -> Store:
    """The store of the data set `name` below `out`, a path or a URL such as gs://bucket/datasets.

    Raises:
      HeadraceError: nothing can be written to URLs of that kind, or the package that does it is not installed.
    """
    scheme, mark, rest = str(out).partition("://")
    if not mark or scheme == "file":
        from beam_jobs.local_store import LocalStore

        return LocalStore(Path(rest if mark else out).resolve() / name)
    from beam_jobs.remote_store import RemoteStore

    return RemoteStore(f"{str(out).rstrip('/')}/{name}")


def in_the_way(where: str) -> HeadraceError:
    """The error for files that are no version of ours where one is to be."""
    return HeadraceError(
        "There are files already where the version is to be written, and they are no data set of Headrace's.",
        where=where,
        hint="Give the job a new `version:`, give another --out, or remove them.",
    )


def published_meanwhile(where: str) -> HeadraceError:
    """The error for a version that another job was faster to publish."""
    return HeadraceError(
        "Another job has committed this version meanwhile; it was left as it is.", where=where
    )
