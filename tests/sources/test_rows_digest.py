from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.sources._sql.chunks import from_arrow
from beam_jobs.sources._sql.digest import RowsDigest
from beam_jobs.sources._sql.statements import Column, Table, as_from
from beam_jobs.sources.base import Fault
from schemas.sources import SqlSource

TABLE: dict[str, tuple[pa.DataType, list[Any]]] = {
    "number": (pa.int64(), [1, None, -(2**63), 4, 5]),
    "real": (pa.float64(), [1.5, None, float("inf"), -0.0, 3.0]),
    "yes": (pa.bool_(), [True, None, False, True, True]),
    "text": (pa.string(), ["", None, "né", "long " * 30, "x"]),
    "raw": (pa.large_binary(), [b"\xff", None, b"", b"abc", b"\0"]),
    "list": (pa.list_(pa.int64()), [[1, None], None, [], [3], [4, 5]]),
    "words": (pa.list_(pa.string()), [["a", "bc"], None, [], [None], ["d"]]),
}
FLAT = [(kind, values) for kind, values in TABLE.values() if not pa.types.is_list(kind)]
EVERY = [pa.array(values, kind) for kind, values in TABLE.values()]


def digest(*parts: list[pa.Array], faults: list[Fault] | None = None) -> str:
    made = RowsDigest()
    for part in parts:
        made.add(part)
    made.add([array[:0] for array in EVERY], faults or [])
    return made.hex()


def test_it_does_not_tell_how_rows_were_cut() -> None:
    whole = digest(EVERY)
    many = [pa.concat_arrays([array] * 40) for array in EVERY]
    for cuts in ([2], [1, 3], [1, 2, 3, 4], [0, 5]):
        borders = [0, *cuts, 5]
        parts = [[array[low:high] for array in EVERY] for low, high in pairwise(borders)]
        assert digest(*parts) == whole
        assert digest(*parts * 40) == digest(many)


def test_it_tells_every_value_and_its_place() -> None:
    found = [digest(EVERY)]
    for place, (kind, values) in enumerate(TABLE.values()):
        for row, kept in enumerate(values):
            for value in {repr(value): value for value in values if repr(value) != repr(kept)}.values():
                changed = [*values[:row], value, *values[row + 1 :]]
                found.append(digest([*EVERY[:place], pa.array(changed, kind), *EVERY[place + 1 :]]))
    found.append(digest(EVERY[::-1]))
    found.append(digest([array.take(pa.array([1, 0, 2, 3, 4])) for array in EVERY]))
    found.append(digest(EVERY, EVERY))
    found += [digest(EVERY, faults=[Fault(row, "bad_type", "no number", b"x")]) for row in (6, 7)]
    assert len(found) > 100
    assert len(set(found)) == len(found)


def test_it_does_not_tell_what_lies_under_nulls() -> None:
    """Clients leave there what they like."""
    full = [pa.array([kept or next(filter(None, values)) for kept in values], kind) for kind, values in FLAT]
    for number in range(1, 32):
        valid = pa.py_buffer(bytes([number]))
        hidden = [
            pa.Array.from_buffers(array.type, 5, [valid, *array.buffers()[1:]])[start:]
            for array in full
            for start in (0, 1)
        ]
        plain = [pa.array(array.to_pylist(), array.type) for array in hidden]
        assert digest(hidden) == digest(plain)


def test_it_is_the_same_in_every_version() -> None:
    """Partitions of databases are known again by it: a change here has them all built again."""
    assert digest(EVERY) == "474b506967913e2933841042702d9728"


@pytest.mark.parametrize("kept", [slice(None), slice(1, None), slice(0, 1), slice(2, 3)])
def test_text_that_is_no_utf8_is_a_fault(kept: slice) -> None:
    values = [b"plain", b"n\xc3\xa9", b"b\xffd", b"", b"cut \xc3"]
    text = pa.Array.from_buffers(
        pa.string(),
        5,
        [None, pa.py_buffer(np.cumsum([0, *map(len, values)], dtype="<i4")), pa.py_buffer(b"".join(values))],
    )
    spec = SqlSource(kind="sql", url="duckdb:///x", table="t", key="id")
    columns = [Column("id", "int64"), Column("text", "string")]
    table = Table(as_from(spec, "sources.rows", ["id", "text"]), columns, 2, [0], [0], by=False)
    batch = pa.RecordBatch.from_arrays([pa.array(range(5)), text], names=["id", "text"])[kept]
    chunk = from_arrow(batch, table)
    bad = [row for row, place in enumerate(range(5)[kept]) if place in (2, 4)]
    assert [(fault.row, fault.rule, fault.raw) for fault in chunk.faults] == [
        (row, "bad_encoding", values[kept][row]) for row in bad
    ]
    assert chunk.records.column("text").to_pylist() == [
        value.decode() for row, value in enumerate(values[kept]) if row not in bad
    ]
    assert chunk.total == len(batch)
