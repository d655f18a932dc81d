"""From the bytes of whole lines to columns, with each line that cannot be used set aside.

pyarrow parses many lines at once; what it takes is a record. Where it refuses, the lines are halved until the bad ones
stand alone, and only those are looked at in Python, to say what is wrong with them. A line's values thus never
depend on its neighbours.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json

from beam_jobs.sources._json.kinds import (
    Huge,
    Kind,
    arrow_type,
    count_fields,
    kind_of,
    merge,
    misfit,
    only,
    overlay,
)
from beam_jobs.sources._text.rows import RowBlock
from beam_jobs.sources.base import Fault
from schemas.errors import shorten

MAX_DEPTH = 50  # Arrow's files end at 64.
MAX_FIELDS = 4096  # each partition names them all
_CELLS = 1 << 20  # of one batch: a cell takes 8 bytes, whether a line fills it or not
_MAX_LINE_CELLS = 1 << 24
_RAW_BYTES = 1 << 10
_MAX_LINES = 1 << 16  # of one batch: each may be a fault
_ONE_BY_ONE = 256
_FEW = 64
# A text that is left open goes on to the end: each byte is looked at once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NULL_LIST = re.compile("list<item: null")
_BLANKS = b" \t\r\n"
Positions = npt.NDArray[np.int64]


class BadLineError(ValueError):
    """A line that is no record: the rule that it breaks, and why."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(rule, reason)
        self.rule = rule
        self.reason = reason


@dataclass(frozen=True)
class Lines:
    """Lines that follow each other, none of them blank.

    Attributes:
      data: bytes that hold them.
      starts, ends: int64 (n,), where each begins and ends in `data`; between two there are only blanks.
      opened: int64 (n,), how many lists and objects each opens, brackets in texts included.
    """

    data: memoryview
    starts: Positions
    ends: Positions
    opened: Positions

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, place: int) -> bytes:
        return bytes(self.data[self.starts[place] : self.ends[place]])

    def part(self, low: int, high: int) -> Lines:
        """Lines `low` to `high`."""
        return Lines(self.data, self.starts[low:high], self.ends[low:high], self.opened[low:high])

    def take(self, places: Positions) -> Lines:
        """Those lines, back to back."""
        if len(places) == len(self):
            return self
        sizes = self.ends[places] - self.starts[places]
        ends = np.cumsum(sizes, dtype=np.int64)
        joined = b"".join(map(self.__getitem__, places.tolist()))
        return Lines(memoryview(joined), ends - sizes, ends, self.opened[places])


@dataclass(frozen=True)
class Target:
    """What lines are to become.

    Attributes:
      kind: of every column to be read.
      declared: the part of it that was declared: strings there take any value, as its JSON text.
      whole: whether no field is left out.
    """

    kind: dict[str, Any]
    declared: Kind
    whole: bool

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the columns."""
        return _schema(self.kind)

    @cached_property
    def fields(self) -> int:
        """How many cells a record takes."""
        return count_fields(self.kind)


@dataclass(frozen=True)
class Parsed:
    """Lines as columns.

    Attributes:
      records: n rows.
      places: int64 (n,), which line each row was.
      faults: of the rest; their `row` is the line's place.
    """

    records: pa.RecordBatch
    places: Positions
    faults: list[Fault]


def lines_of(block: RowBlock) -> Lines:
    """The lines of a block that are not blank."""
    view = np.frombuffer(block.data, dtype=np.uint8)
    openers = np.flatnonzero((view | 0x20) == ord("{"))  # [ and { differ in that bit
    edges = np.searchsorted(openers, block.bounds)
    filled = ~block.blank
    return Lines(block.data, block.bounds[:-1][filled], block.bounds[1:][filled], np.diff(edges)[filled])


def slices(lines: Lines, kind: Kind) -> Iterator[Lines]:
    """The lines in parts of bounded memory once they are columns, however few bytes they have."""
    if not len(lines):
        return
    # Every object in a list may take a cell in each column, though it is written in two bytes.
    cells = np.cumsum((lines.opened + 1) * count_fields(kind))
    low = 0
    while low < len(lines):
        before = cells[low - 1] if low else 0
        high = max(int(np.searchsorted(cells, before + _CELLS, side="right")), low + 1)
        high = min(high, low + _MAX_LINES)
        yield lines.part(low, high)
        low = high


def _cells(lines: Lines, kind: Kind) -> int:
    return int((lines.opened + 1).sum()) * count_fields(kind)


def parse_lines(lines: Lines, target: Target) -> Parsed:
    """The lines as columns; what cannot be one becomes a fault."""
    places = _usable(lines, target.fields)
    batches, good = _halve(lines.take(places), target)
    places = places[good]
    records = pa.Table.from_batches(batches, target.schema).combine_chunks().to_batches()
    refused = np.setdiff1d(np.arange(len(lines)), places, assume_unique=True)
    faults = [_fault(lines, place, target) for place in refused.tolist()]
    return Parsed(records[0] if records else pa.RecordBatch.from_pylist([], target.schema), places, faults)


def fits(lines: Lines, known: dict[str, Any], wanted: Kind | None) -> bool:
    """Whether all lines fit what is known, so that nothing can be learnt from them, now or when more is known."""
    schema, other = _schema(known), "error" if wanted is None else "ignore"
    return bool(known) and all(
        len(_usable(part, count_fields(known))) == len(part) and _read(part, schema, other) is not None
        for part in slices(lines, known)
    )


def learn(lines: Lines, known: dict[str, Any], declared: Kind, wanted: Kind | None) -> dict[str, Any]:
    """What is known of the kinds of columns after these lines.

    Only lines that do not fit what is known are looked at in Python.
    """
    for part in slices(lines, known):
        known = _learn(part.take(_usable(part, count_fields(known))), known, declared, wanted)
    return known


def _holds(line: Lines, merged: dict[str, Any], own: Kind, declared: Kind) -> bool:
    """Whether the line is a record, but for values that are of another kind than the first of their column."""
    kind = only(merged, own)  # few of thousands of columns: a schema of all costs milliseconds
    assert isinstance(kind, dict)
    target = Target(kind, declared, False)
    value = _texts(_load(line[0]), declared)
    return misfit(value, kind) is not None or len(_halve(line, target)[1]) == 1


def _learn(lines: Lines, known: dict[str, Any], declared: Kind, wanted: Kind | None) -> dict[str, Any]:
    # What is known may have grown since the lines were cut into slices.
    small = _cells(lines, known) <= 2 * _CELLS or len(lines) == 1
    other = "error" if wanted is None else "ignore"
    if not len(lines) or (known and small and _read(lines, _schema(known), other) is not None):
        return known
    if len(lines) > _ONE_BY_ONE or not small:
        half = len(lines) // 2
        known = _learn(lines.part(0, half), known, declared, wanted)
        return _learn(lines.part(half, len(lines)), known, declared, wanted)
    for place in range(len(lines)):
        try:
            kind = kind_of(_load(lines[place]))
        except BadLineError:
            continue
        if not isinstance(kind, dict):
            continue
        merged = overlay(merge(known, kind if wanted is None else only(kind, wanted)), declared)
        assert isinstance(merged, dict)
        if count_fields(merged) > MAX_FIELDS:
            return merged
        # What is no record for another reason (a number that no type holds) has no say in the columns of others.
        if merged != known and _holds(lines.part(place, place + 1), merged, kind, declared):
            known = merged
    return known


def _usable(lines: Lines, fields: int) -> Positions:
    """The lines that may be given to pyarrow: each looks like one object of bounded depth and size, in UTF-8."""
    view = np.frombuffer(lines.data, dtype=np.uint8)
    last = lines.ends - 1
    last = last - (view[last] == ord("\n"))
    last = np.maximum(last - (view[last] == ord("\r")), lines.starts)
    usable = (view[lines.starts] == ord("{")) & (view[last] == ord("}"))
    for place in np.flatnonzero(~usable).tolist():
        line = lines[place].strip(_BLANKS)
        usable[place] = line.startswith(b"{") and line.endswith(b"}")
    usable &= _fits(lines, fields)
    for place in np.flatnonzero(usable & (lines.opened > MAX_DEPTH)).tolist():
        usable[place] = _depth(lines[place]) <= MAX_DEPTH
    if len(lines) and not _is_utf8(lines.data[lines.starts[0] : lines.ends[-1]]):
        for place in np.flatnonzero(usable).tolist():
            usable[place] = _is_utf8(lines.data[lines.starts[place] : lines.ends[place]])
    return np.flatnonzero(usable)


def _fits(lines: Lines, fields: int) -> npt.NDArray[np.bool_]:
    return (lines.opened + 1) * fields <= _MAX_LINE_CELLS


def _read(lines: Lines, schema: pa.Schema, other: str) -> pa.RecordBatch | None:
    """The lines as columns, None where any of them cannot be.

    A text cannot hold a line end, and between two objects of one value there must be a comma. So where as many objects
    are found as there are lines, and each line begins and ends as an object does, each line is one object.
    """
    if not len(lines):
        return pa.RecordBatch.from_pylist([], schema)
    try:
        table = _parse(lines.data[lines.starts[0] : lines.ends[-1]], schema, other)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if table.num_rows != len(lines):
        return None
    columns = [_mended(column.chunk(0)) for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _parse(data: memoryview, schema: pa.Schema, other: str) -> pa.Table:
    return pa.json.read_json(
        pa.BufferReader(pa.py_buffer(data)),
        read_options=pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=other),
    )


def _mended(array: pa.Array) -> pa.Array:
    """The array with as many nulls in its lists of nothing but nulls as they say: pyarrow's reader makes too few."""
    if not _NULL_LIST.search(str(array.type)):
        return array
    if pa.types.is_list(array.type):
        values, last = array.values, array.offsets[-1].as_py()
        children = [pa.nulls(last) if pa.types.is_null(values.type) else _mended(values)]
        buffers = array.buffers()[:2]
    else:
        children = [_mended(array.field(place)) for place in range(array.type.num_fields)]
        buffers = array.buffers()[:1]
    return pa.Array.from_buffers(array.type, len(array), buffers, offset=array.offset, children=children)


def _halve(lines: Lines, target: Target) -> tuple[list[pa.RecordBatch], Positions]:
    """The lines that can be columns, and their places."""
    records = _read(lines, target.schema, "ignore")
    if records is not None:
        return [records], np.arange(len(lines))
    if len(lines) <= _FEW:
        return _sift(_with_texts(lines, target.declared), target)
    half = len(lines) // 2
    left, left_places = _halve(lines.part(0, half), target)
    right, right_places = _halve(lines.part(half, len(lines)), target)
    return left + right, np.concatenate([left_places, right_places + half])


def _sift(lines: Lines, target: Target) -> tuple[list[pa.RecordBatch], Positions]:
    """As `_halve`, for few lines: Python leaves out those that pyarrow would refuse, which is faster than to ask it."""
    places = [place for place in range(len(lines)) if not _surely_refused(lines[place], target)]
    batches = []
    kept = lines.take(np.array(places, dtype=np.int64))
    records = _read(kept, target.schema, "ignore")
    if records is not None:
        return [records], np.array(places, dtype=np.int64)
    good = []
    for number, place in enumerate(places):
        record = _read(kept.part(number, number + 1), target.schema, "ignore")
        if record is not None:
            batches.append(record)
            good.append(place)
    return batches, np.array(good, dtype=np.int64)


def _surely_refused(line: bytes, target: Target) -> bool:
    """Whether pyarrow refuses the line too: what it takes is a record, whatever Python says."""
    try:
        value = _load(line)
    except BadLineError as error:
        # pyarrow knows -NaN and Inf, and does not look at the keys of objects that are left out.
        return b"Inf" not in line and b"NaN" not in line and (target.whole or error.rule != "duplicate_key")
    return not isinstance(value, dict) or misfit(value, target.kind) is not None


def _with_texts(lines: Lines, declared: Kind) -> Lines:
    """The lines with the JSON text of values that are no strings where strings are declared."""
    if "string" not in json.dumps(declared):
        return lines
    written = []
    for place in range(len(lines)):
        line = lines[place]
        try:
            value = _load(line, literal=True)
        except BadLineError:
            written.append(line)
            continue
        changed = _texts(value, declared)
        written.append(line if changed is value else json.dumps(changed, ensure_ascii=False).encode())
    sizes = np.array(list(map(len, written)), dtype=np.int64) + 1
    ends = np.cumsum(sizes, dtype=np.int64)
    return Lines(memoryview(b"\n".join([*written, b""])), ends - sizes, ends, lines.opened)


def _texts(value: Any, declared: Kind) -> Any:
    """`value` with texts where strings are declared; the same object where nothing changes."""
    if declared == "string":
        if value is None or isinstance(value, str):
            return value
        text = getattr(value, "text", None)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if text is None else text
    if isinstance(declared, list) and isinstance(value, list):
        items = [_texts(item, declared[0]) for item in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(declared, dict) and isinstance(value, dict):
        fields = {name: _texts(item, declared[name]) for name, item in value.items() if name in declared}
        return value if all(value[name] is item for name, item in fields.items()) else {**value, **fields}
    return value


class _Int(int):
    """A whole number that knows how it was written."""

    text: str


class _Float(float):
    """A number that knows how it was written."""

    text: str


def _int(text: str) -> int | Huge:
    # Python's own limit of digits is an error, and below it the time is quadratic.
    return Huge(text) if len(text) > 100 else int(text)


def _float(text: str) -> float:
    number = float(text)
    # pyarrow refuses what can only be infinite; nearer to the limit it decides itself.
    if math.isinf(number) and int(text.lower().partition("e")[2][:9] or 0) > 308 + len(text):
        raise BadLineError("bad_json", f"{shorten(text, 40)} is too large a number")
    return number


def _literal_int(text: str) -> int:
    if len(text) > 100:
        raise BadLineError("bad_json", "a number of more than 100 digits")
    number = _Int(text)
    number.text = text
    return number


def _literal_float(text: str) -> float:
    number = _Float(text)
    number.text = text
    return number


def _load(line: bytes, *, literal: bool = False) -> Any:
    """The value of a line; `literal` numbers know how they were written.

    Raises:
      BadLineError: it is no JSON, or has a key twice in one object.
    """
    try:
        value = json.loads(
            line.decode(),
            object_pairs_hook=_unique,
            parse_int=_literal_int if literal else _int,
            parse_float=_literal_float if literal else _float,
        )
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadLineError("bad_json", "a text holds half of a surrogate pair") from None
    except UnicodeDecodeError as error:
        found = f"byte {error.start} of the line, 0x{line[error.start]:02x}, is no UTF-8"
        raise BadLineError("bad_encoding", found) from None
    except json.JSONDecodeError as error:
        raise BadLineError("bad_json", f"{error.msg} at character {error.pos + 1} of the line") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadLineError("duplicate_key", f"the key {twice!r} occurs twice in one object")
    return value


def _fault(lines: Lines, place: int, target: Target) -> Fault:
    line = lines[place]
    rule, reason = _explain(lines, place, target)
    return Fault(place, rule, reason, line[:_RAW_BYTES])


def _explain(lines: Lines, place: int, target: Target) -> tuple[str, str]:
    """The rule that a refused line breaks, and why."""
    line = lines[place]
    if _depth(line) > MAX_DEPTH:
        return "deep_json", f"lists and objects are nested more than {MAX_DEPTH} deep"
    if not _fits(lines, target.fields)[place]:
        return "too_large", f"{lines.opened[place]} lists and objects are too many for this many columns"
    try:
        value = _load(line)
    except BadLineError as error:
        return error.rule, error.reason
    if not isinstance(value, dict):
        return "not_an_object", f"found {_name(value)} where each line must be one object"
    wrong = misfit(_texts(value, target.declared), target.kind)
    if wrong is not None:
        return "bad_type", wrong
    try:
        _parse(lines.data[lines.starts[place] : lines.ends[place]], target.schema, "ignore")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        return "bad_json", str(error).removeprefix("JSON parse error: ").removesuffix(" in row 0")
    return "bad_json", "it is not one object"


def _name(value: Any) -> str:
    kind = kind_of(value)
    return (
        "a list"
        if isinstance(kind, list)
        else {"null": "null", "bool": "true or false"}.get(str(kind), "one value")
    )


def _depth(line: bytes) -> int:
    """How deep lists and objects are nested, brackets in texts left out."""
    view = np.frombuffer(_STRING.sub(b"", line), dtype=np.uint8) | 0x20
    steps = (view == ord("{")).astype(np.int32) - (view == ord("}"))
    return int(np.cumsum(steps).max(initial=0))


def _schema(kind: dict[str, Any]) -> pa.Schema:
    return pa.schema([(name, arrow_type(inner)) for name, inner in kind.items()])


def _is_utf8(data: memoryview) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
