"""A cache on disk, filled and read by any number of processes at once. No TensorFlow.

A directory with a file a column. It is filled under a hidden name, a flag a record saying what is there, and gets its
final name when the last record is in. Whoever wants the same values meanwhile takes part in the filling, as do later
runs after a crash; after a crash of the machine, when the flags may be older than the data they stand for, what was
not complete is thrown away: the hidden name holds the kernel's boot id.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from loader.cache import Cache, Column, Store, Values, row_bytes
from loader.plan import Ids
from schemas import HeadraceError
from schemas.hashing import fingerprint
from schemas.units import format_bytes

CACHE_VERSION = 2
_PARTIAL = ".partial-"


def disk_cache(columns: Sequence[Column], records: int, directory: Path, identity: Sequence[object]) -> Cache:
    """The cache in `directory` for `identity`: the one that is there, complete or not, or a new one.

    Args:
      columns: what is kept of an example.
      records: number of examples.
      directory: holds caches; made where it is missing.
      identity: all that decides the values; JSON-able.

    Raises:
      HeadraceError: the directory cannot be written, the disk has no room, or the cache there is damaged.
    """
    layout = [[c.name, c.dtype, *c.shape] for c in columns]
    name = fingerprint(CACHE_VERSION, layout, records, *identity)
    final = directory / f"headrace-{name}"
    if final.is_dir():
        return Cache(_open_stores(final, columns, records, "r"), np.ones(records, bool))
    try:
        partial = _begin(directory, f"{_PARTIAL}{_boot_id()}-{name}", columns, records)
        stores = _open_stores(partial, columns, records, "r+")
        have = np.memmap(partial / "have", dtype=bool, mode="r+", shape=(records,)).view(np.ndarray)
    except OSError as error:
        raise HeadraceError(
            "The disk cache cannot be made.",
            where=str(error.filename or directory),
            value=error.strerror or str(error),
            hint=f"It needs {format_bytes(row_bytes(columns) * records)} or more; name another place with "
            "cache_dir=…, keep less of it with cache_bytes=…, or use no cache.",
        ) from error
    if have.all():  # who stored the last example was killed before it could say so
        _publish(partial, final)
        return Cache(stores, have)
    return Cache(stores, have, complete=lambda: _publish(partial, final))


def _begin(directory: Path, name: str, columns: Sequence[Column], records: int) -> Path:
    """The directory of an incomplete cache, with room for all of it."""
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(f"{_PARTIAL}*"):
        if not left.name.startswith(f"{_PARTIAL}{_boot_id()}-"):
            shutil.rmtree(left, ignore_errors=True)
    partial = directory / name
    partial.mkdir(exist_ok=True)
    with _locked(partial):
        if not (partial / "have").exists():
            for number, column in enumerate(columns):
                _reserve(partial / f"{number}.rows", column.row_bytes * records)
            _reserve(partial / "have.new", records)
            (partial / "have.new").rename(partial / "have")
    return partial


def _publish(partial: Path, final: Path) -> None:
    """Give the complete directory its final name, unless another process did."""
    with contextlib.suppress(FileNotFoundError), _locked(partial):
        for file in partial.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        partial.rename(final)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with open(directory / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _reserve(path: Path, size: int) -> None:
    """A file of `size` bytes with room on the disk: writing to a mapping without room would kill the process."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


def _open_stores(path: Path, columns: Sequence[Column], records: int, mode: str) -> list[Store]:
    stores: list[Store] = []
    for number, column in enumerate(columns):
        file = path / f"{number}.rows"
        heap = column.dtype == "bytes"
        dtype, shape = ("<i8", (2,)) if heap else (column.dtype, column.shape)
        size = file.stat().st_size
        if size != max(column.row_bytes * records, 1):
            raise HeadraceError(
                "A disk cache is damaged: a file has the wrong size.",
                where=str(file),
                value=f"{size} bytes",
                allowed=f"{column.row_bytes * records} bytes",
                hint=f"Remove {path}; it is made again.",
            )
        rows = np.memmap(file, dtype=dtype, mode=mode, shape=(records, *shape))  # type: ignore[call-overload]
        rows = rows.view(np.ndarray)  # indexing a memmap is slower than indexing the array it is
        stores.append(_Heap(rows, path / f"{number}.heap", mode) if heap else rows)
    return stores


class _Heap:
    """A column of bytes: all values one behind the other, and each example's offset and length."""

    def __init__(self, bounds: Values, path: Path, mode: str) -> None:
        self._bounds = bounds
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT if mode == "r+" else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, places: Ids) -> Values:
        out = np.empty(len(places), dtype=object)
        out[:] = [os.pread(self._file, length, offset) for offset, length in self._bounds[places].tolist()]
        return out

    def __setitem__(self, places: Ids, values: Values) -> None:
        lengths = np.array([len(value) for value in values], np.int64)
        # A descriptor of our own, as a lock belongs to one: other threads and processes append too.
        with open(f"/proc/self/fd/{self._file}", "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            start = os.lseek(file.fileno(), 0, os.SEEK_END)
            data = memoryview(b"".join(values))
            while data:
                data = data[file.write(data) :]
        self._bounds[places] = np.stack([start + np.cumsum(lengths) - lengths, lengths], axis=-1)
