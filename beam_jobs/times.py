"""Columns of times as microseconds since 1970 in UTC, whatever type a source gives them."""

from __future__ import annotations

from datetime import timedelta, timezone

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.split import parse_moment

# Per unit: what its numbers are multiplied and then divided by to be microseconds.
_SCALES = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}

Micros = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def is_time(kind: pa.DataType, unit: str | None) -> bool:
    """Whether a column of that type can hold times; one of whole numbers only if their `unit` is known."""
    if pa.types.is_integer(kind):
        return unit is not None
    return bool(
        pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_null(kind)
    )


def micros(column: pa.Array, zone: timezone, unit: str | None) -> tuple[Micros, Mask]:
    """The times int64 (n,), and which values are no times, bool (n,); both mean nothing where there is no value.

    Args:
      column: of timestamps, dates, texts in ISO 8601, or whole numbers of `unit`; see `is_time`.
      zone: of times that name none.
      unit: of whole numbers, which are in UTC.
    """
    kind = column.type
    bad = np.zeros(len(column), np.bool_)
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int64), bad
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_texts(column, zone)
    offset = timedelta(0)
    if pa.types.is_date(kind):
        column, unit, offset = column.cast(pa.date32()).cast(pa.timestamp("s")), "s", _offset(zone)
    elif pa.types.is_timestamp(kind):
        unit, offset = kind.unit, timedelta(0) if kind.tz is not None else _offset(zone)
    assert unit is not None
    numbers = np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))
    factor, divisor = _SCALES[unit]
    # What leaves the range of int64 is hundreds of thousands of years away, before or after everything.
    limit = np.iinfo(np.int64).max // (2 * factor)
    found = np.clip(numbers, -limit, limit) * factor // divisor
    return found - offset // timedelta(microseconds=1), bad


def _of_texts(column: pa.Array, zone: timezone) -> tuple[Micros, Mask]:
    # Few times are distinct where they are days; the others cost a microsecond each.
    encoded = pc.dictionary_encode(column)
    found = np.zeros(len(encoded.dictionary) + 1, np.int64)
    bad = np.zeros(len(found), np.bool_)
    for place, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            found[place] = parse_moment(text.strip(), zone)
        except ValueError:
            bad[place] = True
    places = pc.fill_null(encoded.indices, len(found) - 1).to_numpy(zero_copy_only=False)
    return found[places], bad[places]


def _offset(zone: timezone) -> timedelta:
    return zone.utcoffset(None)
