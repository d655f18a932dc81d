"""What a user's function yields, as record batches of one schema: dicts, or record batches of the same columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from beam_jobs.sources._batches import BATCH_BYTES, any_cut, flat_schema, flatten, pieces
from beam_jobs.sources.base import Fault
from schemas.errors import HeadraceError, shorten

_MAX_ROWS = 16_384  # of a batch: rows of Python objects take many times their bytes
_WRONG = (pa.ArrowException, TypeError, ValueError, OverflowError)
_TYPES = {
    "string": pa.string(),
    "bytes": pa.large_binary(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
_FIXED = {int, float, bool, type(None)}
_PLAIN = _FIXED | {str, bytes, list}  # no dicts: an abstract class takes long to say so
Found = tuple[pa.RecordBatch, list[int], list[Fault]]


def typed_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The schema of columns by the names of their types, such as `int64` or `list<int64>`."""
    return pa.schema([(name, _type(text)) for name, text in columns.items()])


def infer_schema(sample: Sequence[Any], where: str) -> pa.Schema | None:
    """The schema of the first records, its columns sorted by name; None where there are none.

    Raises:
      HeadraceError: a column holds values of several types, or none at all.
    """
    if any(isinstance(item, pa.RecordBatch) for item in sample):
        batch = next(item for item in sample if isinstance(item, pa.RecordBatch))
        schema = flat_schema(batch.schema, where)
        return pa.schema(sorted(schema, key=lambda field: field.name))
    records = [_flat(item, {}) for item in sample if isinstance(item, Mapping)]
    if sample and not records:
        raise HeadraceError(
            "The function yields no records.",
            where=where,
            value=_shown(sample[0]),
            allowed="dicts, or pyarrow RecordBatches",
        )
    found = {name for record in records for name in record if isinstance(name, str)}
    above = found.intersection(chain.from_iterable(map(_above, found)))
    empty = {name for name in above if all(record.get(name) is None for record in records)}
    names = sorted(found - empty)  # without those that are None in place of a dict
    return (
        flat_schema(pa.schema([_infer(name, records, where) for name in names]), where) if records else None
    )


class Rows:
    """Rows on their way to batches.

    Args:
      schema: of the batches.
      place: where the record of a number is, for errors.
    """

    def __init__(self, schema: pa.Schema, place: Callable[[int], str]) -> None:
        self._schema = schema
        self._names = dict.fromkeys(schema.names)  # a dict, which keeps their order
        self._below = _names_below(self._names)
        self._place = place
        self._next = 1
        self._cells: list[dict[str, Any]] = []
        self._numbers: list[int] = []
        self._faults: list[Fault] = []
        self._bytes = 0
        self._ready: list[Found] = []

    def add(self, item: Any) -> None:
        """Takes what the function yielded.

        Raises:
          HeadraceError: it is a record batch of other columns.
        """
        if isinstance(item, pa.RecordBatch):
            self._add_batch(item)
            return
        number, self._next = self._next, self._next + 1
        problem = None
        if not isinstance(item, Mapping):
            problem = ("not_a_record", f"{_shown(item)} is no dict")
        else:
            record = _flat(item, self._below)
            unknown = [name for name in record if name not in self._names]
            if unknown:
                problem = (
                    "unknown_column",
                    f"there is no column {_shown(unknown[0])}; there are {shorten(', '.join(self._schema.names))}",
                )
        if problem:
            self._faults.append(Fault(number, *problem))
        else:
            self._cells.append(record)
            self._numbers.append(number)
            self._bytes += sum(map(_size, record.values()))

    def take_full(self) -> Iterator[Found]:
        """The batches that are full."""
        full = self._bytes >= BATCH_BYTES // 2 or len(self._cells) + len(self._faults) >= _MAX_ROWS
        if full or self._ready:
            yield from self.take_rest()

    def take_rest(self) -> Iterator[Found]:
        """All that there is."""
        self._close()
        ready, self._ready = self._ready, []
        yield from ready

    def _close(self) -> None:
        """Makes a batch of the rows so far."""
        if not self._cells and not self._faults:
            return
        columns, wrong = [], {}
        for field in self._schema:
            column, bad = _column([record.get(field.name) for record in self._cells], field)
            columns.append(column)
            wrong.update({place: reason for place, reason in bad.items() if place not in wrong})
        self._faults += [Fault(self._numbers[place], "bad_type", reason) for place, reason in wrong.items()]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        numbers = self._numbers
        if wrong:
            kept = [place for place in range(len(numbers)) if place not in wrong]
            batch, numbers = batch.take(pa.array(kept, pa.int64())), [numbers[place] for place in kept]
        faults = sorted(self._faults, key=lambda fault: fault.row)
        self._ready.append((batch, numbers, faults))
        self._cells, self._numbers, self._faults, self._bytes = [], [], [], 0

    def _add_batch(self, batch: pa.RecordBatch) -> None:
        place = self._place(self._next)
        batch = flatten(batch, place)
        unknown = [name for name in batch.schema.names if name not in self._names]
        if unknown:
            raise HeadraceError(
                "A record batch has a column that there is not.",
                where=place,
                value=unknown[0],
                allowed=shorten(", ".join(self._schema.names)),
            )
        self._close()
        for before, piece in pieces(batch):
            first = self._next + before
            try:
                columns = [
                    piece.column(field.name).cast(field.type)
                    if field.name in piece.schema.names
                    else pa.nulls(piece.num_rows, field.type)
                    for field in self._schema
                ]
            except _WRONG:
                self._cells = piece.to_pylist()
                self._numbers = list(range(first, first + piece.num_rows))
                self._close()
                continue
            made = pa.RecordBatch.from_arrays(columns, schema=self._schema)
            self._ready.append((made, list(range(first, first + piece.num_rows)), []))
        self._next += batch.num_rows


def _type(text: str) -> pa.DataType:
    inner = text.removeprefix("list<").removesuffix(">")
    return pa.list_(_TYPES[inner]) if inner != text else _TYPES[text]


def _infer(name: str, records: Sequence[Mapping[str, Any]], where: str) -> pa.Field:
    hint = f"Give the types of all columns under `columns:`, such as {name}: string."
    try:
        kind = pa.array([record.get(name) for record in records]).type
    except _WRONG as error:
        raise HeadraceError(
            "A column holds values of several types.",
            where=f"{where}, column {name}",
            value=str(error),
            hint=hint,
        ) from None
    if pa.types.is_null(kind) or (pa.types.is_list(kind) and pa.types.is_null(kind.value_type)):
        raise HeadraceError(
            f"A column has no value in the first {len(records)} records, so that its type is not known.",
            where=f"{where}, column {name}",
            hint=hint,
        )
    return pa.field(name, pa.large_binary() if pa.types.is_binary(kind) else kind)


def _column(cells: list[Any], field: pa.Field) -> tuple[pa.Array, dict[int, str]]:
    """The cells as a column, null where one is of another type, and what is wrong with those."""
    try:
        if not any_cut(cells, field.type):
            return pa.array(cells, field.type), {}
    except _WRONG:
        pass  # each is looked at
    wrong = {}
    for place, cell in enumerate(cells):
        try:
            pa.array([cell], field.type)
            fits = not any_cut([cell], field.type)
        except _WRONG:
            fits = False
        if not fits:
            wrong[place] = f"column {field.name!r}: {_shown(cell)} is no {field.type}"
    good = [None if place in wrong else cell for place, cell in enumerate(cells)]
    return pa.array(good, field.type), wrong


def _names_below(names: Mapping[str, None]) -> dict[str, list[str]]:
    """The names of columns below each name that is none itself: those of `a.b` and `a.c` below `a`."""
    below: dict[str, list[str]] = {}
    for name in names:
        for above in _above(name):
            if above not in names:
                below.setdefault(above, []).append(name)
    return below


def _above(name: str) -> Iterator[str]:
    """What a column's name is below: `a.b.c` below `a` and `a.b`."""
    return (name[:end] for end in range(len(name)) if name[end] == ".")


def _flat(record: Mapping[Any, Any], below: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    """A dict in a dict as columns `name.field`, and dicts in a list as such columns of lists where there are any."""
    flat: dict[str, Any] = {}
    stack = [(name, value) for name, value in record.items()][::-1]
    while stack:
        name, value = stack.pop()
        if type(value) not in _PLAIN and isinstance(value, Mapping):
            stack += [(f"{name}.{field}", inner) for field, inner in value.items()][::-1]
        elif name not in below:
            flat[name] = value
        elif value is None:
            pass  # nor has any column below it
        elif _are_dicts(value):
            fields = [_flat({name: inner}, below) if inner is not None else {} for inner in value]
            for column in dict.fromkeys([*below[name], *chain.from_iterable(fields)]):
                flat[column] = [found.get(column) for found in fields]
        else:
            flat[name] = value  # a name that no column has
    return flat


def _are_dicts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(inner, Mapping | None) for inner in value)


def _size(value: Any) -> int:
    """About how many bytes a value takes in a column."""
    if type(value) in _FIXED:
        return 8
    if isinstance(value, str | bytes | bytearray | memoryview):
        return len(value) + 4
    if isinstance(value, list | tuple):
        if _FIXED.issuperset(map(type, value)):  # told in a tenth of the time that each takes
            return 4 + 8 * len(value)
        return 4 + sum(map(_size, value))
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return int(getattr(value, "nbytes", 8))


def _shown(value: Any) -> str:
    """A value in a reason; of long ones only the start is looked at."""
    if isinstance(value, str | bytes):
        return shorten(repr(value[:80]), 80)
    return shorten(repr(value), 80) if isinstance(value, int | float | bool | None) else type(value).__name__
