"""Records as they are written: the bytes of protobuf's own deterministic form, in frames whose CRCs are right."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import blocks
from beam_jobs.blocks import Block, join
from beam_jobs.encode import encode_records
from beam_jobs.frames import find_faults
from beam_jobs.sources._sets.example import _example_class
from schemas.framing import FOOTER_BYTES, HEADER_BYTES


def generator() -> np.random.Generator:
    """A generator of a seed that is printed."""
    seed = random.randrange(10**6)
    print("seed", seed)
    return np.random.default_rng(seed)


def lists(values: Any, sizes: Any) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def binary(values: list[bytes]) -> pa.Array:
    return pa.array(values, pa.large_binary())


def columns_of(kind: str, rng: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    """Columns of values that have one size, a few sizes, or any."""
    floats = pa.array(rng.normal(size=rows).astype(np.float32))
    if kind == "alike":
        return {
            "float": floats,
            "text": binary([b"%05d" % n for n in rng.integers(0, 10**5, rows)]),
            "small": pa.array(rng.integers(0, 100, rows)),
            "one": pa.array(np.full(rows, -7)),
            "empty": binary([b""] * rows),
            "pair": lists(rng.normal(size=2 * rows).astype(np.float32), np.full(rows, 2)),
            "no": lists(np.zeros(0, np.int64), np.zeros(rows, np.int64)),
        }
    if kind == "few":
        return {
            "float": floats,
            "a": pa.array(rng.integers(100, 200, rows)),
            "z": pa.array(rng.choice([1, 300, -1, 2**40], rows)),
            "text": binary([b"x" * int(n) for n in rng.integers(0, 9, rows)]),
            "last": binary([b"y" * int(n) for n in rng.integers(60, 65, rows)]),
        }
    sizes, others = rng.integers(0, 5, rows), rng.integers(0, 90, rows)
    return {
        "float": floats,
        "long": binary([rng.bytes(int(n)) for n in rng.integers(0, 700, rows)]),
        "list": lists(rng.normal(size=int(others.sum())).astype(np.float32), others),
        "whole": pa.array(rng.integers(-(2**63), 2**63 - 1, rows) >> rng.integers(0, 63, rows)),
        "numbers": lists(rng.integers(-9, 10**9, int(sizes.sum())), sizes),
        "twice": lists(np.full(2 * rows, 300), np.full(rows, 2)),
        "k" * 200: pa.array(rng.integers(0, 3, rows)),
    }


def expected(columns: dict[str, pa.Array], row: int) -> bytes:
    """The record by protobuf."""
    example = _example_class()()
    for name, column in columns.items():
        feature = example.features.feature[name]
        value = column[row].as_py()
        if pa.types.is_large_binary(column.type):
            feature.list_1.value.append(value)
            continue
        values = value if isinstance(value, list) else [value]
        kind = column.type.value_type if pa.types.is_large_list(column.type) else column.type
        target = feature.list_2 if pa.types.is_float32(kind) else feature.list_3
        target.SetInParent()
        target.value.extend(values)
    found: bytes = example.SerializeToString(deterministic=True)
    return found


@pytest.mark.parametrize("kind", ["alike", "few", "any"])
@pytest.mark.parametrize("rows", [1, 2, 700])
@pytest.mark.parametrize("piece", [blocks._PIECE_BYTES, 3000])
def test_records_are_those_of_protobuf(
    kind: str, rows: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_PIECE_BYTES", piece)
    columns = columns_of(kind, generator(), rows)
    # As a batch that is a part of another, whose columns do not begin at their buffers' first value.
    for part in (columns, {name: column.slice(rows // 3) for name, column in columns.items()}):
        records, sizes = encode_records(part)
        data = np.frombuffer(records.buffers()[2], np.uint8)
        assert len(data) == int(sizes.sum())
        assert [len(record) for record in records.to_pylist()] == sizes.tolist()
        ends = np.cumsum(sizes.astype(np.int64))
        assert not list(find_faults(data, ends - sizes.astype(np.int64), sizes.astype(np.int64)))
        for row, record in enumerate(records.to_pylist()):
            assert record[HEADER_BYTES:-FOOTER_BYTES] == expected(part, row)


def test_no_records() -> None:
    records, sizes = encode_records({"a": pa.array([], pa.int64()), "b": binary([])})
    assert (len(records), len(sizes)) == (0, 0)


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot encode a column of type double"):
        encode_records({"a": pa.array([1.0])})
    with pytest.raises(TypeError, match="cannot encode a list of double"):
        encode_records({"a": pa.array([[1.0]], pa.large_list(pa.float64()))})


def test_parts_are_joined_record_by_record() -> None:
    rng = generator()
    rows = 300
    texts = [rng.bytes(int(n)) for n in rng.integers(0, 100, rows)]
    short = [text[: int(n)] for text, n in zip(texts, rng.integers(0, 9, rows), strict=True)]
    matrix = np.frombuffer(rng.bytes(4 * rows), np.uint8).reshape(-1, 4)
    sizes = rng.integers(0, 5, rows)
    for parts in (
        [b"<", Block(matrix, sizes), binary(short), b">"],
        [binary(short), Block(matrix), Block(matrix, sizes)],
        [b"<", binary(texts), Block(matrix, sizes), binary(texts), b">"],
    ):
        found = join(parts, rows).to_pylist()
        for row in range(rows):
            wanted = b""
            for part in parts:
                if isinstance(part, bytes):
                    wanted += part
                elif isinstance(part, Block):
                    count = 4 if part.sizes is None else int(part.sizes[row])
                    wanted += matrix[row, :count].tobytes()
                else:
                    wanted += part[row].as_py()
            assert found[row] == wanted
