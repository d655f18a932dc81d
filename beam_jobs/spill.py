"""Rows of one type, dealt to ranges of a number that they hold: how all records are looked at in bounded memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from beam_jobs.files import scratch_file

ROWS_HELD = 1 << 19  # of a range, about
_BYTES_HELD = 64 << 20  # before rows go to a file

Rows = npt.NDArray[np.void]


class Spill:
    """Rows, taken in any order and given back range by range; in a temporary file where they are many.

    A context manager: the file is gone at its end.
    """

    def __init__(self, row: np.dtype[Any], expected: int, held: int = ROWS_HELD) -> None:
        """`expected` rows, about, whose numbers are spread evenly over all of uint64; `held` of them at a time."""
        self._row = row
        self._ranges = max(1, -(-expected // held))
        self._file: BinaryIO = io.BytesIO()
        self._parts: list[list[tuple[int, int]]] = [[] for _ in range(self._ranges)]

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rows: Rows, numbers: npt.NDArray[np.uint64]) -> None:
        """Takes rows, (n,), with the numbers that they are sorted by."""
        # 32 bits of the number are enough to choose the range, and their product fits 64.
        ranges = (numbers >> np.uint64(32)) * np.uint64(self._ranges) >> np.uint64(32)
        order = np.argsort(ranges, kind="stable")
        bounds = np.searchsorted(ranges[order], np.arange(self._ranges + 1, dtype=np.uint64))
        data = np.ascontiguousarray(rows[order])
        at = self._file.seek(0, 2)
        self._file.write(data.tobytes())
        if isinstance(self._file, io.BytesIO) and self._file.tell() > _BYTES_HELD:
            held, self._file = self._file, scratch_file()
            self._file.write(held.getbuffer())
        size = self._row.itemsize
        for number, (low, high) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if high > low:
                self._parts[number].append((at + low * size, (high - low) * size))

    def ranges(self) -> Iterator[Rows]:
        """The rows of each range, from the smallest numbers to the largest; within one in no order that counts."""
        for parts in self._parts:
            yield np.concatenate([np.zeros(0, self._row), *map(self._read, parts)], dtype=self._row)

    def _read(self, part: tuple[int, int]) -> Rows:
        self._file.seek(part[0])
        return np.frombuffer(self._file.read(part[1]), self._row)
