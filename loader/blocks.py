"""Blocks of small records: read once, checked when they arrive, and kept until every record is taken.

A table's shuffled epoch takes each block's records one here, one there, by hundreds of thousands a second, so nothing
here is done record by record: what is handed out is where each lies in the bytes that were read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from mmap import mmap

import numpy as np
import numpy.typing as npt

from loader.records import Records

Ids = npt.NDArray[np.int64]
Intact = npt.NDArray[np.bool_]
Read = tuple[bytes | mmap, Ids, Ids, Intact]
"""Bytes of several blocks, where in them each begins and ends, and which of their records are intact, (blocks, size)"""


class Blocks:
    """Records by id, a block of `size` neighbours at a time. Any number of threads may use it.

    Args:
      records: of the split.
      size: records of a block.
      capacity: most bytes of blocks that are kept; the oldest go first, and are read again if need be.
      read: reads blocks.
      inside: where records, by id, begin and end behind the beginning of their block.
    """

    def __init__(
        self,
        records: int,
        size: int,
        capacity: int,
        read: Callable[[Ids], Read],
        inside: Callable[[Ids], tuple[Ids, Ids]],
    ) -> None:
        self._count, self._size, self._capacity = records, size, capacity
        self._read, self._inside = read, inside
        self.bytes = 0  # of the blocks that are kept
        self._lock = threading.Lock()  # of all that follows; never held while bytes are read
        self._slot_of = np.full(-(-records // size), -1, np.int32)  # -1: not here and not on its way
        self._intact = np.zeros((0, size), bool)  # of each slot, as what follows
        self._block = np.zeros(0, np.int64)
        self._buffer = np.zeros(0, np.int64)  # the number of the buffer that holds it
        self._base = np.zeros(0, np.int64)  # where in that it begins
        self._left = np.zeros(0, np.int64)  # records that nobody has taken
        self._users = np.zeros(0, np.int64)  # calls that are about to take some
        self._bytes = np.zeros(0, np.int64)
        self._age = np.zeros(0, np.int64)
        self._free: list[int] = []
        self._clock = 0
        self._coming: dict[int, _Call] = {}  # by slot
        self._buffers: dict[int, bytes | mmap] = {}  # those that hold a block that is kept, by number
        self._kept: dict[int, int] = {}  # how many of those, by number

    def take(self, ids: Ids) -> tuple[Records, Intact]:
        """The frames of the records `ids`, and which of them are intact, bool (n,)."""
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
            lows, highs = self._inside(ids)
            with self._lock:
                of = slots[inverse]
                held, number = np.unique(self._buffer[of], return_inverse=True)
                base = self._base[of]
                frames = Records(
                    [self._buffers[number] for number in held.tolist()],
                    np.stack([number, base + lows, base + highs], axis=-1),
                )
                intact = self._intact[of, ids - numbers[inverse] * self._size]
                self._left[slots] -= counts
        finally:
            with self._lock:
                self._users[slots] -= 1
                self._release(slots)
        return frames, intact

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
            data, lows, highs, intact = self._read(missing)
        except BaseException as error:
            with self._lock:  # so that the next call tries again
                self._slot_of[missing] = -1
                self._left[slots] = 0
                call.error = error
            raise
        else:
            with self._lock:
                number = self._clock
                self._buffers[number], self._kept[number] = data, len(slots)
                self._buffer[slots], self._base[slots] = number, lows
                self._intact[slots] = intact
                self._bytes[slots] = highs - lows
                self.bytes += int(self._bytes[slots].sum())
                self._clock += 1
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
        full = slots[self._bytes[slots] > 0]
        self._bytes[slots] = 0
        for number, count in zip(
            *map(np.ndarray.tolist, np.unique(self._buffer[full], return_counts=True)), strict=True
        ):
            self._kept[number] -= count
            if not self._kept[number]:
                del self._buffers[number], self._kept[number]
        self._free += slots.tolist()

    def _grow(self, more: int) -> None:
        first = len(self._block)
        more = max(more, first, 64)
        self._intact = np.concatenate([self._intact, np.zeros((more, self._size), bool)])
        zeros = np.zeros(more, np.int64)
        self._block, self._buffer, self._base, self._left, self._users, self._bytes, self._age = (
            np.concatenate([old, zeros])
            for old in (
                self._block,
                self._buffer,
                self._base,
                self._left,
                self._users,
                self._bytes,
                self._age,
            )
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
