"""The files of a source of columnar files: which there are, their folders' columns, opening them for pyarrow."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from beam_jobs.sources._places.listing import list_files, local_root, remote_version, shown
from beam_jobs.sources._places.locate import base_of, filesystem, find_files
from schemas.errors import HeadraceError
from schemas.hashing import fingerprint

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_HIDDEN = re.compile(
    r"(?:^|.*/)[_.][^/]*$", re.DOTALL
)  # _SUCCESS, _temporary, .crc: what writers leave beside data
_READ_BYTES = 1 << 20
_HASH_BYTES = 16


class DataFile:
    """One file of a source, opened anew for each pass over it."""

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self.shown = shown(name)
        self._fs, base = _base(root, self.shown)
        self._path = f"{base}/{name}" if base else name
        self.local = local_root(root) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataFile) and (self._fs, self._path) == (other._fs, other._path)

    def __hash__(self) -> int:
        return hash(self._path)

    def version(self) -> Any:
        """Its size, and what else changes whenever the bytes may have; JSON-able."""
        try:
            if not self.local:
                self._fs.invalidate_cache()
                info = self._fs.info(self._path)
                return [int(info.get("size") or 0), remote_version(info)]
            status = os.stat(self._path)  # noqa: PTH116
        except OSError as error:
            raise self.unreadable(error) from error
        return [status.st_size, [status.st_mtime_ns, status.st_ctime_ns]]

    @contextmanager
    def open(self, buffer: int = 0) -> Iterator[BinaryIO]:
        """The file, from its start; with `buffer` for reading it through, so many bytes at once.

        Raises:
          HeadraceError: it cannot be opened.
        """
        try:
            # By Python, since pyarrow takes no name that is not UTF-8.
            if self.local:
                raw = open(self._path, "rb", buffering=buffer)  # noqa: SIM115
            else:  # pyarrow knows what it wants; a cache would fetch megabytes around each piece
                raw = self._fs.open(self._path, "rb", cache_type="readahead" if buffer else "none")
        except OSError as error:
            raise self.unreadable(error) from error
        with raw:
            yield raw

    @contextmanager
    def open_arrow(self) -> Iterator[pa.NativeFile]:
        """The file as pyarrow reads it."""
        with self.open() as raw, pa.PythonFile(raw, mode="r") as file:
            yield file

    def digest(self, version: Any, ranges: Iterable[tuple[int, int]] | None = None) -> str:
        """A hash of ranges of the file (start, end), or of all of it: it changes whenever their bytes may.

        A remote file is not read for it where its store tells `version` from others.
        """
        if not self.local and version[1]:
            return fingerprint(version)
        digest = hashlib.blake2b(digest_size=_HASH_BYTES)
        with self.open(_READ_BYTES) as raw:
            for start, end in [(0, None)] if ranges is None else ranges:
                raw.seek(start)
                left = end - start if end is not None else None
                while left != 0 and (
                    piece := raw.read(_READ_BYTES if left is None else min(left, _READ_BYTES))
                ):
                    digest.update(piece)
                    left = left - len(piece) if left is not None else None
        return digest.hexdigest()

    def unreadable(self, error: Exception) -> HeadraceError:
        """The error for a file that the system does not give."""
        text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return HeadraceError("A file cannot be read.", where=self.shown, value=text)


def data_files(root: str, suffixes: Sequence[str], where: str) -> list[str]:
    """The file or files that `root` names, or every file of the kind below the folder: sorted, relative to it.

    In a folder, files and folders whose name begins with `_` or `.` are left alone, as all readers of such do.

    Raises:
      HeadraceError: there is none.
    """
    fs, path = filesystem(root, where)
    try:
        if not fs.isdir(path):
            return find_files(root, where)
    except OSError as error:
        raise HeadraceError("The source cannot be listed.", where=where, value=f"{root}: {error}") from error
    found = [file.path for file in list_files(root, _HIDDEN.match)]
    names = [
        name
        for name in found
        if name.lower().endswith(tuple(suffixes)) and not any(map(_HIDDEN.match, name.split("/")))
    ]
    if not names:
        raise HeadraceError(
            "The folder holds no file of the kind.",
            where=where,
            value=root,
            allowed=", ".join(f"*{suffix}" for suffix in suffixes),
            hint=f"It holds {len(found):,} others; name them by a pattern." if found else None,
        )
    return names


def hive_values(name: str) -> dict[str, str | None]:
    """The columns of a file that its folders name, `year=2024/month=07/…`: always text, which features convert.

    What is no UTF-8 appears as \\xNN.

    Raises:
      HeadraceError: two folders name one column.
    """
    values: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        column, equals, value = folder.partition("=")
        if not (column and equals):
            continue
        column, text = _unescaped(column), _unescaped(value)
        if column in values:
            raise HeadraceError(
                "Two folders name one column.",
                where=shown(name),
                value=column,
                hint="Set `hive: false`, and folders are no columns.",
            )
        values[column] = None if text == _HIVE_NULL else text
    return values


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "backslashreplace")


def _base(root: str, where: str) -> tuple[Any, str]:
    """The file system of `root`, and the folder that names of its files are relative to."""
    fs, path = filesystem(root, where)
    return fs, path.rstrip("/") if fs.isdir(path) else base_of(path)
