"""The index of a shard: what is written is read, and what contradicts itself is refused."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import HeadraceError, ShardIndex, read_index
from schemas.hashing import as_sortable, key_hashes
from schemas.index import (
    decode_bounds,
    decode_column,
    decode_index,
    encode_index,
    read_bounds,
    read_column,
)


def hashes(count: int) -> np.ndarray:
    rows = key_hashes([str(i).encode() for i in range(count)], 0)
    return rows[np.argsort(as_sortable(rows), order=("hi", "lo"))]


def index(lengths: list[int]) -> bytes:
    return encode_index(np.array(lengths, np.uint64), hashes(len(lengths)))


@given(st.lists(st.integers(16, 2**40), max_size=50))
def test_an_index_is_read_as_it_was_written(lengths: list[int]) -> None:
    found = decode_index(index(lengths), "i")
    assert found.lengths.tolist() == lengths
    assert found.offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    np.testing.assert_array_equal(found.key_hashes, hashes(len(lengths)))
    assert (len(found), found.end) == (len(lengths), sum(lengths))


def test_equal_contents_have_equal_bytes() -> None:
    assert index([16, 20, 30]) == index([16, 20, 30])


def test_any_arrow_reader_reads_it() -> None:
    table = pa.ipc.open_file(pa.py_buffer(index([16, 20]))).read_all()
    assert table.schema.names == ["offset", "length", "key_hash"]
    assert table["offset"].to_pylist() == [0, 16]


def test_an_index_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "i.arrow").write_bytes(index([16]))
    assert read_index(tmp_path / "i.arrow").end == 16


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=r"A shard's index is missing.\n  where:   .*i\.arrow"):
        read_index(tmp_path / "i.arrow")


def arrow(columns: dict[str, pa.Array], version: str | None = "2") -> bytes:
    sink = io.BytesIO()
    metadata = {"headrace_index_version": version} if version is not None else None
    fields = [pa.field(name, array.type, nullable=False) for name, array in columns.items()]
    schema = pa.schema(fields, metadata=metadata)
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return sink.getvalue()


def columns(offsets: list[int], lengths: list[int], keys: list[bytes]) -> dict[str, pa.Array]:
    return {
        "offset": pa.array(offsets, pa.uint64()),
        "length": pa.array(lengths, pa.uint64()),
        "key_hash": pa.array(keys, pa.binary(16)),
    }


LOW, HIGH = bytes(16), b"\xff" * 16
GOOD = columns([0, 16], [16, 20], [LOW, HIGH])


def test_what_another_arrow_writer_made_is_read() -> None:
    assert decode_index(arrow(GOOD), "i").end == 36


def test_an_index_in_several_batches_is_read() -> None:
    table = pa.ipc.open_file(pa.py_buffer(arrow(GOOD))).read_all()
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for row in range(2):
            writer.write_table(table.slice(row, 1))
    found = decode_index(sink.getvalue(), "i")
    assert [row.tobytes() for row in found.key_hashes] == [LOW, HIGH]


def test_an_index_of_the_first_version_is_read() -> None:
    assert decode_index(arrow(GOOD, "1"), "i").end == 36
    assert decode_bounds(arrow(GOOD, "1"), "i").tolist() == [0, 16, 36]


@pytest.mark.parametrize("version", ["3", None])
def test_another_version_is_refused(version: str | None) -> None:
    with pytest.raises(HeadraceError, match="The index was written by another version of Headrace") as caught:
        decode_index(arrow(GOOD, version), "i")
    assert caught.value.value == f"index version {version or 'none'}"
    assert caught.value.allowed == "index version 1 or 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (columns([0, 17], [16, 20], [LOW, HIGH]), r"offsets and lengths contradict each other.\n.*i, row 1"),
        (columns([5, 21], [16, 20], [LOW, HIGH]), r"offsets and lengths contradict each other.\n.*i, row 0"),
        (columns([0, 15], [15, 20], [LOW, HIGH]), r"a record shorter than a TFRecord frame.\n.*i, row 0"),
        (columns([0, 16], [16, 20], [HIGH, LOW]), "The index is not in key-hash order"),
        (columns([0, 2**63], [2**63, 2**63 + 32], [LOW, HIGH]), r"larger than any file can be.\n.*i, row 1"),
        ({**GOOD, "extra": pa.array([1, 2])}, "This is not an intact shard index"),
        ({"offset": GOOD["offset"]}, "This is not an intact shard index"),
        ({**GOOD, "feature/x": pa.array(["a", "b"])}, "its column 'feature/x' is string"),
        ({**GOOD, "feature/x": pa.array([1, 2], pa.int32())}, "its column 'feature/x' is int32"),
        ({**GOOD, "length/x": pa.array([1, 2], pa.int64())}, "its column 'length/x' is int64"),
        ({**GOOD, "feature/x": pa.array([1, None])}, "This is not an intact shard index"),
        (
            {**GOOD, "feature/x": pa.array(["a", "a"]).dictionary_encode()},
            "its column 'feature/x' is dictionary",
        ),
        ({**GOOD, "offset": pa.array([0, 16], pa.int64())}, "This is not an intact shard index"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(content: dict[str, pa.Array], message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        decode_index(arrow(content), "i")


def test_a_hash_is_compared_as_bytes_not_as_numbers_of_this_machine() -> None:
    first, second = b"\x00" * 7 + b"\x02" + bytes(8), b"\x01" + bytes(15)
    decode_index(arrow(columns([0, 16], [16, 16], [first, second])), "i")
    with pytest.raises(HeadraceError, match="not in key-hash order"):
        decode_index(arrow(columns([0, 16], [16, 16], [second, first])), "i")


def test_an_index_that_no_reader_accepts_is_not_written() -> None:
    rows = hashes(50)
    turned = np.concatenate([as_sortable(rows)[:25], as_sortable(rows)[25:]])  # little-endian from here on
    with pytest.raises(HeadraceError, match="The index is not in key-hash order"):
        encode_index(np.full(50, 16, np.uint64), turned.view(np.uint8).reshape(-1, 16))
    with pytest.raises(HeadraceError, match="a record shorter than a TFRecord frame"):
        encode_index(np.array([3], np.uint64), rows[:1])


# --- features ---

MORE = {
    "feature/label": pa.array([3, -1, 1 << 40, 0]),
    "feature/share": pa.array([0.5, float("nan"), -0.0, 1e30], pa.float32()),
    "feature/title": pa.array(["a", "", "ü\0", "long " * 20], pa.large_string()),
    "feature/wet": pa.array([True, False, False, True]),
    "length/ids": pa.array([0, 7, 2, 1], pa.int32()),
}
WHOLE = encode_index(np.full(4, 16, np.uint64), hashes(4), MORE)


def test_what_an_index_holds_of_features_is_read() -> None:
    found = decode_index(WHOLE, "i")
    assert list(found.columns) == sorted(MORE)
    for name, column in MORE.items():
        np.testing.assert_array_equal(found.columns[name].to_pylist(), column.to_pylist())


@pytest.mark.parametrize(
    ("feature", "dtype"), [("label", "i8"), ("share", "f4"), ("title", "O"), ("wet", "?"), ("ids", "i4")]
)
def test_one_column_is_read_as_an_array(feature: str, dtype: str, tmp_path: Path) -> None:
    wanted = next(column for name, column in MORE.items() if name.endswith(f"/{feature}"))
    (tmp_path / "i").write_bytes(WHOLE)
    for found in (decode_column(WHOLE, feature, "i"), read_column(tmp_path / "i", feature)):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.tolist(), wanted.to_pylist())
    empty = encode_index(
        np.zeros(0, np.uint64), hashes(0), {name: column[:0] for name, column in MORE.items()}
    )
    assert decode_column(empty, feature, "i").dtype == dtype


def test_bounds_are_read_alone(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(WHOLE)
    assert read_bounds(tmp_path / "i").tolist() == [0, 16, 32, 48, 64]
    assert decode_bounds(index([]), "i").tolist() == [0]


def test_a_feature_that_is_not_in_the_index_is_named_with_those_that_are() -> None:
    with pytest.raises(HeadraceError, match="The index holds nothing of a feature 'fare'") as caught:
        decode_column(WHOLE, "fare", "i")
    assert caught.value.allowed == "label, share, title, wet, ids"
    assert "`index: [...]`" in str(caught.value.hint)
    with pytest.raises(HeadraceError, match="none: this index holds no feature"):
        decode_column(index([16]), "fare", "i")


def test_equal_features_have_equal_bytes_however_they_are_held() -> None:
    for shift in (1, 3):
        sliced = {name: pa.concat_arrays([column[:shift], column])[shift:] for name, column in MORE.items()}
        assert encode_index(np.full(4, 16, np.uint64), hashes(4), dict(reversed(sliced.items()))) == WHOLE


def test_no_index_is_written_that_no_reader_accepts_for_its_features() -> None:
    with pytest.raises(pa.ArrowInvalid, match="its column 'feature/x' is double"):
        encode_index(np.full(2, 16, np.uint64), hashes(2), {"feature/x": pa.array([0.1, 0.2])})


def test_damage_is_refused_or_harmless() -> None:
    rng = random.Random(1)
    for turn in range(2000):
        whole = (index(list(range(16, 60))), WHOLE)[turn % 2]
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            damaged = bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
            found = decode_index(damaged, "i")
            decode_column(damaged, rng.choice(["label", "title", "wet", "ids"]), "i")
        except HeadraceError:
            continue
        assert isinstance(found, ShardIndex)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(HeadraceError, match="This is not an intact shard index"):
        decode_index(data, "i")
