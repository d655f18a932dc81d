"""Kinds of JSON values: what a column holds, learnt from values one after the other.

A kind is JSON itself, so that it travels with a partition: a name ("null", "bool", "int64", "float64", "string"),
`[kind]` for a list, `{name: kind}` for an object. The first value that is not null decides; whole numbers widen to
float64, objects gain fields, and whatever else is of another kind is a misfit, and no part of what was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from schemas.errors import shorten

Kind: TypeAlias = "str | list[Any] | dict[str, Any]"

_SCALARS = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
}
_NUMBERS = ("int64", "float64")
_WORDS = {"bool": "true or false", "int64": "a whole number", "float64": "a number", "string": "a text"}


class Huge(str):
    """A whole number of more digits than any type has."""


def kind_of(value: Any) -> Kind:
    """The kind of a parsed value. A whole number beyond 64 bits has none: as float64 it would lose digits unseen."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int64" if -(2**63) <= value < 2**63 else "null"
        case float():
            return "float64"
        case Huge() | None:
            return "null"
        case str():
            return "string"
        case list():
            item: Kind = "null"
            for kind in map(kind_of, value):
                item = merge(item, kind)
            return [item]
    return {name: kind_of(field) for name, field in value.items()}


def merge(known: Kind, new: Kind) -> Kind:
    """What is known after a value of kind `new`."""
    if new in (known, "null"):
        return known
    if known == "null":
        return new
    if isinstance(known, dict) and isinstance(new, dict):
        return {**known, **{name: merge(known.get(name, "null"), kind) for name, kind in new.items()}}
    if isinstance(known, list) and isinstance(new, list):
        return [merge(known[0], new[0])]
    return "float64" if known in _NUMBERS and new in _NUMBERS else known


def declared_kind(types: Mapping[str, str], separator: str | None) -> dict[str, Any]:
    """The kind that declared types make: `list<int64>` is a list, and with a separator `a.b` is a field of `a`."""
    kind: dict[str, Any] = {}
    for name, text in types.items():
        *outer, last = path_of(name, separator)
        inner = kind
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = [text[len("list<") : -1]] if text.startswith("list<") else text
    return kind


def overlay(known: Kind, declared: Kind) -> Kind:
    """What is known, with what is declared in its place."""
    if not isinstance(declared, dict):
        return declared
    fields = known if isinstance(known, dict) else {}
    return {**fields, **{name: overlay(fields.get(name, "null"), kind) for name, kind in declared.items()}}


def only(kind: Kind, wanted: Kind) -> Kind:
    """The fields of `kind` that `wanted` has too."""
    if isinstance(kind, dict) and isinstance(wanted, dict):
        return {name: only(kind[name], inner) for name, inner in wanted.items() if name in kind}
    return kind


def path_of(name: str, separator: str | None) -> list[str]:
    """The names of the nested fields that a column's name joins."""
    return name.split(separator) if separator else [name]


def arrow_type(kind: Kind) -> pa.DataType:
    """The type of a column of that kind."""
    if isinstance(kind, str):
        return _SCALARS[kind]
    if isinstance(kind, list):
        return pa.list_(arrow_type(kind[0]))
    return pa.struct([(name, arrow_type(inner)) for name, inner in kind.items()])


def count_fields(kind: Kind) -> int:
    """How many columns the kind takes in memory, those of nested objects included."""
    if isinstance(kind, str):
        return 1
    return 1 + sum(map(count_fields, kind if isinstance(kind, list) else kind.values()))


def flat_columns(kind: dict[str, Any], separator: str | None) -> list[tuple[str, list[str], Kind]]:
    """Name, path and kind of every column; without a separator those of the first level."""
    columns: list[tuple[str, list[str], Kind]] = []
    for name, inner in kind.items():
        if separator and isinstance(inner, dict) and inner:
            nested = flat_columns(inner, separator)
            columns += [(name + separator + last, [name, *path], leaf) for last, path, leaf in nested]
        else:
            columns.append((name, [name], inner))
    return columns


def flat_arrays(records: pa.RecordBatch, paths: Sequence[Sequence[str]]) -> list[pa.Array]:
    """The columns at `paths`; a field of an object that is missing is null."""
    arrays = []
    for first, *rest in paths:
        array = records.column(first)
        for name in rest:
            array = array.flatten()[array.type.get_field_index(name)]
        arrays.append(array)
    return arrays


def misfit(value: Any, kind: Kind, path: str = "") -> str | None:
    """Why `value` cannot be of that kind, for people; None where it can."""
    if value is None or (isinstance(kind, dict) and isinstance(value, dict)):
        fields = value.items() if isinstance(kind, dict) and value else ()
        found = (misfit(v, kind[n], f"{path}.{n}" if path else n) for n, v in fields if n in kind)
        return next(filter(None, found), None)
    if isinstance(kind, list) and isinstance(value, list):
        return next(filter(None, (misfit(item, kind[0], f"{path}[]") for item in value)), None)
    own = kind_of(value)
    if isinstance(kind, str) and (own == kind or (own == "int64" and kind == "float64")):
        return None
    if kind == "float64" and isinstance(value, int | Huge):
        return None
    column, text = f"column {path!r}", shorten(str(value) if isinstance(value, Huge) else repr(value), 80)
    if isinstance(value, int | Huge) and own == "null":
        return f"{column}: {text} is beyond 64 bits: declare it as string"
    wanted = kind if isinstance(kind, str) else "list" if isinstance(kind, list) else "object"
    allowed = _WORDS.get(wanted, "null" if wanted == "null" else f"a {wanted}".replace("a o", "an o"))
    return f"{column}: {text} is not {allowed}, as declared or as first seen: see `types`"
