"""Examples kept by place, below the plan, so that order and augmentation stay fresh. No TensorFlow.

A tf.data `cache()` behind a shuffle freezes the first epoch's order, and before one it needs a shuffle buffer as
large as the data. Here each example is stored under its place when it is first made, and looked up from then on.

A cache with less room than there are examples keeps the first ones that fit and never replaces any: an epoch takes
every example once, so that no other choice would be asked for more often.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loader.buffers import Buffers
from loader.order import HOLE
from loader.plan import Ids
from schemas import HeadraceError
from schemas.units import format_bytes

CACHES = ("memory", "disk", "auto")
FORMS = ("decoded", "encoded")
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One part of every example: an array of fixed shape, or bytes of any length where `dtype` is "bytes"."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; of bytes of any length, those that say where they are."""
        if self.dtype == "bytes":
            return 16
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=int))


class Store(Protocol):
    """A column of examples by place, as an array has it."""

    def __getitem__(self, places: Ids, /) -> Values: ...

    def __setitem__(self, places: Ids, values: Values, /) -> None: ...


Take = Callable[[Any, Ids], Values]


class Cache:
    """Examples by place. Any number of threads may use it.

    Args:
      stores: a column each.
      have: which examples are stored, bool (n,): those from place n on never are. May be shared with others who fill
        the same stores.
      complete: called once, when all are stored.
    """

    def __init__(
        self, stores: Sequence[Store], have: npt.NDArray[np.bool_], complete: Callable[[], None] | None = None
    ) -> None:
        self._stores, self._have, self._complete = stores, have, complete
        self._buffers = [Buffers() for _ in stores]
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """Examples that it can hold."""
        return len(self._have)

    @property
    def stored(self) -> int:
        """Examples that it holds."""
        return int(np.count_nonzero(self._have))

    def missing(self, places: Ids) -> Ids:
        """Which of the rows `places` are neither stored nor HOLE, int64 (m,)."""
        known = places < len(self._have)
        if known.all():
            known = self._have[places]  # HOLE is the last one here, which does no harm
        else:
            known[known] = self._have[places[known]]
        return np.flatnonzero(~known & (places != HOLE))

    def get(self, places: Ids, takes: Mapping[int, Take] = MappingProxyType({})) -> list[Values]:
        """The columns of these examples, in order; anything for HOLE.

        `takes` are other ways to take places from a store, by number of the column.
        """
        if (places == HOLE).any():
            places = np.maximum(places, 0)
        return [
            takes[number](store, places) if number in takes else _rows(store, buffers, places)
            for number, (store, buffers) in enumerate(zip(self._stores, self._buffers, strict=True))
        ]

    def put(self, places: Ids, values: Sequence[Values]) -> None:
        """Store these examples' columns, as far as there is room."""
        room = places < len(self._have)
        if not room.all():
            places, values = places[room], [value[room] for value in values]
        for store, part in zip(self._stores, values, strict=True):
            store[places] = part
        self._have[places] = True
        with self._lock:
            if self._complete is not None and self._have.all():
                self._complete()
                self._complete = None

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
        for value, known in zip(values, self.get(places[rest]), strict=True):
            both = np.empty((len(places), *value.shape[1:]), value.dtype)
            both[rows], both[rest] = value, known
            out.append(both)
        return [*out, good]


def _rows(store: Store, buffers: Buffers, places: Ids) -> Values:
    if not isinstance(store, np.ndarray) or store.dtype == object:
        return store[places]
    out = buffers.take((len(places), *store.shape[1:]), store.dtype)
    # All places are there, so nothing is clipped; without this, take() makes a copy first.
    return np.take(store, places, axis=0, out=out, mode="clip")


def memory_cache(columns: Sequence[Column], records: int) -> Cache:
    """An empty cache in memory, which fills as examples come by.

    Raises:
      HeadraceError: it cannot fit into this machine's memory.
    """
    need, have = row_bytes(columns) * records, _memory("MemTotal")
    if need > 0.9 * have:
        raise HeadraceError(
            "The decoded examples do not fit into memory.",
            where="cache='memory'",
            value=format_bytes(need),
            allowed=f"90 % of {format_bytes(have)}",
            hint="Use cache='disk', keep only some of them with cache_bytes=…, or a smaller image_size.",
        )
    stores: list[Store] = [
        np.full(records, b"", object) if c.dtype == "bytes" else np.empty((records, *c.shape), c.dtype)
        for c in columns
    ]
    return Cache(stores, np.zeros(records, bool))


def row_bytes(columns: Sequence[Column]) -> int:
    """Bytes of an example, without those of any length."""
    return sum(column.row_bytes for column in columns)


def choose(
    decoded: int | None, encoded: int | None, directory: Path, *, remote: bool
) -> tuple[str, str] | None:
    """What cache="auto" stands for: where and in which form the examples are kept, or None for no cache.

    Decoded in memory if that takes no more than half of what is free there; else decoded on disk, by the same rule;
    else, of remote data, as they are stored, on disk or in memory. What is read from local files and does not fit
    decoded is not cached: the operating system keeps as much of the files in memory as there is room.

    Args:
      decoded: bytes of all examples decoded; None if they have no common size.
      encoded: bytes of all examples as they are stored; None if they are not to be kept so.
      directory: of caches on disk.
      remote: whether the data set lies elsewhere.
    """
    memory, disk = _memory("MemAvailable") // 2, _free(directory) // 2
    for form, need in (("decoded", decoded), ("encoded", encoded if remote else None)):
        if need is not None and need <= memory:
            return "memory", form
        if need is not None and need <= disk:
            return "disk", form
    return None


def _memory(kind: str) -> int:
    """Bytes of memory by name, as /proc/meminfo and the control group have it."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    amount = next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text("ascii").strip()
        used = int((group / "memory.current").read_text("ascii")) if kind == "MemAvailable" else 0
    except OSError:
        return amount  # no control group of our own: the machine's memory is ours
    return amount if limit == "max" else min(amount, max(int(limit) - used, 0))


def _free(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
