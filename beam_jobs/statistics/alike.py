"""Features that lie at the same places in all records of a block: taken and compared many at a time.

What the first record has from some place on is the pattern. One gather takes as many bytes of each record, and the
AND and the OR of all of them tell which bytes are the same everywhere: those of the form have to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beam_jobs.pieces import SPARE

WIDEST = SPARE  # bytes that are compared together: as many must lie behind the records
_MOST_VALUE_BYTES = 256
_MOST_WORD_BYTES = 32
_PIECE_BYTES = 1 << 20  # taken at a time
_ALL = np.uint64((1 << 64) - 1)
_FOLDED = 16  # records side by side: numpy reduces long rows faster than short ones
VARINT_BYTES = 10  # of the longest whole number
_MORE = 0x80  # of a byte of a varint that is not its last one
_MORE_BITS = np.uint64(0x8080808080808080)
# The first bytes of a little-endian word, by how many.
_FIRST_BYTES = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(VARINT_BYTES + 1)], np.uint64)
_LOWER_HALVES = np.array([0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF], np.uint64)

Kind = Literal["bytes", "float32", "int64"]
Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slot:
    """Where a feature lies behind the place at which a pattern begins.

    Attributes:
      kind: how it is stored.
      start, size: of its value: float32, the bytes of one varint, or those of an item.
      end: of all of it.
    """

    kind: Kind
    start: int
    size: int
    end: int

    def room(self, records: int) -> npt.NDArray[Any] | None:
        """Memory for the values of some records, a row for each: numbers, or the words of short bytes."""
        if self.kind == "float32":
            return np.empty((records, self.size // 4), np.float32)
        if self.kind == "int64":
            return np.empty(records, np.int64)
        return (
            np.empty((records, -(-max(self.size, 1) // 8)), np.uint64)
            if self.size <= _MOST_WORD_BYTES
            else None
        )

    def fill(self, room: npt.NDArray[Any], rows: Bytes) -> None:
        """Puts the values of as many records in `room`; `rows` are their bytes, and eight more."""
        if self.kind == "float32":
            room[:] = floats(rows, self.start, self.size)
        elif self.kind == "bytes":
            room[:] = np.ndarray(room.shape, "<u8", rows.data, self.start, (rows.strides[0], 8))
        else:
            digits = [rows[:, self.start + place] & np.uint8(_MORE - 1) for place in range(self.size)]
            room[:] = digits[0]
            for place, digit in enumerate(digits[1:], 1):
                room |= digit.astype(np.int64) << 7 * place


class Pattern:
    """What features of the first record look like, one after the other, and which bits of them are their form.

    Attributes:
      slots: where each of them lies.

    Args:
      data: holds the first record.
      place: where in it the first of the features begins.
      stop: where the record ends.
    """

    def __init__(self, data: Bytes, place: int, stop: int) -> None:
        self.slots: list[Slot] = []
        self._data, self._begin, self._place, self._stop = data, place, place, stop
        self._form = bytearray()

    def add(self, key: bytes, tag: int, kind: Kind, count: int) -> bool:
        """Adds the next feature; False, and adds nothing, where it is not there, or none of few bytes.

        Args:
          key: all that lies between the sizes of the entry and of its value.
          tag: of its list.
          kind, count: what its values are, and how many it has.
        """
        found = _value(self._data, self._place, self._stop, key, tag)
        if found is None:
            return False
        first, size, end = found
        if size > _MOST_VALUE_BYTES or end - self._begin > WIDEST - 16:
            return False
        if kind == "float32" and size != 4 * count:
            return False
        if kind == "int64" and not _is_varint(self._data[first:end].tobytes()):
            return False
        self.slots.append(Slot(kind, first - self._begin, size, end - self._begin))
        # Of a whole number the bits that say how many bytes it has.
        self._form += b"\xff" * (first - self._place) + bytes([_MORE if kind == "int64" else 0]) * size
        self._place = end
        return True

    def match(self, data: Bytes, places: Places) -> tuple[int, list[npt.NDArray[Any] | None]]:
        """How many of the features, from the first on, all records have as the first one has them, and their values.

        The values are float32 or int64 of all records back to back; of bytes the words, uint64 (n, k), in which what
        lies behind a value is not told from it, or None where they are many. At least `WIDEST` bytes of `data` must lie
        behind each place.
        """
        words = -(-len(self._form) // 8) + 1
        values = [slot.room(len(places)) for slot in self.slots]
        some, every = np.zeros(words, np.uint64), np.full(words, _ALL)
        step = max(1, _PIECE_BYTES // (8 * words))  # what the processor's caches hold
        for start in range(0, len(places), step):
            rows = take(data, places[start : start + step], 8 * words)
            some |= _reduced(np.bitwise_or, rows.view(np.uint64))
            every &= _reduced(np.bitwise_and, rows.view(np.uint64))
            for slot, room in zip(self.slots, values, strict=True):
                if room is not None:
                    slot.fill(room[start : start + step], rows)
        form = np.frombuffer(self._form + bytes(8 * words - len(self._form)), np.uint64)
        expected = self._data[self._begin : self._begin + 8 * words].copy().view(np.uint64)
        wrong = np.flatnonzero((((some ^ expected) | (every ^ expected)) & form).view(np.uint8))
        ends = [slot.end for slot in self.slots]
        alike = int(np.searchsorted(ends, wrong[0], side="right")) if len(wrong) else len(ends)
        return alike, [
            room.ravel() if room is not None and slot.kind == "float32" else room
            for slot, room in zip(self.slots[:alike], values, strict=False)
        ]


def take(data: Bytes, places: Places, width: int) -> Bytes:
    """`width` bytes of `data` from each place on: uint8 (n, width), in memory of its own."""
    # An item of `width` bytes at every byte: numpy copies one for each place, which costs what one byte does.
    items = np.lib.stride_tricks.as_strided(
        data[:width].view(f"V{width}"), (len(data) - width + 1,), (1,), writeable=False
    )
    return items[places].view(np.uint8).reshape(-1, width)


def floats(rows: Bytes, start: int, size: int) -> npt.NDArray[np.float32]:
    """The float32 in `size` bytes of each row from `start` on: (n, size / 4), a view."""
    return np.ndarray((len(rows), size // 4), "<f4", rows.data, start, (rows.strides[0], 4))


def begin_with(rows: Bytes, head: bytes) -> bool:
    """Whether every row has the bytes of `head` first; rows are of whole words, and longer."""
    words = -(-len(head) // 8)
    table = np.ascontiguousarray(rows[:, : 8 * words]).view(np.uint64)
    some, every = (_reduced(operation, table) for operation in (np.bitwise_or, np.bitwise_and))
    return some.tobytes()[: len(head)] == every.tobytes()[: len(head)] == head


def whole_numbers(rows: Bytes, start: int, sizes: Places) -> npt.NDArray[np.int64] | None:
    """The varints of `sizes` bytes from `start` on in each row: int64 (n,); None where one has another size."""
    if not (int(sizes.min(initial=1)) >= 1 and int(sizes.max(initial=1)) <= VARINT_BYTES):
        return None
    words = np.ndarray(len(rows), "<u8", rows.data, start, rows.strides[:1]) & _FIRST_BYTES[sizes]
    good = words & _MORE_BITS == _MORE_BITS & _FIRST_BYTES[sizes - 1]
    words &= ~_MORE_BITS
    # Seven bits of each byte are put together to 14 of 16, these to 28 of 32, and these to 56.
    for shift, low in zip((1, 2, 4), _LOWER_HALVES, strict=True):
        words = (words & low) | ((words & ~low) >> np.uint64(shift))
    for place in range(8, int(sizes.max(initial=1))):
        digit, there = rows[:, start + place], sizes > place
        good &= ~there | ((digit < _MORE) == (sizes == place + 1))
        words |= np.where(there, digit & np.uint8(_MORE - 1), 0).astype(np.uint64) << np.uint64(7 * place)
    return words.view(np.int64) if bool(good.all()) else None


def _reduced(operation: np.ufunc, table: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    whole = len(table) // _FOLDED * _FOLDED
    folded = table[:whole].reshape(-1, _FOLDED * table.shape[1])
    rest = operation.reduce(folded, axis=0).reshape(_FOLDED, -1)
    found: npt.NDArray[np.uint64] = operation.reduce(np.concatenate([rest, table[whole:]]), axis=0)
    return found


def _value(data: Bytes, place: int, stop: int, key: bytes, tag: int) -> tuple[int, int, int] | None:
    """Where the one value of a feature begins, its bytes, where it ends; None where there is no such feature."""
    if place >= stop or data[place] != 0x0A:
        return None
    body, at = _varint(data, place + 1)
    end = at + body
    if end > stop or body < len(key) or data[at : at + len(key)].tobytes() != key:
        return None
    at += len(key)
    for mark in (tag, 0x0A):
        size, at = _varint(data, at)
        if not size or at + size != end or data[at] != mark:
            return None
        at += 1
    size, at = _varint(data, at)
    return (at, size, end) if at + size == end else None


def _varint(data: Bytes, place: int) -> tuple[int, int]:
    """The varint at `place`, and where it ends; one of more than five bytes is longer than anything."""
    value = 0
    for at in range(5):
        byte = int(data[place + at])
        value |= (byte & 0x7F) << 7 * at
        if byte < _MORE:
            return value, place + at + 1
    return 1 << 62, place


def _is_varint(value: bytes) -> bool:
    return 0 < len(value) <= VARINT_BYTES and value[-1] < _MORE and all(byte >= _MORE for byte in value[:-1])
