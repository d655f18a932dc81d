"""Decoded examples kept by record, below the plan, so that order and augmentation stay fresh. No TensorFlow.

A tf.data `cache()` behind a shuffle freezes the first epoch's order, and before one it needs a shuffle buffer as
large as the data. Here each example is stored under its id when it is first decoded, and looked up from then on.

On disk a cache is a directory with a file a column, written aside and renamed when the last example is in: it is
there whole or not at all. Every process that reads the same version with the same decoding maps the same files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.order import HOLE
from loader.plan import Ids
from schemas import HeadraceError
from schemas.hashing import fingerprint
from schemas.units import format_bytes

CACHES = ("memory", "disk")
CACHE_VERSION = 1
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One part of every example: an array of fixed shape, or bytes of any length where `dtype` is "bytes"."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the column's own file."""
        return (
            16
            if self.dtype == "bytes"
            else int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=int))
        )


class Cache:
    """Examples by id. Any number of threads may use it."""

    def __init__(self, columns: Sequence[Column], records: int, stores: Sequence[_Store], full: bool) -> None:
        self._columns, self._stores = columns, stores
        self._have = np.full(records, full)
        self._missing = 0 if full else records
        self._lock = threading.Lock()
        self._partial: _Partial | None = None

    def missing(self, places: Ids) -> Ids:
        """Which of the rows `places` are neither stored nor HOLE, int64 (m,)."""
        return np.flatnonzero(~self._has(places) & (places != HOLE))

    def get(self, places: Ids) -> list[Values]:
        """The columns of these examples, in order; anything for HOLE."""
        if (places == HOLE).any():
            places = np.where(places == HOLE, 0, places)
        return [store.get(places) for store in self._stores]

    def put(self, places: Ids, values: Sequence[Values]) -> None:
        """Store these examples' columns, as far as there is room; the last one completes the cache."""
        room = places < len(self._have)
        if not room.all():
            places, values = places[room], [value[room] for value in values]
        for store, part in zip(self._stores, values, strict=True):
            store.put(places, part)
        with self._lock:
            self._missing -= int(np.count_nonzero(~self._have[places]))
            self._have[places] = True
            if self._missing == 0 and self._partial is not None:
                self._partial.publish()
                self._partial = None

    def fill(self, places: Ids, rows: Ids, valid: Values, *values: Values) -> list[Values]:
        """Store what was missing, and give all that was asked for.

        Args:
          places: asked for.
          rows: which of them were missing.
          valid: which of those could be made; others are not stored.
          values: their columns.

        Returns:
          The columns of `places`, and which of these are valid, bool (n,).
        """
        self.put(places[rows[valid]], [value[valid] for value in values])
        good = places != HOLE
        good[rows[~valid]] = False
        if len(rows) == len(places):
            return [*values, good]
        rest = np.setdiff1d(np.arange(len(places)), rows)
        out = []
        for store, value in zip(self._stores, values, strict=True):
            both = np.empty((len(places), *value.shape[1:]), value.dtype)
            both[rows] = value
            both[rest] = store.get(np.maximum(places[rest], 0))
            out.append(both)
        return [*out, good]

    def _has(self, places: Ids) -> Values:
        known = (places >= 0) & (places < len(self._have))
        known[known] = self._have[places[known]]
        return known


def memory_cache(columns: Sequence[Column], records: int) -> Cache:
    """An empty cache in memory, which fills as examples come by.

    Raises:
      HeadraceError: it cannot fit into this machine's memory.
    """
    need = sum(column.row_bytes for column in columns) * records
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > 0.9 * have:
        raise HeadraceError(
            "The decoded examples do not fit into memory.",
            where="cache='memory'",
            value=format_bytes(need),
            allowed=f"90 % of {format_bytes(have)}",
            hint="Use cache='disk', a smaller image_size, or no cache.",
        )
    stores = [_Objects(records) if c.dtype == "bytes" else _Rows(_empty(c, records)) for c in columns]
    return Cache(columns, records, stores, full=False)


def disk_cache(columns: Sequence[Column], records: int, directory: Path, identity: Sequence[object]) -> Cache:
    """The cache in `directory` for `identity`: the complete one that is there, or a new one that fills.

    Args:
      columns: what is kept of an example.
      records: number of examples.
      directory: holds caches; made where it is missing.
      identity: all that decides the values; JSON-able.

    Raises:
      HeadraceError: the directory cannot be written, or the disk has no room.
    """
    layout = [[c.name, c.dtype, *c.shape] for c in columns]
    final = directory / f"headrace-{fingerprint(CACHE_VERSION, layout, records, *identity)}"
    if final.is_dir():
        return Cache(columns, records, _open_stores(final, columns, records, "r"), full=True)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = _Partial(Path(tempfile.mkdtemp(prefix=".partial-", dir=directory)), final)
        for number, column in enumerate(columns):
            _reserve(partial.path / f"{number}.rows", column.row_bytes * records)
        stores = _open_stores(partial.path, columns, records, "r+")
    except OSError as error:
        need = format_bytes(sum(column.row_bytes for column in columns) * records)
        raise HeadraceError(
            "The disk cache cannot be made.",
            where=str(error.filename or directory),
            value=error.strerror or str(error),
            hint=f"It needs {need} or more; name another place with cache_dir=…, or use no cache.",
        ) from error
    cache = Cache(columns, records, stores, full=False)
    cache._partial = partial
    return cache


class _Partial:
    """A cache directory that is not complete yet; removed with its owner unless it is published before."""

    def __init__(self, path: Path, final: Path) -> None:
        self.path, self.final = path, final
        self._remove = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)

    def publish(self) -> None:
        """Give the complete directory its final name; where another process was faster, its cache stays."""
        with contextlib.suppress(OSError):
            for file in self.path.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            self.path.rename(self.final)
            self._remove.detach()


class _Rows:
    """A column of fixed shape."""

    def __init__(self, rows: Values) -> None:
        self._rows = rows

    def get(self, ids: Ids) -> Values:
        return self._rows[ids]

    def put(self, ids: Ids, values: Values) -> None:
        self._rows[ids] = values


class _Objects:
    """A column of bytes in memory."""

    def __init__(self, records: int) -> None:
        self._objects = np.full(records, b"", dtype=object)

    def get(self, ids: Ids) -> Values:
        return self._objects[ids]

    def put(self, ids: Ids, values: Values) -> None:
        self._objects[ids] = values


class _Heap:
    """A column of bytes on disk: all values one behind the other, and each example's offset and length."""

    def __init__(self, bounds: Values, path: Path, mode: str) -> None:
        self._bounds = bounds
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT if mode == "r+" else os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._lock = threading.Lock()

    def get(self, ids: Ids) -> Values:
        out = np.empty(len(ids), dtype=object)
        out[:] = [os.pread(self._file, length, offset) for offset, length in self._bounds[ids].tolist()]
        return out

    def put(self, ids: Ids, values: Values) -> None:
        lengths = np.array([len(value) for value in values], np.int64)
        with self._lock:
            start = os.lseek(self._file, 0, os.SEEK_END)
            data = memoryview(b"".join(values))
            while data:
                data = data[os.write(self._file, data) :]
        self._bounds[ids] = np.stack([start + np.cumsum(lengths) - lengths, lengths], axis=-1)


_Store = _Rows | _Objects | _Heap


def _open_stores(path: Path, columns: Sequence[Column], records: int, mode: str) -> list[_Store]:
    stores: list[_Store] = []
    for number, column in enumerate(columns):
        file = path / f"{number}.rows"
        heap = column.dtype == "bytes"
        dtype, shape = ("<i8", (2,)) if heap else (column.dtype, column.shape)
        if file.stat().st_size != column.row_bytes * records:
            raise HeadraceError(
                "A disk cache is damaged: a file has the wrong size.",
                where=str(file),
                value=f"{file.stat().st_size} bytes",
                allowed=f"{column.row_bytes * records} bytes",
                hint=f"Remove {path}; it is made again.",
            )
        rows = np.memmap(file, dtype=dtype, mode=mode, shape=(records, *shape))  # type: ignore[call-overload]
        rows = rows.view(np.ndarray)  # indexing a memmap is slower than indexing the array it is
        stores.append(_Heap(rows, path / f"{number}.heap", mode) if heap else _Rows(rows))
    return stores


def _reserve(path: Path, size: int) -> None:
    """A file of `size` bytes with room on the disk: writing to a mapping without room would kill the process."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


def _empty(column: Column, records: int) -> Values:
    return np.empty((records, *column.shape), dtype=column.dtype)
