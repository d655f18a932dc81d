"""What sources of columnar files have in common: columns, files that differ, folders, damage. Most with Parquet."""

from __future__ import annotations

import datetime
import os
import random
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.sources import Source
from beam_jobs.sources._columnar import chunks as columnar_chunks
from beam_jobs.sources._columnar.chunks import Chunk, cut_chunks
from beam_jobs.sources._columnar.plain import canonical, widened
from beam_jobs.sources._columnar.sizes import decoded_bytes, small_batches
from schemas.errors import HeadraceError

from .columnar import open_columnar, rows_of
from .conformance import faults_of, read_all, records_of

UTC = datetime.UTC
WHEN = datetime.datetime(2024, 2, 29, 12, 30, 1, 250000, tzinfo=UTC)
DAY = datetime.date(2024, 2, 29)
NESTED = pa.table(
    {
        "small": pa.array([1, None], pa.int8()),
        "big": pa.array([2**64 - 1, None], pa.uint64()),
        "half": pa.array([0.5, None], pa.float32()),
        "price": pa.array([Decimal("12.50"), None]),
        "whole": pa.array([Decimal(10**17), None], pa.decimal128(38, 0)),
        "when": pa.array([WHEN, None], pa.timestamp("ms", "Europe/Berlin")),
        "day": pa.array([DAY, None]),
        "time": pa.array([datetime.time(1, 2, 3), None], pa.time32("s")),
        "code": pa.array([b"abcd", None], pa.binary(4)),
        "city": pa.array(["Graz", None]).dictionary_encode(),
        "place": [{"x": 1, "name": {"de": "Wien", "en": "Vienna"}}, None],
        "tags": [[{"name": "a", "n": 1}, {"name": None, "n": 2}], None],
        "attributes": pa.array([[("k", 1.5)], None], pa.map_(pa.string(), pa.float64())),
        "vector": pa.array([[1.0, 2.0], None], pa.list_(pa.float32())),
        "deep": [[[1], [], [2, 3]], None],
        "nothing": pa.nulls(2),
    }
)


def files(place: Path, *tables: pa.Table) -> Path:
    """A Parquet file for each table."""
    for number, table in enumerate(tables):
        pq.write_table(table, place / f"{number}.parquet")
    return place


def parquet(place: Path | str, **options: Any) -> Source:
    return open_columnar("parquet", place, **options)


def test_what_columns_become(tmp_path: Path) -> None:
    source = parquet(files(tmp_path, NESTED))
    first, second = records_of(source)
    assert first == {
        "small": 1,
        "big": 2**64 - 1,
        "half": 0.5,
        "price": 12.5,
        "whole": 10**17,
        "when": int(WHEN.timestamp() * 1e6),
        "day": (DAY - datetime.date(1970, 1, 1)).days,
        "time": 3723 * 10**6,
        "code": b"abcd",
        "city": "Graz",
        "place.x": 1,
        "place.name.de": "Wien",
        "place.name.en": "Vienna",
        "tags.name": ["a", None],
        "tags.n": [1, 2],
        "attributes.key": ["k"],
        "attributes.value": [1.5],
        "vector": [1.0, 2.0],
        "deep": [[1], [], [2, 3]],
        "nothing": None,
    }
    assert set(second.values()) == {None}
    types = {str(kind) for batch in read_all(source) for kind in batch.records.schema.types}
    assert {"int64", "uint64", "float", "double", "large_binary", "string"} <= types


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ("s", [int(WHEN.timestamp()), 19782, 3723]),
        ("ms", [int(WHEN.timestamp() * 1000), 19782, 3723000]),
        ("ns", [int(WHEN.timestamp() * 1000) * 10**6, 19782, 3723 * 10**9]),
        ("text", ["2024-02-29 12:30:01.250Z", "2024-02-29", "01:02:03.000"]),
    ],
)
def test_times(tmp_path: Path, times: str, wanted: list[Any]) -> None:
    source = parquet(files(tmp_path, NESTED), times=times, columns=["when", "day", "time"])
    assert list(records_of(source)[0].values()) == wanted


def test_times_that_do_not_fit_are_faults(tmp_path: Path) -> None:
    table = pa.table({"when": pa.array([0, 10**15, 1], pa.timestamp("ms"))})
    source = parquet(files(tmp_path, table), times="ns")
    assert [(origin, rule) for origin, rule, _ in faults_of(source)] == [("0.parquet, row 2", "bad_type")]
    assert [record["when"] for record in records_of(source)] == [0, 10**6]


def test_slices_of_nested_columns(tmp_path: Path) -> None:
    """Every part of a row group has its own values, wherever it begins."""
    table = pa.concat_tables([NESTED] * 60).append_column("n", pa.array(range(120)))
    place = files(tmp_path, table)
    whole = parquet(place)
    source = parquet(place, partition_bytes=2000)
    partitions = source.partitions()
    assert len(whole.partitions()) == 1 < 9 < len(partitions)
    expected = records_of(whole)
    found = {p.ordinal: [r for b in source.read(p) for r in b.records.to_pylist()] for p in partitions}
    assert [record for ordinal in sorted(found) for record in found[ordinal]] == expected
    order = list(range(len(partitions)))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(order)
    for ordinal in order:  # whichever parts were read before
        batches = list(source.read(partitions[ordinal]))
        assert [record for batch in batches for record in batch.records.to_pylist()] == found[ordinal]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_only_the_columns_asked_for_are_read(kind: str, tmp_path: Path) -> None:
    table = rows_of(0, 5).append_column("odd", pa.array([{"a": i, "b": [i]} for i in range(5)]))
    file = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "orc":
        pa.orc.write_table(table, file)
    else:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    source = open_columnar(kind, file, columns=["odd.b", "number"], key="id")
    assert source.columns() == ["number", "odd.b"]
    assert records_of(source)[2] == {"number": 2, "odd.b": [2]}
    assert [key for batch in read_all(source) for key in batch.keys.to_pylist()][1] == b"r00001"
    assert open_columnar(kind, file, columns=["odd"]).columns() == ["odd.a", "odd.b"]


def test_other_columns_change_no_identity(tmp_path: Path) -> None:
    place = files(tmp_path, rows_of(0, 5))
    source = parquet(place, columns=["number"])
    before = [partition.identity for partition in source.partitions()]
    files(tmp_path, rows_of(0, 5).set_column(1, "text", pa.array(["other"] * 5)))
    assert [partition.identity for partition in source.partitions()] == before
    files(tmp_path, rows_of(1, 5))
    assert [partition.identity for partition in source.partitions()] != before


def test_the_same_bytes_of_another_type_have_another_identity(tmp_path: Path) -> None:
    numbers = np.array([-1, 5], np.int32)
    options: dict[str, Any] = {"use_dictionary": False, "write_statistics": False}
    found = []
    for kind in ("int32", "uint32"):
        pq.write_table(pa.table({"x": pa.array(numbers.view(kind))}), tmp_path / "t.parquet", **options)
        found.append(parquet(tmp_path).partitions()[0].identity)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        (None, [b"0.parquet:1", b"0.parquet:2"]),
        ("n", [b"7", None]),
        ("d", [b"1.50", b"2.00"]),
        (["t", "b"], [b"a\\|b|x\xff", b"c\\\\|"]),
    ],
)
def test_keys(tmp_path: Path, key: Any, wanted: list[bytes]) -> None:
    table = pa.table(
        {
            "n": pa.array([7, None], pa.int16()),
            "d": [Decimal("1.50"), Decimal("2.00")],
            "t": ["a|b", "c\\"],
            "b": [b"x\xff", b""],
        }
    )
    source = parquet(files(tmp_path, table), key=key)
    assert [key for batch in read_all(source) for key in batch.keys.to_pylist()] == wanted


def test_files_that_differ(tmp_path: Path) -> None:
    source = parquet(
        files(
            tmp_path,
            pa.table({"a": pa.array([1], pa.int32()), "b": ["x"], "s": [{"x": 1}]}),
            pa.table({"c": [True], "a": pa.array([2.5], pa.float32()), "s": [{"y": "z"}]}),
            pa.table({"a": pa.array([3], pa.int64()), "b": pa.nulls(1)}),
        )
    )
    assert source.columns() == ["a", "b", "s.x", "c", "s.y"]
    assert [list(record.values()) for record in records_of(source)] == [
        [1.0, "x", 1, None, None],
        [2.5, None, None, True, "z"],
        [3.0, None, None, None, None],
    ]
    assert len({str(batch.records.schema) for batch in read_all(source)}) == 1


def test_whole_numbers_that_no_float_holds_are_faults(tmp_path: Path) -> None:
    tables = pa.table({"a": [1, 2**53 + 1]}), pa.table({"a": [0.5]})
    source = parquet(files(tmp_path, *tables))
    (fault,) = faults_of(source)
    assert fault[:2] == ("0.parquet, row 2", "bad_type")
    assert "9007199254740993 does not fit into double" in fault[2]


def test_types_that_do_not_fit_name_both_files(tmp_path: Path) -> None:
    files(tmp_path, pa.table({"a": [1]}), pa.table({"a": [2]}), pa.table({"a": ["x"]}))
    with pytest.raises(
        HeadraceError, match=r"(?s)types do not fit.*2\.parquet, column a.*string here, int64 in 0\.parq"
    ):
        parquet(tmp_path).partitions()


SCALARS = [
    pa.int8(),
    pa.int64(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.decimal128(10, 2),
    pa.decimal256(60, 30),
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("s"),
    pa.timestamp("ns"),
    pa.timestamp("us", "Asia/Tokyo"),
    pa.time32("ms"),
    pa.duration("s"),
    pa.null(),
]
TYPES = st.sampled_from(SCALARS) | st.sampled_from(SCALARS).map(pa.large_list)


@given(TYPES, TYPES, TYPES)
def test_the_order_of_files_does_not_matter_to_types(a: Any, b: Any, c: Any) -> None:
    a, b, c = map(canonical, (a, b, c))
    assert widened(a, a) == a
    assert widened(a, b) == widened(b, a)
    left, right = widened(a, b), widened(b, c)
    one, other = left and widened(left, c), right and widened(a, right)
    if one and other:
        assert one == other


def test_texts_that_are_no_utf8_in_lists(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff", b"fine"]).view(pa.string())
    table = pa.table({"a": pa.ListArray.from_arrays([0, 1, 3], texts)})
    source = parquet(files(tmp_path, table))
    assert faults_of(source) == [("0.parquet, row 2", "bad_encoding", "column 'a' is no UTF-8")]
    assert records_of(source) == [{"a": ["fine"]}]


def test_folders_are_columns(tmp_path: Path) -> None:
    names = ["year=2024/kind=a%2Fb", "year=2024/kind=__HIVE_DEFAULT_PARTITION__", "year=07/_old=1", "plain"]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir(parents=True)
        pq.write_table(pa.table({"n": [number]}), tmp_path / name / "x.parquet")
    (tmp_path / "year=2024/kind=a%2Fb/.x.crc").write_bytes(b"no data")
    (tmp_path / "_SUCCESS").touch()
    source = parquet(tmp_path)
    assert source.columns() == ["n", "year", "kind"]
    found = sorted((r["n"], r["year"], r["kind"]) for r in records_of(source))
    assert found == [(0, "2024", "a/b"), (1, "2024", None), (3, None, None)]
    assert parquet(tmp_path, hive=False).columns() == ["n"]
    assert parquet(tmp_path, columns=["kind"]).columns() == ["kind"]
    assert len(records_of(parquet(tmp_path, columns=["kind"]))) == 3
    with pytest.raises(HeadraceError, match=r"(?s)lies in no folder that names a column.*plain/x\.parquet"):
        parquet(tmp_path, hive=True).partitions()


def test_folders_that_name_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "n=1").mkdir()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "n=1/x.parquet")
    with pytest.raises(HeadraceError, match=r"(?s)named by a folder and lies in the files too.*hive: false"):
        parquet(tmp_path).partitions()
    assert records_of(parquet(tmp_path, hive=False)) == [{"n": 1}]
    (tmp_path / "m=1/m=2").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "m=1/m=2/x.parquet")
    with pytest.raises(HeadraceError, match="Two folders name one column"):
        parquet(tmp_path).partitions()


def test_hostile_names(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9=%FF\xe9[1]")
    folder.mkdir()
    name = os.fsdecode(b"\xff*{}\n.parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "x")
    (tmp_path / "x").rename(folder / name)
    source = parquet(tmp_path)
    assert records_of(source) == [{"n": 1, r"caf\xe9": r"\xff\xe9[1]"}]
    (batch,) = read_all(source)
    assert batch.keys.to_pylist() == [b"caf\xe9=%FF\xe9[1]/\xff*{}\n.parquet:1"]
    assert source.origin(source.partitions()[0], 1) == "caf\\xe9=%FF\\xe9[1]/\\xff*{}\n.parquet, row 1"


def test_patterns(tmp_path: Path) -> None:
    files(tmp_path, pa.table({"n": [0]}), pa.table({"n": [1]}))
    (tmp_path / "1.parquet").rename(tmp_path / "part-1")
    assert [record["n"] for record in records_of(parquet(tmp_path))] == [0]
    assert [record["n"] for record in records_of(parquet(tmp_path / "part-*"))] == [1]
    with pytest.raises(HeadraceError, match=r"(?s)holds no file of the kind.*\*\.orc.*2 others"):
        open_columnar("orc", tmp_path).partitions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["nmber"]}, "`columns` names a column that does not exist"),
        ({"key": "nmber"}, r"(?s)`key` names a column that does not exist.*id, text, number, words"),
        ({"key": "words"}, "A list cannot be a key"),
    ],
)
def test_columns_that_do_not_exist(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        parquet(files(tmp_path, rows_of(0, 3)), **options).partitions()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table([[1], [2]], ["a", "a"]), "Two columns have one name"),
        (pa.table([[1], [{"b": 2}]], ["a.b", "a"]), "Two columns have one name"),
        (pa.table([[1]], ["headrace:feature:x"]), "a name of Headrace's own"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, table: pa.Table, message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        parquet(files(tmp_path, table)).partitions()


def test_types_of_which_nothing_can_be_made(tmp_path: Path) -> None:
    with pa.ipc.new_file(
        tmp_path / "t.arrow", pa.schema([("a", pa.int8()), ("i", pa.month_day_nano_interval())])
    ) as w:
        w.write_table(
            pa.table(
                {"a": pa.array([1], pa.int8()), "i": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}
            )
        )
    with pytest.raises(
        HeadraceError, match=r"(?s)Nothing can be made.*t\.arrow, column i.*interval.*columns:"
    ):
        open_columnar("arrow", tmp_path).partitions()
    assert records_of(open_columnar("arrow", tmp_path, columns=["a"])) == [{"a": 1}]


def test_a_text_that_is_every_rows_is_decoded_a_few_at_a_time(tmp_path: Path) -> None:
    """200 MB in a file of a few KB."""
    text = "x" * (1 << 20)
    pq.write_table(pa.table({"a": pa.array([text] * 200).dictionary_encode()}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 1 << 20
    before = pa.total_allocated_bytes()
    rows = 0
    source = parquet(tmp_path)
    for partition in source.partitions():
        for batch in source.read(partition):
            assert batch.records.nbytes <= 9 << 20
            assert pa.total_allocated_bytes() - before < 64 << 20
            rows += len(batch.rows)
    assert rows == 200


def test_a_row_that_is_too_large_is_a_fault(tmp_path: Path) -> None:
    text = "x" * (1 << 20)
    lists = pa.ListArray.from_arrays([0, 1, 301], pa.array([text] * 301).dictionary_encode())
    with pa.ipc.new_file(tmp_path / "t.arrow", pa.schema([("a", lists.type)])) as writer:
        writer.write_table(pa.table({"a": lists}))
    source = open_columnar("arrow", tmp_path)
    assert [(origin, rule) for origin, rule, _ in faults_of(source)] == [("t.arrow, row 2", "too_large")]
    assert [len(record["a"]) for record in records_of(source)] == [1]


def test_sizes_are_those_of_decoded_columns() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(["abc", "d"] * 50).dictionary_encode()})
    assert decoded_bytes(batch) == 100 * 8 + 200
    assert decoded_bytes(batch.slice(1, 1)) == 8 + 1
    assert list(small_batches(batch)) == [batch]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 300)), max_size=20),
    st.integers(1, 200),
)
def test_parts_are_all_rows_once(sizes: list[tuple[int, int]], size: int) -> None:
    chunks = [Chunk(rows, count, str(number)) for number, (rows, count) in enumerate(sizes)]
    parts = cut_chunks(chunks, size)
    assert sum(part.rows for part in parts) == sum(rows for rows, _ in sizes)
    first = 1
    for part in parts:
        assert (part.first, part.rows > 0) == (first, True)
        before = sum(rows for rows, _ in sizes[: part.start])
        assert before + part.skip + 1 == part.first
        assert part.end - part.start == 1 or part.bytes <= size
        first += part.rows
    longer = cut_chunks([*chunks, Chunk(5, 10, "more")], size)
    assert longer[: max(0, len(parts) - 1)] == parts[:-1]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    place = files(tmp_path, rows_of(0, 10))
    source = parquet(place)
    (partition,) = source.partitions()
    files(tmp_path, rows_of(0, 10))
    assert len(list(source.read(partition))) == 1  # written anew, and the same
    files(tmp_path, rows_of(1, 10))
    with pytest.raises(HeadraceError, match="changed while the job was reading it"):
        list(source.read(partition))
    (place / "0.parquet").unlink()
    with pytest.raises(HeadraceError, match=r"(?s)A file cannot be read.*0\.parquet.*No such file"):
        list(source.read(partition))


def test_remote_files_whose_store_knows_versions_are_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    with fs.open(f"{root}/t.parquet", "wb") as file:
        pq.write_table(rows_of(0, 3), file)
    source = parquet(f"memory:/{root}")
    with monkeypatch.context() as patch:
        patch.setattr(columnar_chunks.DataFile, "open", None)
        with pytest.raises(TypeError):
            source.partitions()
    (before,) = source.partitions()
    with fs.open(f"{root}/t.parquet", "wb") as file:
        pq.write_table(rows_of(1, 3), file)
    (after,) = source.partitions()
    fs.rm(root, recursive=True)
    assert before.identity != after.identity


def write_kind(kind: str, file: Path) -> bytes:
    table = rows_of(0, 60)
    if kind == "arrow":
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    else:
        pq.write_table(table, file, row_group_size=20)
    return file.read_bytes()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_damaged_files_are_errors_that_name_them(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"good=1/t.{kind}"
    file.parent.mkdir()
    data = write_kind(kind, file)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    damaged = [b"", data[:3], data[: len(data) // 2], data[:-1], data + b"x", bytes(len(data)), data[100:]]
    for _ in range(60):
        place, much = rng.randrange(len(data)), rng.choice([b"\xff", b"\xff" * 8, b"\x7f" * 4, bytes(8)])
        damaged.append(data[:place] + much + data[place + len(much) :])
    whats = set()
    for content in damaged:
        file.write_bytes(content)
        try:
            read_all(open_columnar(kind, tmp_path))
        except HeadraceError as error:
            whats.add(error.what)
            named = str(error)
            assert f"good=1/t.{kind}" in named or "sources.rows" in named
    assert f"A file cannot be read as {kind}." in whats


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    table = pa.table({"a": [f"text {i}" for i in range(60)]})
    file = tmp_path / "t.parquet"
    pq.write_table(table, file, row_group_size=20, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start + 30 : start + 60] = bytes(30)
    file.write_bytes(data)
    source = parquet(file, partition_bytes=500)
    first, second, third = source.partitions()
    assert sum(len(batch.rows) for part in (first, third) for batch in source.read(part)) == 40
    with pytest.raises(
        HeadraceError, match=r"(?s)cannot be read as parquet.*t\.parquet, row group 1 \(rows 21 to 40\)"
    ):
        list(source.read(second))


def test_a_footer_that_points_elsewhere(tmp_path: Path) -> None:
    """Lengths are compared with the file's before anything is allocated."""
    file = tmp_path / "t.parquet"
    pq.write_table(rows_of(0, 5), file)
    file.write_bytes(file.read_bytes()[:-8] + b"\xff\xff\xff\x7fPAR1")
    with pytest.raises(HeadraceError, match=r"(?s)A file cannot be read as parquet.*t\.parquet.*footer"):
        parquet(file).partitions()
