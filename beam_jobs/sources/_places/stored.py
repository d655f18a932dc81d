"""Files below a source's folder, local or behind fsspec: read whole where they are small, else piece by piece."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from beam_jobs.sources._places.listing import File, local_root, local_version, remote_version, shown
from beam_jobs.sources._places.locate import filesystem
from schemas.errors import HeadraceError, shorten

_MAX_TEXT_BYTES = 64 << 20


class StoredFile:
    """One file below the folder `root`."""

    def __init__(self, root: str, name: str, where: str) -> None:
        self.name = name
        self.where = f"{where}, {shown(name)}"
        fs, base = filesystem(root, where)
        self._fs = None if local_root(root) is not None else fs
        self._path = f"{base.rstrip('/')}/{name}"

    def check(self, listed: File) -> None:
        """See that the file is still as it was listed.

        Raises:
          HeadraceError: it is not, or it is gone.
        """
        try:
            if self._fs is None:
                status = os.stat(self._path)  # noqa: PTH116
                size, same = status.st_size, listed.version == local_version(status)
            else:
                self._fs.invalidate_cache()
                info = self._fs.info(self._path)
                size, version = int(info.get("size") or 0), remote_version(info)
                # What a listing and a look at one file tell is not the same everywhere.
                both = (version.keys() & listed.version.keys()) - {"created"}
                same = all(version[name] == listed.version[name] for name in both)
        except OSError as error:
            raise self.unreadable(error) from error
        if size != listed.size or not same:
            raise self.changed()

    def open(self) -> pa.NativeFile:
        """The file for pyarrow. It is not mapped: a mapped file that is cut short kills its reader."""
        try:
            if self._fs is None:
                return pa.OSFile(self._path)
            return pa.PythonFile(self._fs.open(self._path, "rb", block_size=4 << 20), "r")
        except OSError as error:
            raise self.unreadable(error) from error

    def exists(self) -> bool:
        """Whether there is such a file."""
        return bool(os.path.exists(self._path) if self._fs is None else self._fs.exists(self._path))  # noqa: PTH110

    def text(self) -> str:
        """What a small file of text holds.

        Raises:
          HeadraceError: it is too large, or no UTF-8.
        """
        with self.open() as file:
            data = file.read(_MAX_TEXT_BYTES + 1)
        if len(data) > _MAX_TEXT_BYTES:
            raise HeadraceError("A file is too large.", where=self.where, allowed=f"{_MAX_TEXT_BYTES} bytes")
        try:
            text: str = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.unreadable(error) from None
        return text

    def json(self) -> Any:
        """What a small JSON file holds.

        Raises:
          HeadraceError: it is no JSON, or too large.
        """
        try:
            return json.loads(self.text())
        except (ValueError, RecursionError) as error:
            raise HeadraceError("A file is no JSON.", where=self.where, value=str(error)) from None

    def changed(self) -> HeadraceError:
        """The error that says so."""
        return HeadraceError(
            "A file was changed while the job was reading it.",
            where=self.where,
            hint="Run the job again once nobody writes to the file; what is done already is kept.",
        )

    def unreadable(self, error: Exception) -> HeadraceError:
        """The error that says so."""
        return HeadraceError("A file cannot be read.", where=self.where, value=shorten(str(error)))


def wanted_splits(asked: str | list[str] | None, found: Collection[str], where: str) -> list[str]:
    """The splits to read, in the job's order, or all of the data set in its own.

    Raises:
      HeadraceError: there is none of a name.
    """
    wanted = [asked] if isinstance(asked, str) else list(asked or found)
    for name in wanted:
        if name not in found:
            raise HeadraceError(
                "There is no such split.",
                where=f"{where}.split",
                value=name,
                allowed=shorten(", ".join(found)),
            )
    return wanted
