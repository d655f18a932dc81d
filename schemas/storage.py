"""Where a data set lies: files read whole or by byte range, on this machine or wherever fsspec reaches."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import HeadraceError

_MAX_OPEN = 256  # files

Range = tuple[str, int, int]  # path relative to the place, byte offset, length


class Place(Protocol):
    """A directory of files. Any number of threads may use it.

    Attributes:
      is_remote: whether reading waits for a network rather than a disk.
      reads: reads of files so far.
      retries: of those, how many repeated one that had failed.
    """

    is_remote: bool
    reads: int
    retries: int

    def where(self, path: str) -> str:
        """The full name of a file, for errors; without secrets."""
        ...

    def size(self, path: str) -> int:
        """Bytes of a file.

        Raises:
          FileNotFoundError: there is none.
          OSError, HeadraceError: it cannot be reached.
        """
        ...

    def read_bytes(self, path: str, limit: int) -> bytes:
        """All of a file.

        Raises:
          FileNotFoundError: there is none.
          OSError: it cannot be read.
          HeadraceError: it holds more than `limit` bytes, or cannot be reached.
        """
        ...

    def read_ranges(self, ranges: Sequence[Range]) -> Iterable[bytes]:
        """The bytes of each range, to be taken once; fewer than asked for where a file ends before.

        They may be read when they are asked for.

        Raises:
          HeadraceError: a file is missing or cannot be read.
        """
        ...


def open_place(directory: str | Path | Place, options: Mapping[str, Any] | None = None) -> Place:
    """The place that a path or a URL names: "out/elpv/1.0.0", "gs://bucket/elpv/1.0.0", "s3://…", "https://…".

    Args:
      directory: a path of this machine, a URL that fsspec understands, or a place.
      options: what fsspec's file system of that URL takes, such as credentials; see `schemas.remote`.

    Raises:
      HeadraceError: the package that reaches it is not installed, or does not know such options.
    """
    if not isinstance(directory, str | Path):
        return directory
    scheme, mark, rest = str(directory).partition("://")
    if mark and scheme != "file":
        from schemas.remote import RemotePlace

        return RemotePlace(str(directory), options)
    if options:
        raise HeadraceError(
            "Only remote data sets take storage options.",
            where="storage_options",
            value=str(directory),
            allowed="a URL such as gs://bucket/elpv/1.0.0",
        )
    return LocalPlace(rest if mark else directory)


class LocalPlace:
    """A directory of this machine, its files read through descriptors that stay open."""

    is_remote = False
    retries = 0

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._open = functools.lru_cache(maxsize=_MAX_OPEN)(_File)
        self.reads = 0

    def __str__(self) -> str:
        return str(self._directory)

    def where(self, path: str) -> str:
        """See `Place`."""
        return str(self._directory / path)

    def size(self, path: str) -> int:
        """See `Place`."""
        return (self._directory / path).stat().st_size

    def read_bytes(self, path: str, limit: int) -> bytes:
        """See `Place`."""
        size = self.size(path)
        if size > limit:
            raise too_large(self.where(path), size, limit)
        return (self._directory / path).read_bytes()

    def read_ranges(self, ranges: Sequence[Range]) -> Iterator[bytes]:
        """See `Place`."""
        self.reads += len(ranges)
        # Strings: joining and hashing Paths costs as much as reading from memory.
        root, opened = f"{self._directory}/", self._open
        with self._clear_errors():
            for path, offset, length in ranges:
                yield opened(root + path).read(offset, length)

    @contextlib.contextmanager
    def descriptors(self, paths: Sequence[str], ranges: int) -> Iterator[list[int]]:
        """Descriptors of files from which so many ranges are going to be read.

        Raises:
          HeadraceError: a file is missing or cannot be read.
        """
        self.reads += ranges
        with self._clear_errors():
            files = [
                self._open(f"{self._directory}/{path}") for path in paths
            ]  # open as long as they are held
            yield [file.descriptor for file in files]

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise missing(str(error.filename)) from error
        except OSError as error:
            where = error.filename or f"{self._directory}/"
            raise HeadraceError("A file cannot be read.", where=where, value=error.strerror) from error


def too_large(where: str, size: int, limit: int) -> HeadraceError:
    """The error for a file that is larger than it can be."""
    return HeadraceError(
        "A file is larger than it can be.", where=where, value=f"{size} bytes", allowed=f"{limit} bytes"
    )


def missing(where: str) -> HeadraceError:
    """The error for a file that the manifest names and that is not there."""
    return HeadraceError(
        "A file of the data set is missing.",
        where=where,
        hint="The data set is incomplete: copy it again in full, or prepare it again.",
    )


class _File:
    """A file kept open for positioned reads, closed when nobody uses it any more."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.descriptor, length, offset)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
