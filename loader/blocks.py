"""Blocks of small records: read once, cut and checked when they arrive, and kept until every record is taken.

A table's shuffled epoch takes each block's records one here, one there, by hundreds of thousands a second, so nothing
here is done record by record but cutting and the CRC, and those where the bytes still lie side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Records = npt.NDArray[np.object_]


class Blocks:
    """Records by id, a block of `size` neighbours at a time. Any number of threads may use it.

    Args:
      records: of the split.
      size: records of a block.
      capacity: most bytes of blocks that are kept; the oldest go first, and are read again if need be.
      read: gives the records of blocks, in their order, each bytes or None; and the bytes of each block.
    """

    def __init__(
        self, records: int, size: int, capacity: int, read: Callable[[Ids], tuple[Records, Ids]]
    ) -> None:
        self._count, self._size, self._capacity, self._read = records, size, capacity, read
        self.bytes = 0  # of the blocks that are kept
        self._lock = threading.Lock()  # of all that follows; never held while bytes are read
        self._slot_of = np.full(-(-records // size), -1, np.int32)  # -1: not here and not on its way
        self._slots = np.empty((0, size), dtype=object)
        self._block = np.zeros(0, np.int64)  # of each slot, as what follows
        self._left = np.zeros(0, np.int64)  # records that nobody has taken
        self._users = np.zeros(0, np.int64)  # calls that are about to take some
        self._bytes = np.zeros(0, np.int64)
        self._age = np.zeros(0, np.int64)
        self._free: list[int] = []
        self._clock = 0
        self._coming: dict[int, _Call] = {}  # by slot

    def take(self, ids: Ids) -> Records:
        """The records `ids`, object (n,): what `read` gave."""
        numbers, inverse, counts = np.unique(ids // self._size, return_inverse=True, return_counts=True)
        own = _Call()
        with self._lock:
            missing = numbers[self._slot_of[numbers] < 0]
            fresh = self._claim(missing, own)
            slots = self._slot_of[numbers].astype(np.int64)
            self._users[slots] += 1
            others = {self._coming[s] for s in slots.tolist() if s in self._coming} if self._coming else set()
        try:
            if len(missing):
                self._fill(missing, fresh, own)
            for call in others - {own}:
                call.wait()
            with self._lock:
                found = self._slots[slots[inverse], ids - numbers[inverse] * self._size]
                self._left[slots] -= counts
        finally:
            with self._lock:
                self._users[slots] -= 1
                self._release(slots)
        return found

    def _claim(self, missing: Ids, call: _Call) -> Ids:
        """Slots for blocks that `call` is going to read."""
        if len(missing) > len(self._free):
            self._grow(len(missing) - len(self._free))
        slots = np.array([self._free.pop() for _ in missing], np.int64)
        self._slot_of[missing] = slots
        self._block[slots] = missing
        self._left[slots] = np.minimum((missing + 1) * self._size, self._count) - missing * self._size
        self._bytes[slots] = 0
        self._age[slots] = self._clock + np.arange(len(slots))
        self._clock += len(slots)
        self._coming.update(dict.fromkeys(slots.tolist(), call))
        return slots

    def _fill(self, missing: Ids, slots: Ids, call: _Call) -> None:
        try:
            records, sizes = self._read(missing)
        except BaseException as error:
            with self._lock:  # so that the next call tries again
                self._slot_of[missing] = -1
                self._left[slots] = 0
                call.error = error
            raise
        else:
            with self._lock:
                ids = (missing[:, None] * self._size + np.arange(self._size)) < self._count
                block = np.empty(ids.shape, dtype=object)
                block[ids] = records
                self._slots[slots] = block
                self._bytes[slots] = sizes
                self.bytes += int(sizes.sum())
        finally:
            with self._lock:
                for slot in slots.tolist():
                    del self._coming[slot]
            call.done.set()

    def _release(self, slots: Ids) -> None:
        """Let go of blocks of which every record has been taken, and of the oldest if there are too many."""
        self._drop(slots[(self._left[slots] <= 0) & (self._users[slots] == 0)])
        if self.bytes > self._capacity:
            kept = np.flatnonzero((self._bytes > 0) & (self._users == 0))
            kept = kept[np.argsort(self._age[kept])]
            over = self.bytes - self._capacity
            self._drop(kept[: int(np.searchsorted(np.cumsum(self._bytes[kept]), over)) + 1])

    def _drop(self, slots: Ids) -> None:
        if not len(slots):
            return
        here = slots[self._slot_of[self._block[slots]] == slots]
        self._slot_of[self._block[here]] = -1
        self.bytes -= int(self._bytes[slots].sum())
        self._bytes[slots] = 0
        self._slots[slots] = None
        self._free += slots.tolist()

    def _grow(self, more: int) -> None:
        first = len(self._block)
        more = max(more, first, 64)
        self._slots = np.concatenate([self._slots, np.empty((more, self._size), dtype=object)])
        zeros = np.zeros(more, np.int64)
        self._block, self._left, self._users, self._bytes, self._age = (
            np.concatenate([old, zeros])
            for old in (self._block, self._left, self._users, self._bytes, self._age)
        )
        self._free += range(first, first + more)


class _Call:
    """The reads that one call has begun; other calls wait for them."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None

    def wait(self) -> None:
        self.done.wait()
        if self.error is not None:
            raise self.error
