"""Files that appear whole or not at all, and what the operating system says when one cannot be written."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from schemas import HeadraceError

_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
# For a write of several MiB Linux looks for memory in pieces as large, which took longer than all else we do to the
# bytes: 280 MB by 16 MiB took 1.0 s of the system's time, and by 512 KiB 0.12 s (Linux 6.18, ext4).
_WRITTEN_BYTES = 512 << 10
_IOV_MAX = 1024  # parts of one call
_folders: weakref.WeakSet[ScratchFolder] = weakref.WeakSet()
_SYNC_FILE_RANGE_WRITE = 2  # of Linux's fs.h
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


@contextmanager
def atomic_file(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """A file for writing that takes its name only when the block ends well; otherwise nothing remains.

    `durable` flushes it to the disk before it is named, so that it survives a power cut.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with clear_errors(path), open(temporary, "wb", buffering=0) as file:
            yield file
            if durable:
                os.fsync(file.fileno())
            temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what cannot be written may not be removable either
            temporary.unlink(missing_ok=True)
        raise


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take several calls."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[file.write(view[:_WRITTEN_BYTES]) :]


def write_parts(file: BinaryIO, parts: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Write all parts, one after the other, with few calls of the system."""
    for some in _together(parts):
        written = os.writev(file.fileno(), some)  # type: ignore[arg-type]  # numpy arrays have the buffer protocol
        for part in some:
            if written < len(part):
                write_all(file, part[written:].data)
            written = max(written - len(part), 0)


def _together(parts: Iterable[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """The parts, cut where they are long, as many at a time as are written by one call."""
    some: list[npt.NDArray[np.uint8]] = []
    left = _WRITTEN_BYTES
    for part in parts:
        start = 0
        while start < len(part):
            if not left or len(some) == _IOV_MAX:
                yield some
                some, left = [], _WRITTEN_BYTES
            some.append(part[start : start + left])
            start += len(some[-1])
            left -= len(some[-1])
    if some:
        yield some


def begin_flush(file: BinaryIO, start: int, length: int) -> None:
    """Lets the system begin to write a part of a file to the disk, so that less is left for the flush at its end."""
    if _sync_file_range is not None:  # of Linux alone
        _sync_file_range(
            file.fileno(),
            ctypes.c_int64(start),
            ctypes.c_int64(length),
            ctypes.c_uint(_SYNC_FILE_RANGE_WRITE),
        )


def link(source: Path, target: Path) -> None:
    """Lets `target` be the file `source`, which is never changed; a copy where links cannot be."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with clear_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.hardlink_to(source)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with open(source, "rb") as old, open(temporary, "wb") as new:
                    shutil.copyfileobj(old, new, _WRITTEN_BYTES)
                    new.flush()
                    os.fsync(new.fileno())
            temporary.rename(target)
    finally:
        with contextlib.suppress(OSError):  # it stays where both were names of the same file already
            temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    with clear_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _RawScratch(io.FileIO):
    """A file whose writes fail with clear errors."""

    def write(self, data: Any, /) -> int:
        with scratch_errors():
            return super().write(data)


class _Scratch(io.BufferedRandom):
    """The same, buffered."""

    def close(self) -> None:
        with contextlib.suppress(HeadraceError):  # what could not be written goes with the file
            super().close()


def scratch_file() -> BinaryIO:
    """A temporary file without a name, gone when it is closed; for all that needs one, as its errors say what to do."""
    with scratch_errors(), tempfile.TemporaryFile(prefix="headrace-", buffering=0) as file:
        return _Scratch(_RawScratch(os.dup(file.fileno()), "r+"))


# What only a write can meet, and what other calls can meet too.
_FULL = {
    errno.ENOSPC: "Free some space and run the same command again; what is finished is kept.",
    errno.EDQUOT: "The disk quota is used up; free some space and run the same command again.",
    errno.EROFS: "The file system is read-only; choose another --out.",
}
_REFUSED = {
    errno.EACCES: "You may not write there; choose another --out or change its permissions.",
    errno.EPERM: "You may not write there; choose another --out or change its permissions.",
    errno.ENOTDIR: "A file stands where a folder is needed; choose another --out.",
    errno.EEXIST: "A file stands where a folder is needed; choose another --out.",
    errno.ENAMETOOLONG: "Choose a shorter --out or a shorter name for the data set.",
    errno.EIO: "The disk, or the way to it, has failed: the system's log says more. Once it is mended, run the same "
    "command again; what is finished is kept.",
}


class ScratchFolder:
    """A temporary folder, gone with its last use or at the end of a block; errors of making it say what to do.

    Attributes:
      name: its path.
    """

    # tempfile.TemporaryDirectory calls itself without end where what is in it may not be removed.

    def __init__(self) -> None:
        with scratch_errors():
            self.name = tempfile.mkdtemp(prefix="headrace-")
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)
        _folders.add(self)

    def remove(self) -> None:
        """Removes it now, as far as that can be."""
        self._finalizer()

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        self.remove()


def remove_scratch() -> None:
    """Removes all temporary folders, for a process that ends without the usual ado."""
    for folder in list(_folders):
        folder.remove()


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Turns what goes wrong with temporary files, which the block only writes, into errors that say what to do."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else None
        raise _no_scratch(error.errno or 0, named) from error


def scratch_error_in(error: Exception) -> HeadraceError | None:
    """The same for an error by which a library tells, in its own words, that a temporary file was refused."""
    text = str(error)
    unnamed = isinstance(error, OSError) and error.filename is None  # of a write, that has no name to tell
    for number in (*_FULL, *_REFUSED):
        ours = number in _FULL or unnamed or tempfile.gettempdir() in text
        if ours and os.strerror(number) in text:
            return _no_scratch(number, None)
    return None


def _no_scratch(number: int, file: str | None) -> HeadraceError:
    return HeadraceError(
        f"Cannot write: {os.strerror(number)}.",
        where=file or tempfile.tempdir,
        hint="Temporary files go there; make room, or set TMPDIR to a folder of another file system, and run the "
        "same command again; what is finished is kept.",
    )


@contextmanager
def clear_errors(path: Path, *, reads_too: bool = False) -> Iterator[None]:
    """Turns the operating system's refusals to write at or below `path` into errors that say what to do.

    With `reads_too` the block reads from elsewhere: what does not name a file below `path`, and could come from
    that, is left as it is.
    """
    try:
        yield
    except OSError as error:
        hint = _FULL.get(error.errno or 0)
        file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        named = Path(file).is_relative_to(path)
        if hint is None and (named or not reads_too):
            hint = _REFUSED.get(error.errno or 0)
        if hint is None:
            raise
        raise HeadraceError(
            f"Cannot write: {os.strerror(error.errno or 0)}.",
            where=file if named else str(path),
            hint=hint,
        ) from error
