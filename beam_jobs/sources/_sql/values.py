"""A column of a chunk while its values come as Python's objects, each of which may be of another type."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._batches import any_cut
from beam_jobs.sources._sql.statements import ARROW, Column
from beam_jobs.sources.base import Fault
from schemas.errors import shorten

_RAW_BYTES = 1 << 10
_EXACT = float(1 << 53)  # whole numbers below it are floats without loss
_NUMBERS = {"int64": "q", "uint64": "Q", "float64": "d"}  # as `struct` and NumPy name them
_PACKED_TEXT_BYTES = 1 << 20


class Values:
    """The values of some rows: packed as they come, and from the first that cannot be on as a list."""

    def __init__(self, column: Column, most_rows: int) -> None:
        self._column = column
        self._packed = _packed(column.kind, most_rows)
        self._values: list[Any] = []

    def extend(self, values: Sequence[Any]) -> int:
        """Those of some more rows; about how many bytes they have."""
        if self._packed is not None:
            size = self._packed.add(values)
            if size is not None:
                return size
            self._values = self._packed.values()
            self._packed = None
        self._values.extend(values)
        return 8 * len(values) + self._size(values)

    def _size(self, values: Sequence[Any]) -> int:
        try:
            if self._column.kind in _NUMBERS:
                # Only numbers have a sum, which tells in half the time that a look at each type takes.
                sum(filter(None, values))
                return 0
            return sum(map(len, filter(None, values)))
        except TypeError:  # numbers and texts
            return sum(len(value) for value in values if isinstance(value, str | bytes))

    def array(self, faults: dict[int, Fault]) -> pa.Array:
        """All of them; one that is not of the column's type is null, and a fault of its row."""
        if self._packed is not None:
            return self._packed.array()
        kind = ARROW[self._column.kind]
        try:
            if not any_cut(self._values, kind):
                return pa.array(self._values, kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            pass  # each is looked at
        checked = [_checked(row, value, self._column, faults) for row, value in enumerate(self._values)]
        return pa.array(checked, kind)

    def end(self, row: int, array: pa.Array) -> Any:
        """The value of the first row or of the last (0, -1), also where it is a fault; `array` is what they became."""
        return array[row].as_py() if self._packed is not None else self._values[row]


class _Packed(Protocol):
    def add(self, values: Sequence[Any], /) -> int | None:
        """How many bytes they have, or none if they cannot be packed: then none of them is added."""
        ...

    def values(self) -> list[Any]: ...

    def array(self) -> pa.Array: ...


def _packed(kind: str, most_rows: int) -> _Packed | None:
    if kind in _NUMBERS:
        return _Numbers(_NUMBERS[kind], most_rows)
    return _Texts(most_rows) if kind in ("string", "text") else None


class _Numbers:
    """Whole numbers or floats, in a third of the time that Arrow takes for a list of them."""

    def __init__(self, format_: str, most_rows: int) -> None:
        self._rows = 0
        self._format = format_
        self._numbers = np.empty(most_rows, format_)
        self._buffer = self._numbers.data

    def add(self, values: Sequence[Any]) -> int | None:
        start, stop = self._rows, self._rows + len(values)
        try:
            struct.pack_into(f"{len(values)}{self._format}", self._buffer, 8 * start, *values)
        except (struct.error, OverflowError):  # a null, or what does not belong there
            return None
        if self._format == "d":
            added = self._numbers[start:stop]
            if not np.vdot(added, added) < _EXACT**2:  # a whole number among them may have lost digits
                return None
        self._rows = stop
        return 8 * len(values)

    def values(self) -> list[Any]:
        found: list[Any] = self._numbers[: self._rows].tolist()
        return found

    def array(self) -> pa.Array:
        return pa.array(self._numbers[: self._rows])


class _Texts:
    """Text of ASCII, whose characters are its bytes, in two thirds of the time that Arrow takes for a list."""

    def __init__(self, most_rows: int) -> None:
        self._rows = 0
        self._lengths = np.empty(most_rows, np.int32)
        self._buffer = self._lengths.data
        self._pieces: list[bytes] = []

    def add(self, values: Sequence[Any]) -> int | None:
        try:
            piece = "".join(values)
        except TypeError:  # a null, or what does not belong there
            return None
        if not piece.isascii() or len(piece) > _PACKED_TEXT_BYTES:  # larger ones would be copied once more
            return None
        struct.pack_into(f"{len(values)}i", self._buffer, 4 * self._rows, *map(len, values))
        self._pieces.append(piece.encode())
        self._rows += len(values)
        return 8 * len(values) + len(piece)

    def values(self) -> list[Any]:
        text, offsets = b"".join(self._pieces).decode(), self._offsets().tolist()
        return [text[start:stop] for start, stop in pairwise(offsets)]

    def array(self) -> pa.Array:
        text = pa.py_buffer(b"".join(self._pieces))
        return pa.StringArray.from_buffers(self._rows, pa.py_buffer(self._offsets()), text)

    def _offsets(self) -> npt.NDArray[np.int32]:
        offsets = np.zeros(self._rows + 1, np.int32)
        np.cumsum(self._lengths[: self._rows], out=offsets[1:])
        return offsets


def _checked(row: int, value: Any, column: Column, faults: dict[int, Fault]) -> Any:
    kind = ARROW[column.kind]
    try:
        pa.scalar(value, kind)
        fits = not any_cut([value], kind)
    except UnicodeEncodeError:
        faults.setdefault(row, no_text(row, column, value.encode("utf-8", "surrogateescape")))
        return None
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        fits = False
    if fits:
        return value
    reason = f"column {column.name!r}: {shorten(repr(value), 80)} is no {column.kind}"
    faults.setdefault(row, Fault(row, "bad_type", reason))
    return None


def no_text(row: int, column: Column, raw: bytes) -> Fault:
    """A fault of a row: bytes of the column that are no UTF-8."""
    reason = f"column {column.name!r} is no UTF-8: CAST it, or mend it"
    return Fault(row, "bad_encoding", reason, raw[:_RAW_BYTES])
