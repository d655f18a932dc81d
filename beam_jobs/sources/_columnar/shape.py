"""The shape of a source of columnar files: the columns that all files have together, and batches brought to it."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._columnar.data_files import hive_values
from beam_jobs.sources._columnar.plain import (
    Leaf,
    as_binary,
    bad_texts,
    flatten,
    plain_type,
    to_plain,
    to_type,
    union_of,
)
from beam_jobs.sources._columnar.sizes import decoded_bytes
from beam_jobs.sources._keys import join_keys, key_columns, numbered
from beam_jobs.sources._places.listing import shown
from beam_jobs.sources.base import Fault, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.hashing import fingerprint

_MAX_ROW_BYTES = 256 << 20
_RAW_BYTES = 1 << 10


@dataclass(frozen=True)
class Shape:
    """What every file is brought to.

    Attributes:
      types: every column that is read, the key's too, with the type that holds the values of all files.
      columns: those that are yielded, in order.
      keys: the columns that name a record; none where its row does.
      times: what times become, see `_plain.plain_type`.
      hive: whether folders are columns.
    """

    types: dict[str, pa.DataType]
    columns: list[str]
    keys: list[str]
    times: str
    hive: bool

    @property
    def fingerprint(self) -> str:
        """Content hash of what makes the rows of a file."""
        return fingerprint(
            [[name, str(self.types[name])] for name in dict.fromkeys([*self.columns, *self.keys])]
        )

    def pack(self) -> Any:
        """The columns, JSON-able, as `unpack` takes them."""
        return [base64.b85encode(zlib.compress(pa.schema(self.types).serialize())).decode(), self.columns]

    def batch(self, records: pa.RecordBatch, first: int, file: str) -> SourceBatch:
        """Rows of `file`, of which the first has the number `first`, in this shape."""
        rows = np.arange(first, first + records.num_rows, dtype=np.int64)
        if records.num_rows == 1 and (size := decoded_bytes(records)) > _MAX_ROW_BYTES:
            reason = f"the row takes {size} bytes; {_MAX_ROW_BYTES} are allowed"
            return SourceBatch(
                pa.RecordBatch.from_pylist([], self._schema),
                pa.array([], pa.binary()),
                rows[:0],
                [Fault(first, "too_large", reason)],
            )
        leaves = {
            name: leaf
            for field, column in zip(records.schema.names, records.columns, strict=True)
            for name, leaf in flatten(field, column)
        }
        hive = hive_values(file) if self.hive else {}
        faults = _Faults(rows)
        typed: dict[str, pa.Array] = {}
        columns = []
        for name, kind in self.types.items():
            if name in hive:
                typed[name] = pa.repeat(pa.scalar(hive[name], pa.string()), len(rows))
            elif name in leaves:
                typed[name] = faults.fitted(leaves[name], kind, name)
            else:
                typed[name] = pa.nulls(len(rows), kind)
        for name in self.columns:
            plain, bad = to_plain(typed[name], self.times)
            faults.note(bad, name, typed[name], f"does not fit into {plain.type}")
            columns.append(plain)
        named = [_as_bytes(typed[name]) for name in self.keys]
        keys = join_keys(named) if named else numbered(file, rows)
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        if faults.found:
            keep = ~np.isin(rows, list(faults.found))
            places = pa.array(np.flatnonzero(keep))
            batch, keys, rows = batch.take(places), keys.take(places), rows[keep]
        return SourceBatch(batch, keys, rows, [faults.found[row] for row in sorted(faults.found)])

    @property
    def _schema(self) -> pa.Schema:
        return pa.schema([(name, plain_type(self.types[name], self.times)) for name in self.columns])


def shape_of(files: Sequence[tuple[str, Mapping[str, Leaf]]], spec: Any, where: str) -> Shape:
    """The shape that files have together.

    Args:
      files: name of each, and its leaves, those that are asked for.
      spec: the source's part of the job.
      where: its place there.

    Raises:
      HeadraceError: columns do not fit together, or there is none of a name that the spec has.
    """
    types = union_of([(shown(name), leaves) for name, leaves in files], where)
    hive = _hive_columns([name for name, _ in files], spec.hive, types, where)
    types |= {name: pa.string() for name in hive if is_wanted(name, spec)}
    keys = key_columns(spec.key)
    for field, names in (("columns", spec.columns or []), ("key", keys)):
        for asked in names:
            if asked not in types and (field == "key" or not any(_is_of(name, asked) for name in types)):
                raise HeadraceError(
                    f"`{field}` names a column that does not exist.",
                    where=where,
                    value=asked,
                    allowed=None if spec.columns else shorten(", ".join(types), 400),
                )
    for name in keys:
        if pa.types.is_large_list(types[name]):
            raise HeadraceError("A list cannot be a key.", where=f"{where}.key", value=name)
    columns = [
        name for name in types if spec.columns is None or any(_is_of(name, one) for one in spec.columns)
    ]
    return Shape(types, columns, keys, spec.times, bool(hive))


def unpack(packed: Any, spec: Any) -> Shape:
    """The shape that `Shape.pack` gave."""
    schema, columns = packed
    schema = pa.ipc.read_schema(pa.py_buffer(zlib.decompress(base64.b85decode(schema))))
    types = dict(zip(schema.names, schema.types, strict=True))
    return Shape(types, columns, key_columns(spec.key), spec.times, spec.hive is not False)


def is_wanted(name: str, spec: Any) -> bool:
    """Whether a column is read."""
    return spec.columns is None or any(
        _is_of(name, asked) for asked in [*spec.columns, *key_columns(spec.key)]
    )


def _is_of(name: str, asked: str) -> bool:
    return name == asked or name.startswith(asked + ".")


def _hive_columns(names: Iterable[str], hive: bool | None, types: Mapping[str, Any], where: str) -> list[str]:
    """The columns that the folders of files name."""
    found: dict[str, None] = {}
    for name in names if hive is not False else ():
        values = hive_values(name)
        if hive and not values:
            raise HeadraceError(
                "A file lies in no folder that names a column.",
                where=f"{where}.hive",
                value=shown(name),
                allowed="files below `path` in folders called name=value",
            )
        for column in values:
            if column in types or column.startswith("headrace:"):
                raise HeadraceError(
                    "A column is named by a folder and lies in the files too.",
                    where=f"{where}, {shown(name)}",
                    value=shorten(column, 80),
                    hint="Set `hive: false` for that of the files.",
                )
            found[column] = None
    return list(found)


class _Faults:
    """Rows of one batch that cannot be used, the first fault of each."""

    def __init__(self, rows: npt.NDArray[np.int64]) -> None:
        self._rows = rows
        self.found: dict[int, Fault] = {}

    def fitted(self, leaf: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
        """A leaf in the type that it has in all files."""
        texts, bad = bad_texts(leaf)
        for place in bad:
            raw = (
                as_binary(leaf)[place].as_py()[:_RAW_BYTES] if not pa.types.is_large_list(leaf.type) else None
            )
            self._add(place, "bad_encoding", f"column {name!r} is no UTF-8", raw)
        typed, bad = to_type(texts, kind)
        self.note(bad, name, texts, f"does not fit into {kind}, which other files have")
        return typed

    def note(self, places: Iterable[int], name: str, values: pa.Array, what: str) -> None:
        """Values that are of a wrong type."""
        for place in places:
            self._add(place, "bad_type", f"column {name!r}: {shorten(_shown(values[place]), 80)} {what}")

    def _add(self, place: int, rule: str, reason: str, raw: bytes | None = None) -> None:
        row = int(self._rows[place])
        self.found.setdefault(row, Fault(row, rule, reason, raw))


def _shown(value: pa.Scalar) -> str:
    try:
        return str(value)
    except (ValueError, OverflowError):  # a time that Python has no word for
        return str(value.cast(pa.int64()))


def _as_bytes(column: pa.Array) -> pa.Array:
    return column if pa.types.is_large_binary(column.type) else column.cast(pa.string())
