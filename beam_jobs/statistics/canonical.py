"""Columns from the records that `beam_jobs.encode` writes, side by side.

Every record has the same features in the order of their names, and nothing else, so one gather for each feature takes
what all records have at that place, and compares what must be the same in all of them. Where anything is otherwise, the
records are read as those of any writer (`beam_jobs.sources._sets.example`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._sets.example import BYTES_LIST, FLOAT_LIST, INT64_LIST, find_features, values_of
from beam_jobs.statistics.alike import VARINT_BYTES, WIDEST, Kind, Pattern, begin_with, floats, whole_numbers
from beam_jobs.statistics.alike import take as bytes_at
from schemas import HeadraceError
from schemas.features import Feature, Float32Feature, Int64Feature
from schemas.packing import FLOAT32, Packing

PADDING = (
    WIDEST  # bytes that must lie behind the records: places are looked at before they are known to be good
)

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
_LONGEST_HEAD = 120  # bytes before a value that are compared together
_SAMPLE = 64  # records of the first block that tell what varies
_TAGS: Mapping[Kind, int] = {"bytes": BYTES_LIST, "float32": FLOAT_LIST, "int64": INT64_LIST}


@dataclass(frozen=True)
class Stored:
    """How a feature of a record is stored: `size` values, or any number of them where it is None."""

    kind: Kind
    size: int | None = 1


@dataclass(frozen=True)
class Spans:
    """Bytes of each value: where they begin in `data`, behind which lies padding, and how many they are.

    `words`, if any, hold the bytes of each value and some that lie behind: uint64 (n, k).
    """

    data: Bytes
    starts: Places
    sizes: Places
    words: npt.NDArray[np.uint64] | None = None


@dataclass(frozen=True)
class Column:
    """A feature in n records.

    Attributes:
      values: of all records, back to back: int64 or float32, or spans of bytes.
      counts: int64 (n,), how many each record has; None: as many as `Stored.size` says.
    """

    values: npt.NDArray[Any] | Spans
    counts: Places | None = None


class _OtherFormError(Exception):
    """The records are not in the form of `encode`."""


def stored(features: Mapping[str, Feature], packing: Packing) -> dict[str, Stored]:
    """How each feature of the records is stored, packed ones as their vectors, by name."""
    found = {}
    packed = {name for names in packing.values() for name in names}
    for name in features.keys() - packed:
        feature = features[name]
        if isinstance(feature, Int64Feature | Float32Feature):
            found[name] = Stored(feature.type, feature.shape[0] if feature.shape else 1)
        else:
            found[name] = Stored("int64" if feature.type in ("class_label", "bool") else "bytes")
    for vector, names in packing.items():
        found[vector] = Stored("float32" if vector == FLOAT32 else "int64", len(names))
    return dict(sorted(found.items()))


class Reader:
    """Reads the columns of records of one form, block after block. It learns what lies at the same places in all."""

    def __init__(self, form: Mapping[str, Stored]) -> None:
        self._form = form
        self._keys = {name: _key(name) for name in form}
        self._varying: set[str] = set()  # features of which records have different numbers of bytes
        self._sampled = False

    def read(self, data: Bytes, starts: Places, ends: Places, where: str) -> dict[str, Column]:
        """The columns of the records at `starts` to `ends` of `data`, which ends with padding.

        Raises:
          HeadraceError: a record is no example; `where` names the file.
        """
        try:
            if not self._sampled and len(starts) > 2 * _SAMPLE:
                self._sampled = True
                few = slice(None, None, len(starts) // _SAMPLE)
                self._walk(data, starts[few], ends[few])
            return self._walk(data, starts, ends)
        except _OtherFormError:
            return _read_any(data, starts, ends, self._form, where)

    def _walk(self, data: Bytes, starts: Places, ends: Places) -> dict[str, Column]:
        if not len(starts):
            raise _OtherFormError
        size, place = _varint(data, starts + 1)
        _need((data[starts] == 0x0A) & (place + size == ends))
        columns: dict[str, Column] = {}
        names = list(self._form)
        while len(columns) < len(names):
            name = names[len(columns)]
            pattern = self._pattern(data, place, ends, names[len(columns) :])
            if not pattern.slots:
                columns[name], place = _one(data, place, ends, self._keys[name], self._form[name])
                continue
            alike, values = pattern.match(data, place)
            for slot, found in zip(pattern.slots, values, strict=False):
                if slot.kind == "bytes":
                    sizes = np.full(len(place), slot.size, np.int64)
                    columns[names[len(columns)]] = Column(Spans(data, place + slot.start, sizes, found))
                else:
                    assert found is not None, "numbers are always at hand"
                    columns[names[len(columns)]] = Column(found)
            if alike < len(pattern.slots):
                self._varying.add(names[len(columns)])
            if alike:
                place = place + pattern.slots[alike - 1].end
                _need(place <= ends)
        _need(place == ends)
        return columns

    def _pattern(self, data: Bytes, place: Places, ends: Places, names: Sequence[str]) -> Pattern:
        """What may be alike in all records, as far as the first one tells."""
        pattern = Pattern(data, int(place[0]), int(ends[0]))
        for name in names:
            form = self._form[name]
            if name in self._varying or form.size is None or (form.kind == "int64" and form.size != 1):
                break
            if not pattern.add(self._keys[name], _TAGS[form.kind], form.kind, form.size):
                break
        return pattern


def read_columns(
    data: Bytes, starts: Places, ends: Places, form: Mapping[str, Stored], where: str
) -> dict[str, Column]:
    """What `Reader.read` gives of one block of records."""
    return Reader(form).read(data, starts, ends, where)


def _one(data: Bytes, place: Places, ends: Places, key: bytes, form: Stored) -> tuple[Column, Places]:
    """One feature of each record, and where it ends."""
    if form.kind == "float32" and form.size is not None:
        return _floats(data, place, ends, key, form.size)
    short = _short(data, place, ends, key, _TAGS[form.kind]) if form.size == 1 else None
    if short is None:
        first, size, place = _span(data, place, ends, key, _TAGS[form.kind])
        return _column(Spans(data, first, size), form), place
    rows, before, size = short
    first = place + before
    if form.kind == "bytes":
        return Column(Spans(data, first, size)), first + size
    values = whole_numbers(rows, before, size)
    if values is None:
        raise _OtherFormError
    return Column(values), first + size


def _key(name: str) -> bytes:
    text = name.encode()
    return b"\x0a" + _varint_bytes(len(text)) + text + b"\x12"


def _floats(data: Bytes, place: Places, ends: Places, key: bytes, size: int) -> tuple[Column, Places]:
    """`size` numbers of each record: all of it but them is the same everywhere."""
    inner = b"\x0a" + _varint_bytes(4 * size)
    inner = bytes([FLOAT_LIST]) + _varint_bytes(len(inner) + 4 * size) + inner
    inner = key + _varint_bytes(len(inner) + 4 * size) + inner
    head = b"\x0a" + _varint_bytes(len(inner) + 4 * size) + inner
    stop = place + (len(head) + 4 * size)
    _need(stop <= ends)
    rows = bytes_at(data, place, len(head) + 4 * size)
    _need(rows[:, : len(head)] == np.frombuffer(head, np.uint8))
    return Column(floats(rows, len(head), 4 * size).ravel()), stop


def _short(
    data: Bytes, place: Places, ends: Places, key: bytes, tag: int
) -> tuple[Bytes, int, Places] | None:
    """One value of each record, of so few bytes that a byte tells any size; None where a record is otherwise.

    Gives what lies at each place, behind how many bytes of it the value begins, and the value's sizes.
    """
    # What the entry would be were the value of no bytes; four of its bytes grow with the value.
    head = b"\x0a" + bytes([len(key) + 5 & 0xFF]) + key + bytes([4, tag, 2, 0x0A, 0])
    if len(head) > _LONGEST_HEAD:
        return None
    rows = bytes_at(data, place, -(-len(head) // 8) * 8 + VARINT_BYTES)
    sizes = rows[:, len(head) - 1].copy()
    if len(key) + 5 + int(sizes.max(initial=0)) >= 0x80:
        return None
    for at in (1, len(head) - 5, len(head) - 3, len(head) - 1):
        rows[:, at] -= sizes
    if not begin_with(rows, head):
        return None
    _need(place + len(head) + sizes <= ends)
    return rows, len(head), sizes.astype(np.int64)


def _span(data: Bytes, place: Places, ends: Places, key: bytes, tag: int) -> tuple[Places, Places, Places]:
    """Where the packed numbers or the one item of bytes of each record begin, how many bytes, where the entry ends."""
    body, at = _varint(data, place + 1)
    stop = at + body
    _need((data[place] == 0x0A) & (stop <= ends) & (body >= len(key)))
    _need(bytes_at(data, at, len(key)) == np.frombuffer(key, np.uint8))
    size, at = _varint(data, at + len(key))
    _need((at + size == stop) & (size > 0))
    good = data[at] == tag
    size, at = _varint(data, at + 1)
    _need(good & (at + size == stop))
    some = size > 0
    size, first = _varint(data, np.minimum(at + 1, stop))
    _need(~some | ((data[np.minimum(at, stop)] == 0x0A) & (first + size == stop)))
    if not bool(some.all()):
        first, size = np.where(some, first, stop), np.where(some, size, 0)
        if tag == BYTES_LIST:
            raise _OtherFormError  # a list without an item; an empty item has a size
    return first, size, stop


def _column(spans: Spans, form: Stored) -> Column:
    if form.kind == "bytes":
        return Column(spans)
    packed = gathered(spans)
    if form.kind == "float32":
        _need(spans.sizes % 4 == 0)
        return Column(packed.view("<f4"), None if form.size else spans.sizes // 4)
    last = np.flatnonzero(packed < 0x80)
    ends = np.cumsum(spans.sizes)
    filled = spans.sizes > 0
    _need(packed[ends[filled] - 1] < 0x80)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    widths = last - first + 1
    _need(widths <= 10)
    values = np.zeros(len(last), np.uint64)
    for at in range(int(widths.max(initial=0))):
        those: Any = np.flatnonzero(widths > at) if at else slice(None)
        values[those] |= (packed[first[those] + at] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * at)
    counts = np.diff(np.searchsorted(last, ends), prepend=0)
    if form.size is not None:
        _need(counts == form.size)
    return Column(values.view(np.int64), None if form.size else counts)


def gathered(spans: Spans) -> Bytes:
    """The bytes of all spans, back to back."""
    widest = int(spans.sizes.max(initial=0))
    if widest > PADDING or not widest:
        bounds = zip(spans.starts.tolist(), (spans.starts + spans.sizes).tolist(), strict=True)
        return np.concatenate([spans.data[:0], *(spans.data[start:end] for start, end in bounds)])
    rows = bytes_at(spans.data, spans.starts, widest)
    if int(spans.sizes.min()) == widest:
        return rows.ravel()
    return rows[np.arange(widest) < spans.sizes[:, None]]


def _read_any(
    data: Bytes, starts: Places, ends: Places, form: Mapping[str, Stored], where: str
) -> dict[str, Column]:
    examples = find_features(memoryview(data.data), starts, ends, frozenset(name.encode() for name in form))
    bad, columns = dict(examples.bad), {}
    for name, stored_as in form.items():
        values, counts, wrong = values_of(examples, examples.feature(name), _TAGS[stored_as.kind])
        bad.update(wrong)
        if stored_as.kind == "bytes":
            columns[name] = Column(_spans(values), counts)
        else:
            columns[name] = Column(values.to_numpy(zero_copy_only=False), counts)
    if bad:
        row = min(bad)
        raise HeadraceError(
            "A record cannot be read, so there are no statistics of it.",
            where=f"{where}, byte {int(starts[row])} of a block",
            value=bad[row],
            hint="Run `headrace verify` on the data set.",
        )
    return columns


def _spans(values: pa.LargeBinaryArray) -> Spans:
    offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    return Spans(np.append(data, np.zeros(PADDING, np.uint8)), offsets[:-1], np.diff(offsets))


def take(spans: Spans, width: int) -> Bytes:
    """`width` bytes from the beginning of each span on, whatever its size: uint8 (n, width), at most `PADDING`."""
    return bytes_at(spans.data, spans.starts, width)


def _varint(data: Bytes, places: Places) -> tuple[Places, Places]:
    """The varint at each place, and where it ends; one of more than five bytes is longer than anything."""
    byte = data[places]
    if int(byte.max(initial=0)) < 0x80:
        return byte.astype(np.int64), places + 1
    value, after = (byte & np.uint8(0x7F)).astype(np.int64), places + 1
    more: Any = slice(None) if int(byte.min()) >= 0x80 else np.flatnonzero(byte >= 0x80)
    for shift in (7, 14, 21, 28):
        byte = data[after[more]]
        value[more] |= (byte & np.uint8(0x7F)).astype(np.int64) << shift
        after[more] += 1
        left = np.flatnonzero(byte >= 0x80)
        if not len(left):
            return value, after
        more = np.arange(len(places))[more][left]
    raise _OtherFormError


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _need(good: npt.NDArray[np.bool_] | bool | np.bool_) -> None:
    if not np.all(good):
        raise _OtherFormError
