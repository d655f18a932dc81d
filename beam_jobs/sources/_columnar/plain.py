"""Columns of nested and exact types to what features are made of: numbers, texts, bytes, and lists of them.

First a column is taken apart into leaves (`flatten`), then each leaf gets the type that it has in all files
(`widened`), and last what features can be made of (`plain_type`).

  struct                  one column `name.field` for each field
  list of structs         one column of lists for each field
  map                     `name.key` and `name.value`, two columns of lists
  dictionary, run-end     decoded
  extension               what it is stored as
  integers                int64; uint64 stays
  float16                 float32
  decimal                 float64; int64 without places after the point
  date, time, timestamp,  int64 of a unit, or text
    duration
  binary of any form      large_binary
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from beam_jobs.batch import OWN_PREFIX
from schemas.errors import HeadraceError, shorten

_MAX_DEPTH = 32
_SECONDS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


class Leaf(NamedTuple):
    """One column after flattening.

    Attributes:
      type: as `canonical` gives it, or None where nothing can be made of it.
      path: the fields that lead to it, as far as they are structs.
      stored: its type in the file.
    """

    type: pa.DataType | None
    path: tuple[str, ...]
    stored: str


def leaves_of(schema: pa.Schema, where: str) -> dict[str, Leaf]:
    """The leaves of a file's schema, by name.

    Raises:
      HeadraceError: two have one name, or one is called as only Headrace's own may be.
    """
    leaves: dict[str, Leaf] = {}
    for field in schema:
        path = (field.name,)
        for name, kind, deeper in _leaf_types(field.name, field.type, path, where):
            if name in leaves:
                raise HeadraceError(
                    "Two columns have one name.",
                    where=where,
                    value=shorten(name, 80),
                    hint="`a.b` is also what field b of a nested column a is called.",
                )
            if name.startswith(OWN_PREFIX):
                raise HeadraceError(
                    "A column has a name of Headrace's own.",
                    where=where,
                    value=shorten(name, 80),
                    allowed=f"names that do not begin with {OWN_PREFIX}",
                )
            leaves[name] = Leaf(canonical(kind), deeper, str(kind))
    return leaves


def _leaf_types(
    name: str, kind: pa.DataType, path: tuple[str, ...], where: str, *, listed: bool = False, depth: int = 0
) -> Iterator[tuple[str, pa.DataType, tuple[str, ...]]]:
    if depth > _MAX_DEPTH:
        raise HeadraceError(
            "A column is nested too deeply.",
            where=where,
            value=shorten(name, 80),
            allowed=f"{_MAX_DEPTH} levels",
        )
    deeper: dict[str, Any] = {"where": where, "depth": depth + 1}
    if isinstance(kind, pa.BaseExtensionType):
        yield from _leaf_types(name, kind.storage_type, path, listed=listed, **deeper)
    elif pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        yield from _leaf_types(name, kind.value_type, path, listed=listed, **deeper)
    elif pt.is_struct(kind):
        for field in kind:
            below = path if listed else (*path, field.name)
            yield from _leaf_types(f"{name}.{field.name}", field.type, below, listed=listed, **deeper)
    elif pt.is_map(kind):
        for part, inner in (("key", kind.key_type), ("value", kind.item_type)):
            for leaf, type_, _ in _leaf_types(f"{name}.{part}", inner, path, listed=True, **deeper):
                yield leaf, pa.large_list(type_), path
    elif _is_list(kind):
        for leaf, type_, _ in _leaf_types(name, kind.value_type, path, listed=True, **deeper):
            yield leaf, pa.large_list(type_), path
    else:
        yield name, kind, path


def flatten(name: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """A column's leaves, in the order and with the names that `leaves_of` gives them."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from flatten(name, array.storage)
    elif pt.is_dictionary(kind):
        yield from flatten(name, array.dictionary_decode())
    elif pt.is_run_end_encoded(kind):
        yield from flatten(name, pc.run_end_decode(array))
    elif pt.is_struct(kind):
        for field, child in zip(kind, array.flatten(), strict=True):
            yield from flatten(f"{name}.{field.name}", child)
    elif pt.is_map(kind):
        for part, values in (("key", array.keys), ("value", array.items)):
            for leaf, child in _lists(f"{name}.{part}", array, values):
                yield leaf, child
    elif _is_list(kind):
        if not pt.is_large_list(kind):
            array = array.cast(pa.large_list(kind.value_field))
        yield from _lists(name, array, array.values)
    else:
        yield name, array


def _lists(name: str, array: pa.Array, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    offsets = np.asarray(array.offsets, dtype=np.int64)
    low, high = int(offsets[0]), int(offsets[-1])
    lists = pa.array(offsets - low)
    mask = array.is_null() if array.null_count else None
    for leaf, child in flatten(name, values.slice(low, high - low)):
        yield leaf, pa.LargeListArray.from_arrays(lists, child, mask=mask)


def canonical(kind: pa.DataType) -> pa.DataType | None:
    """The type of a leaf without what only says how wide it is stored; None where nothing can be made of it."""
    if pt.is_uint64(kind) or pt.is_boolean(kind) or pt.is_null(kind):
        return kind
    if pt.is_integer(kind):
        return pa.int64()
    if pt.is_floating(kind):
        return pa.float64() if pt.is_float64(kind) else pa.float32()
    if pt.is_decimal(kind):
        return kind if pt.is_decimal256(kind) else pa.decimal128(kind.precision, kind.scale)
    if pt.is_string(kind) or pt.is_string_view(kind):
        return pa.string()
    if pt.is_large_string(kind):
        return kind
    if (
        pt.is_binary(kind)
        or pt.is_large_binary(kind)
        or pt.is_fixed_size_binary(kind)
        or pt.is_binary_view(kind)
    ):
        return pa.large_binary()
    if pt.is_timestamp(kind):
        return pa.timestamp(kind.unit, None if kind.tz is None else "UTC")
    if pt.is_date(kind):
        return pa.date32()
    if pt.is_time(kind) or pt.is_duration(kind):
        return kind
    if pt.is_large_list(kind):
        inner = canonical(kind.value_type)
        return None if inner is None else pa.large_list(inner)
    return None


def widened(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, None where there is none.

    Whole numbers and float32 meet in float64, decimals in one with the digits of both, timestamps in the finer
    unit, text and bytes in bytes; nothing meets a bool, and no time meets another kind of time.
    """
    if a.equals(b) or pt.is_null(b):
        return a
    if pt.is_null(a):
        return b
    if pt.is_large_list(a) and pt.is_large_list(b):
        inner = widened(a.value_type, b.value_type)
        return None if inner is None else pa.large_list(inner)
    if pt.is_timestamp(a) and pt.is_timestamp(b):
        return pa.timestamp(_finer(a, b), a.tz) if a.tz == b.tz else None
    if pt.is_time(a) and pt.is_time(b):
        return _time(_finer(a, b))
    if pt.is_duration(a) and pt.is_duration(b):
        return pa.duration(_finer(a, b))
    texts = [pt.is_string(kind) or pt.is_large_string(kind) for kind in (a, b)]
    if all(texts):
        return pa.large_string()
    if any(texts) and (pt.is_large_binary(a) or pt.is_large_binary(b)):
        return pa.large_binary()
    return _wider_number(a, b)


def _wider_number(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if not all(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) for kind in (a, b)):
        return None
    if pt.is_floating(a) or pt.is_floating(b):
        return pa.float64()
    if not (pt.is_decimal(a) or pt.is_decimal(b)):
        return None  # int64 and uint64: no type holds both exactly
    (digits, scale), (other_digits, other_scale) = _digits(a), _digits(b)
    scale, precision = max(scale, other_scale), max(digits, other_digits) + max(scale, other_scale)
    if precision > 76:
        return None
    exact = pa.decimal128 if precision <= 38 else pa.decimal256
    return exact(precision, scale)


def _digits(kind: pa.DataType) -> tuple[int, int]:
    """Digits before and after the point."""
    return (kind.precision - kind.scale, kind.scale) if pt.is_decimal(kind) else (20, 0)


def _finer(a: pa.DataType, b: pa.DataType) -> str:
    return max(a.unit, b.unit, key=lambda unit: _SECONDS[unit])


def _time(unit: str) -> pa.DataType:
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def plain_type(kind: pa.DataType, times: str) -> pa.DataType:
    """What a leaf of that type becomes; `times` is a unit or `text`."""
    if pt.is_large_list(kind):
        return pa.large_list(plain_type(kind.value_type, times))
    if pt.is_decimal(kind):
        return pa.int64() if kind.scale <= 0 else pa.float64()
    if pt.is_temporal(kind):
        return pa.int64() if times != "text" or pt.is_duration(kind) else pa.string()
    return kind


def to_type(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """A leaf in the type it has in all files, null where a value does not fit, and the places of those."""
    if array.type.equals(kind):
        return array, []
    return _cast(array, kind)


def to_plain(array: pa.Array, times: str) -> tuple[pa.Array, list[int]]:
    """A leaf as features need it, null where a value does not fit, and the places of those."""
    kind = array.type
    if pt.is_large_list(kind):
        values, bad = to_plain(array.values, times)
        lists = pa.LargeListArray.from_arrays(
            pa.array(np.asarray(array.offsets)), values, mask=array.is_null() if array.null_count else None
        )
        owners = np.searchsorted(np.asarray(array.offsets), bad, side="right") - 1
        return lists, np.unique(owners).tolist()
    if pt.is_temporal(kind) and not (times == "text" and plain_type(kind, times).equals(pa.string())):
        array, bad = _cast(array, _in_unit(kind, "us" if times == "text" else times))
        return (array.cast(pa.int32()) if array.type.bit_width == 32 else array).cast(pa.int64()), bad
    return to_type(array, plain_type(kind, times))


def _in_unit(kind: pa.DataType, unit: str) -> pa.DataType:
    if pt.is_timestamp(kind):
        return pa.timestamp(unit, kind.tz)
    if pt.is_time(kind):
        return _time(unit)
    return pa.duration(unit) if pt.is_duration(kind) else kind


def bad_texts(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """A leaf with null in place of each text that is no UTF-8, which pyarrow does not look at, and their places."""
    kind = array.type
    if pt.is_large_list(kind):
        values, bad = bad_texts(array.values)
        if not bad:
            return array, []
        offsets = np.asarray(array.offsets)
        owners = np.unique(np.searchsorted(offsets, bad, side="right") - 1)
        return pa.LargeListArray.from_arrays(pa.array(offsets), values), owners.tolist()
    if not (pt.is_string(kind) or pt.is_large_string(kind)):
        return array, []
    try:
        array.validate(full=True)
        return array, []
    except pa.ArrowInvalid:
        return _cast(as_binary(array), kind)


def as_binary(texts: pa.Array) -> pa.Array:
    """Texts as the bytes they are, whatever those are."""
    return texts.view(pa.binary() if pt.is_string(texts.type) else pa.large_binary())


def _cast(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """`array` as `kind`, null where a value cannot be, and their places: found by halving."""
    try:
        # A time may lose what is finer than its unit; nothing else is rounded.
        return pc.cast(array, options=pc.CastOptions(target_type=kind, allow_time_truncate=True)), []
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, kind), [0]
    half = len(array) // 2
    left, left_bad = _cast(array[:half], kind)
    right, right_bad = _cast(array[half:], kind)
    return pa.concat_arrays([left, right]), left_bad + [place + half for place in right_bad]


def union_of(files: Iterable[tuple[str, Mapping[str, Leaf]]], where: str) -> dict[str, pa.DataType]:
    """The columns of all files together, and the type of each: see `widened`.

    Args:
      files: each file's name as people see it, and its leaves.
      where: the source's place in the job.

    Raises:
      HeadraceError: a column's types do not fit together, or nothing can be made of one.
    """
    found: dict[str, pa.DataType] = {}
    first: dict[str, str] = {}
    before: Mapping[str, Leaf] = {}
    for file, leaves in files:
        if leaves == before:
            continue
        before = leaves
        for name, leaf in leaves.items():
            if leaf.type is None:
                raise HeadraceError(
                    "Nothing can be made of a column of that type.",
                    where=f"{where}, {file}, column {shorten(name, 80)}",
                    value=leaf.stored,
                    hint="Name the columns to read with `columns:`.",
                )
            earlier = found.setdefault(name, leaf.type)
            both = widened(earlier, leaf.type)
            if both is None:
                raise HeadraceError(
                    "Two files have a column of one name whose types do not fit together.",
                    where=f"{where}, {file}, column {shorten(name, 80)}",
                    value=f"{leaf.type} here, {earlier} in {first[name]}",
                    allowed="whole numbers with floats, decimals, timestamps of any unit, text with bytes",
                    hint="Make two sources of them, or leave the column out with `columns:`.",
                )
            if name not in first or not both.equals(earlier):
                first[name] = file
            found[name] = both
    return found


def _is_list(kind: pa.DataType) -> bool:
    return (
        pt.is_list(kind)
        or pt.is_large_list(kind)
        or pt.is_fixed_size_list(kind)
        or pt.is_list_view(kind)
        or pt.is_large_list_view(kind)
    )
