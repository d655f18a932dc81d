"""Where a data set lies: files read whole or by byte range.

Local files are read through descriptors that stay open.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import HeadraceError

_MAX_OPEN = 256  # files

Range = tuple[str, int, int]  # path relative to the place, byte offset, length


class Place:
    """A directory of this machine. Any number of threads may use it."""

    is_remote = False
    gap_bytes = 0  # bytes between two wanted ranges that are cheaper read than asked around

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._open = functools.lru_cache(maxsize=_MAX_OPEN)(_File)

    def __str__(self) -> str:
        return str(self._directory)

    def where(self, path: str) -> str:
        """The full name of a file, for errors."""
        return str(self._directory / path)

    def size(self, path: str) -> int:
        """Bytes of a file.

        Raises:
          OSError: there is none, or it cannot be read.
        """
        return (self._directory / path).stat().st_size

    def read_bytes(self, path: str, limit: int) -> bytes:
        """All of a file.

        Raises:
          OSError: there is none, or it cannot be read.
          HeadraceError: it holds more than `limit` bytes.
        """
        with (self._directory / path).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise HeadraceError(
                "A file is larger than it can be.",
                where=self.where(path),
                value=f"{self.size(path)} bytes",
                allowed=f"{limit} bytes",
            )
        return data

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range; fewer than asked for where a file ends before.

        Raises:
          OSError: a file is missing or cannot be read.
        """
        # Strings: joining and hashing Paths costs as much as reading from memory.
        root, opened = f"{self._directory}/", self._open
        return [opened(root + path).read(offset, length) for path, offset, length in ranges]


class _File:
    """A file kept open for positioned reads, closed when nobody uses it any more."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)
