"""Columns packed as their values come hold what was given, however it came, and tell what does not belong."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.sources._sql import values as sql_values
from beam_jobs.sources._sql.statements import ARROW, Column
from beam_jobs.sources._sql.values import Values
from beam_jobs.sources.base import Fault

ROWS = 64
EDGES = [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64]
EDGES += [1e300, float("inf"), -0.0, 0.1, "", "ascii", "né", "\0", "a\0b", "lone \udcff", b"", b"\xff"]
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": st.floats(allow_nan=False) | st.integers(-(2**53), 2**53),
    "string": st.text(st.characters(max_codepoint=127)) | st.text(),
    "bytes": st.binary(),
}
BELONGS: dict[str, Callable[[Any], bool]] = {
    "int64": lambda value: is_whole(value) and -(2**63) <= value < 2**63,
    "uint64": lambda value: is_whole(value) and 0 <= value < 2**64,
    "float64": lambda value: isinstance(value, float) or (isinstance(value, int) and abs(value) <= 2**53),
    # SQLite gives bytes or text for what it holds; Arrow takes either for the other where it is UTF-8.
    "string": lambda value: isinstance(value, str | bytes) and is_utf8(value),
    "bytes": lambda value: isinstance(value, bytes) or (isinstance(value, str) and is_utf8(value)),
}


def gathered(kind: str, steps: list[list[Any]]) -> tuple[pa.Array, dict[int, Fault], Values, int]:
    column, faults = Values(Column("c", kind), ROWS), {}
    size = sum(column.extend(tuple(step)) for step in steps)
    array = column.array(faults)
    array.validate(full=True)
    return array, faults, column, size


@st.composite
def steps_of(draw: st.DrawFn, kind: str) -> list[list[Any]]:
    value = USUAL[kind]
    if draw(st.booleans()):
        value |= st.none()
    if draw(st.booleans()):
        value |= st.sampled_from(EDGES)
    return draw(st.lists(st.lists(value, min_size=1, max_size=8), min_size=1, max_size=ROWS // 8))


@pytest.mark.parametrize("kind", USUAL)
@settings(deadline=None)
@given(data=st.data())
def test_any_values_in_any_steps(kind: str, data: st.DataObject) -> None:
    steps = data.draw(steps_of(kind))
    values = list(chain.from_iterable(steps))
    array, faults, column, size = gathered(kind, steps)
    assert array.type == ARROW[kind]
    expected, places = [], set()
    for row, value in enumerate(values):
        if value is None or BELONGS[kind](value):
            expected.append(value)
        else:
            expected.append(None)
            places.add(row)
    found = array.to_pylist()
    assert set(faults) == places
    assert [repr(one) for one in found] == [repr(as_kind(kind, one)) for one in expected]
    assert array.null_count == expected.count(None)
    for row in (0, -1):  # also where it is a fault
        assert column.end(row, array) == values[row]
    assert size >= sum(8 + (len(value) if isinstance(value, str | bytes) else 0) for value in values)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def is_utf8(value: str | bytes) -> bool:
    try:
        return bool(value.decode() if isinstance(value, bytes) else value.encode()) or not value
    except UnicodeError:
        return False


def as_kind(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind in ("int64", "uint64"):
        return int(value)
    if kind == "float64":
        return float(value)
    if kind == "bytes":
        return value.encode() if isinstance(value, str) else value
    return value.decode() if isinstance(value, bytes) else value


def test_large_texts_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [["ab", "cde"], ["long " * 8], ["f"]]
    small, *_ = gathered("string", texts)
    monkeypatch.setattr(sql_values, "_PACKED_TEXT_BYTES", 16)
    array, _, column, _ = gathered("string", texts)
    assert column._packed is None
    assert array.equals(small)
    assert array.to_pylist() == list(chain.from_iterable(texts))
