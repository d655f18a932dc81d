"""A data set written to a directory; see `Store`."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beam_jobs.files import (
    atomic_file,
    begin_flush,
    clear_errors,
    link,
    sync_directory,
    write_all,
    write_parts,
)
from beam_jobs.lock import exclusive
from beam_jobs.store import Part, Sink, in_the_way, published_meanwhile
from beam_jobs.store_lock import LOCK, MAX_LOCK_BYTES, WORK, lost, token_of
from schemas.naming import MANIFEST
from schemas.storage import too_large

_FLUSHED_BYTES = 8 << 20


class LocalStore:
    """A directory of this machine, or one that all workers mount.

    Args:
      root: of the data set.
      token: of the lock that the job holds.
    """

    durable = False

    def __init__(self, root: Path, token: str | None = None) -> None:
        self._root, self._token = root, token

    def where(self, path: str) -> str:
        """See `Store`."""
        return str(self._root / path)

    def local(self, path: str) -> str | None:
        """See `Store`."""
        return self._name(path)

    def size(self, path: str) -> int | None:
        """See `Store`."""
        try:
            return os.stat(self._name(path)).st_size  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str, limit: int) -> bytes:
        """See `Store`."""
        with open(self._name(path), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise too_large(self.where(path), size, limit)
            return file.read()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Store`."""
        data = bytearray(length)
        self.fill([(path, start, memoryview(data))])
        return bytes(data)

    def fill(self, parts: Sequence[Part]) -> None:
        """See `Store`."""
        for path, offset, target in parts:
            # One open a range: the thousands of runs of a large job are more than may be open at a time.
            file = os.open(self._name(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                done = 0
                while done < len(target):
                    count = os.preadv(file, [target[done:]], offset + done)
                    if not count:
                        raise OSError(f"{self.where(path)} ends before byte {offset + len(target)}")
                    done += count
            finally:
                os.close(file)

    @contextmanager
    def writing(self, path: str, *, durable: bool) -> Iterator[Sink]:
        """See `Store`."""
        target = self._root / path
        with clear_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target, durable=durable) as file:
            yield _LocalSink(file, durable=durable)
            self._check_lock()

    def write(self, path: str, data: bytes, *, durable: bool) -> None:
        """See `Store`."""
        with self.writing(path, durable=durable) as sink:
            sink.write(data)

    def copy(self, source: str, target: str) -> None:
        """See `Store`."""
        self._check_lock()
        link(self._root / source, self._root / target)

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        top = str(self._root / prefix)
        return sorted(
            f"{folder[len(top) :]}/{name}"[1:]
            for folder, _, names in os.walk(top)
            for name in names
            if not _is_temporary(name)
        )

    def delete(self, path: str) -> None:
        """See `Store`."""
        self._check_lock()
        with clear_errors(self._root):
            (self._root / path).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        """See `Store`."""
        self._check_lock()
        with clear_errors(self._root):
            if (self._root / prefix).exists():
                shutil.rmtree(self._root / prefix)

    def tidy(self) -> None:
        """See `Store`."""
        with clear_errors(self._root):
            for leftover in self._root.rglob(".*.tmp"):
                leftover.unlink(missing_ok=True)

    @property
    def lock_file(self) -> Path | None:
        """See `Store`."""
        return self._root / LOCK

    @contextmanager
    def exclusive(self) -> Iterator[LocalStore]:
        """See `Store`."""
        token = secrets.token_hex(8)
        with exclusive(self._root / LOCK, token):
            yield LocalStore(self._root, token)

    def stage(self, version: str) -> str:
        """See `Store`."""
        return f"{WORK}/stage-{version}"

    def prepare(self, version: str) -> None:
        """See `Store`."""
        if (self._root / version).exists():
            raise in_the_way(self.where(version))
        with clear_errors(self._root / self.stage(version)):
            (self._root / self.stage(version)).mkdir(parents=True, exist_ok=True)

    def publish(self, version: str, manifest: bytes) -> None:
        """See `Store`."""
        stage, final = self._root / self.stage(version), self._root / version
        self.write(f"{self.stage(version)}/{MANIFEST}", manifest, durable=True)
        for directory in {path.parent for path in stage.rglob("*")}:
            sync_directory(directory)
        with clear_errors(final):
            try:
                stage.rename(final)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                raise published_meanwhile(str(final)) from error
        sync_directory(self._root)

    def _name(self, path: str) -> str:
        # A large job reads a hundred thousand ranges, and joining Paths costs as much as reading them.
        return f"{self._root}/{path}"

    def _check_lock(self) -> None:
        """Raises an error unless the lock file names our job, where we are a job's."""
        if self._token is None:
            return
        try:
            content = self.read(LOCK, MAX_LOCK_BYTES)
        except FileNotFoundError:
            content = b""
        if token_of(content) != self._token:
            raise lost(str(self._root))


class _LocalSink(Sink):
    def __init__(self, file: Any, *, durable: bool) -> None:
        self._file, self._durable = file, durable
        self._flushed = 0  # to where the disk has been told to begin

    def write(self, data: Any, /) -> int:
        write_all(self._file, data)
        self._flush_pieces()
        return memoryview(data).nbytes

    def writev(self, parts: Sequence[Any]) -> None:
        write_parts(self._file, parts)
        self._flush_pieces()

    def tell(self) -> int:
        return int(self._file.tell())

    def begin_flush(self) -> None:
        size = self.tell() - self._flushed
        begin_flush(self._file, self._flushed, size)
        self._flushed += size

    def _flush_pieces(self) -> None:
        if self._durable and self.tell() - self._flushed >= _FLUSHED_BYTES:
            self.begin_flush()


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")
