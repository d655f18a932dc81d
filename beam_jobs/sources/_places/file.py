"""One file of a source, local or behind fsspec."""

from __future__ import annotations

import os
from typing import Any

from beam_jobs.sources._places.listing import remote_version
from beam_jobs.sources._places.locate import base_of, filesystem
from beam_jobs.sources._places.names import local_root, shown
from beam_jobs.sources._places.zip import ZipFiles
from schemas.errors import HeadraceError


class StoredFile:
    """A file by its name below the folder of a source, as `find_files` gives it; opened anew for each pass over it."""

    def __init__(self, root: str, name: str) -> None:
        self.name = name
        self.shown = shown(name)
        fs, path = filesystem(root, name)
        base = base_of(path)
        self._path = f"{base}/{name}" if base else name
        self._fs = None if local_root(root) is not None else fs

    @property
    def is_remote(self) -> bool:
        """Whether it is read through fsspec."""
        return self._fs is not None

    @property
    def is_packed(self) -> bool:
        """Whether it can be read from its beginning only, as a member of an archive is that is compressed."""
        return isinstance(self._fs, ZipFiles) and self._fs.is_packed(self._path)

    def version(self) -> Any:
        """JSON-able; changes whenever the bytes may have. Begins with their number.

        Raises:
          HeadraceError: the file is not there.
        """
        try:
            if self._fs is not None:
                self._fs.invalidate_cache()
                info = self._fs.info(self._path)
                return [int(info.get("size") or 0), remote_version(info)]
            status = os.stat(self._path)  # noqa: PTH116
        except OSError as error:
            raise HeadraceError("A file cannot be read.", where=self.shown, value=str(error)) from error
        return [status.st_size, [status.st_mtime_ns, status.st_ctime_ns]]

    def raw(self) -> Any:
        """The file, opened for reading; unbuffered where it is local."""
        if self._fs is None:
            return open(self._path, "rb", buffering=0)
        return self._fs.open(self._path, "rb", block_size=4 << 20)


def changed(file: str) -> HeadraceError:
    """The error for a file that is not the one that was listed."""
    return HeadraceError(
        "A file was changed while the job was reading it.",
        where=file,
        hint="Run the job again once nobody writes to the file; what is done already is kept.",
    )
