from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import uuid
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_jobs.sources import Source, open_source
from beam_jobs.sources import jsonl as jsonl_module
from beam_jobs.sources._json import parse
from schemas.errors import HeadraceError
from schemas.sources import JsonlSource

from .conformance import SourceSuite, faults_of, read_all, records_of


def objects(path: Path | str, **options: Any) -> Source:
    return open_source("rows", JsonlSource(kind="jsonl", path="${data}", **options), str(path))


def text(tmp_path: Path, content: str | bytes, **options: Any) -> Source:
    file = tmp_path / "t.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return objects(file, **options)


def keys(source: Source) -> list[bytes | None]:
    return [key for batch in read_all(source) for key in batch.keys.to_pylist()]


def rules(source: Source) -> list[tuple[str, str]]:
    return [(origin, rule) for origin, rule, _ in faults_of(source)]


def types(source: Source) -> dict[str, str]:
    return {field.name: str(field.type) for field in read_all(source)[0].records.schema}


class TestJsonl(SourceSuite):
    name = "rows.jsonl"
    options: ClassVar[dict[str, Any]] = {"key": "id", "partition_bytes": 500}

    def row(self, i: int) -> str:
        return json.dumps({"id": f"r{i:04d}", "n": i, "tags": ["a"] * (i % 3), "at": {"x": i / 2}}) + "\n"

    def write(self, place: Path, count: int) -> None:
        (place / self.name).write_text("".join(map(self.row, range(count))))

    def append(self, place: Path) -> None:
        with open(place / self.name, "a") as file:
            file.write(self.row(9999))

    def spoil(self, place: Path) -> set[str]:
        lines = [
            '{"id": "r5000", "n": }',
            "[1, 2]",
            "",
            '{"id": "a", "id": "b"}',
            '{"id": "r5003", "n": "many"}',
        ]
        lines += ['{"id": "r5004", "n": ' + "[" * 60 + "]" * 60 + "}", '{"id": "r5005", "n": 3}']
        with open(place / self.name, "ab") as file:
            file.write(b'{"id": "\xff"}\n' + "\n".join(lines).encode())
        return {"bad_encoding", "bad_json", "not_an_object", "duplicate_key", "bad_type", "deep_json"}

    def change(self, place: Path) -> None:
        file = place / self.name
        file.write_bytes(file.read_bytes().replace(b"r0007", b"r000X"))

    def open(self, place: Path) -> Source:
        return objects(place / self.name, **self.options)


class TestFlattenedJsonl(TestJsonl):
    options: ClassVar[dict[str, Any]] = {
        "flatten": "_",
        "types": {"n": "int64", "at_x": "float64"},
        "partition_bytes": 500,
    }


class TestJsonlOfSomeColumns(TestJsonl):
    """All columns are declared, so nothing is inferred."""

    options: ClassVar[dict[str, Any]] = {
        "key": "id",
        "columns": ["n", "id"],
        "types": {"n": "int64", "id": "string"},
        "partition_bytes": 500,
    }


class TestSeveralJsonls(TestJsonl):
    """Two files, and keys made of row numbers."""

    name = "rows-1.jsonl"

    def write(self, place: Path, count: int) -> None:
        (place / "rows-0.jsonl").write_text("".join(map(self.row, range(count // 2))))
        super().write(place, count - count // 2)

    def change(self, place: Path) -> None:
        file = place / "rows-0.jsonl"
        file.write_bytes(file.read_bytes().replace(b"r0007", b"r000X"))

    def open(self, place: Path) -> Source:
        return objects(place / "rows-*.jsonl", partition_bytes=500)


class TestRemoteJsonl(TestJsonl):
    """The same behind fsspec."""

    @pytest.fixture(autouse=True)
    def _bucket(self, tmp_path: Path) -> object:
        self.bucket = f"/{uuid.uuid4().hex}"
        self.fs = fsspec.filesystem("memory")
        yield
        if self.fs.exists(self.bucket):
            self.fs.rm(self.bucket, recursive=True)

    def open(self, place: Path) -> Source:
        file = place / self.name
        target = f"{self.bucket}/{self.name}"
        if file.exists() and not (self.fs.exists(target) and self.fs.cat(target) == file.read_bytes()):
            self.fs.pipe(target, file.read_bytes())
        return objects(f"memory:/{self.bucket}/{self.name}", key="id", partition_bytes=500)


def test_nested_values_are_structs_and_lists(tmp_path: Path) -> None:
    source = text(
        tmp_path, '{"a": {"b": [1, null]}, "c": [[]]}\n\n{"a": null, "c": [[{"d": "x"}]]}\r\n{"e": true}'
    )
    assert types(source) == {
        "a": "struct<b: list<item: int64>>",
        "c": "list<item: list<item: struct<d: string>>>",
        "e": "bool",
    }
    assert records_of(source) == [
        {"a": {"b": [1, None]}, "c": [[]], "e": None},
        {"a": None, "c": [[{"d": "x"}]], "e": None},
        {"a": None, "c": None, "e": True},
    ]
    assert keys(source) == [b"t.jsonl:1", b"t.jsonl:2", b"t.jsonl:3"]


@pytest.mark.parametrize(("flatten", "dot"), [(True, "."), ("_", "_"), ("__", "__")])
def test_nested_objects_can_be_flattened(tmp_path: Path, flatten: bool | str, dot: str) -> None:
    content = '{"user": {"name": "x", "at": {"lat": 1}}, "n": [1]}\n{"user": {"at": null}, "n": []}\n{"user": null}\n'
    source = text(tmp_path, content, flatten=flatten)
    names = ["user.name", "user.at.lat", "n"]
    assert source.columns() == [name.replace(".", dot) for name in names]
    assert [list(record.values()) for record in records_of(source)] == [
        ["x", 1, [1]],
        [None, None, []],
        [None, None, None],
    ]


def test_flattened_names_that_meet_are_an_error(tmp_path: Path) -> None:
    source = text(tmp_path, '{"a": {"b": 1}, "a_b": 2}\n', flatten="_")
    with pytest.raises(HeadraceError, match=r"(?s)Two columns have one name once.*'a_b'.*flatten: __"):
        source.partitions()


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    content = '{"a": 1, "b": {"c": "x", "d": 2}, "e": "left out"}\n{"a": 1.5, "e": 7}\n'
    assert records_of(text(tmp_path, content, columns=["b", "a"])) == [
        {"b": {"c": "x", "d": 2}, "a": 1.0},
        {"b": None, "a": 1.5},
    ]
    source = text(tmp_path, content, columns=["b.c", "a"], flatten=True)
    assert records_of(source) == [{"b.c": "x", "a": 1.0}, {"b.c": None, "a": 1.5}]
    with pytest.raises(
        HeadraceError, match=r"(?s)`columns` names a column of which no line has a value.*zzz"
    ):
        text(tmp_path, content, columns=["a", "zzz"]).partitions()


def test_whole_numbers_widen_and_files_may_differ(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": null, "m": []}\n')
    (tmp_path / "b.jsonl").write_text('{"m": [2.5]}\n{"n": 2.5, "o": "x"}\n')
    source = objects(tmp_path / "*.jsonl", partition_bytes=5)
    assert types(source) == {"n": "double", "m": "list<item: double>", "o": "string"}
    assert [record["n"] for record in records_of(source)] == [1.0, None, None, 2.5]
    assert len(source.partitions()) == 4


def test_a_value_of_another_kind_than_the_first_is_a_fault_of_its_line(tmp_path: Path) -> None:
    lines = [{"n": i, "m": {"x": [True]}} for i in range(1000)]
    lines[30] = {"n": "thirty"}  # type: ignore[dict-item]
    lines[700] = {"n": 1, "m": {"x": [True, 2]}}  # type: ignore[dict-item]
    source = text(tmp_path, "\n".join(map(json.dumps, lines)), partition_bytes=5000)
    first = "as declared or as first seen: see `types`"
    assert faults_of(source) == [
        ("t.jsonl, row 31", "bad_type", f"column 'n': 'thirty' is not a whole number, {first}"),
        ("t.jsonl, row 701", "bad_type", f"column 'm.x[]': 2 is not true or false, {first}"),
    ]
    assert [record["n"] for record in records_of(source)] == [i for i in range(1000) if i not in (30, 700)]


def test_declared_types(tmp_path: Path) -> None:
    content = '{"a": 1, "b": 1}\n{"a": "x", "b": 2}\n{"a": [1.50, {"k": null}], "b": 3.5}\n{"a": true}\n{"a": 1e3}\n'
    source = text(tmp_path, content, types={"a": "string", "b": "float64", "c": "list<int64>"})
    assert types(source) == {"a": "string", "b": "double", "c": "list<item: int64>"}
    found = [record["a"] for record in records_of(source)]
    assert found == ["1", "x", '[1.5,{"k":null}]', "true", "1e3"]
    assert rules(text(tmp_path, content, types={"b": "int64", "a": "string"})) == [
        ("t.jsonl, row 3", "bad_type")
    ]


def test_declared_types_of_nested_fields(tmp_path: Path) -> None:
    content = '{"a": {"b": 7, "c": [1, "x"]}}\n{"a": {"b": "8"}}\n'
    source = text(tmp_path, content, types={"a.b": "string", "a.c": "list<string>"}, flatten=True)
    assert records_of(source) == [{"a.b": "7", "a.c": ["1", "x"]}, {"a.b": "8", "a.c": None}]


def test_keys(tmp_path: Path) -> None:
    content = '{"a": "x|", "n": 7}\n{"a": "x\\\\", "n": -1}\n{"n": 3}\n'
    assert keys(text(tmp_path, content, key="a")) == [b"x|", b"x\\", None]
    assert keys(text(tmp_path, content, key="n")) == [b"7", b"-1", b"3"]
    assert keys(text(tmp_path, content, key=["a", "n"])) == [b"x\\||7", b"x\\\\|-1", None]
    assert keys(text(tmp_path, '{"u": {"id": 5}}\n', key="u.id", flatten=True)) == [b"5"]


LINE = '{"a": 1}'


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('{"a": 1', "bad_json"),
        ('{"a": 1} {"a": 2}', "bad_json"),
        ('{"a": 1},', "bad_json"),
        ("{'a': 1}", "bad_json"),
        ('{"a": 01}', "bad_json"),
        ('{"s": "\\ud800"}', "bad_json"),
        ('{"a": "line\x01"}', "bad_json"),
        ('{"f": 1e999}', "bad_json"),
        ("nothing", "bad_json"),
        ("[]", "not_an_object"),
        ("null", "not_an_object"),
        ('"{}"', "not_an_object"),
        ('{"a": 1, "a": 1}', "duplicate_key"),
        ('{"b": {"c": 1, "c": 1}}', "duplicate_key"),
        ('{"a": 9223372036854775808}', "bad_type"),
        ('{"a": ' + "9" * 5000 + "}", "bad_type"),
        ('{"a": "1"}', "bad_type"),
        ('{"a": true}', "bad_type"),
        ('{"b": ' + "[" * 60 + "]" * 60 + "}", "deep_json"),
        ('{"b": ' * 60 + "1" + "}" * 60, "deep_json"),
        ('{"b": ' + "[" * 1_000_000, "deep_json"),
    ],
)
def test_a_bad_line_is_a_fault_and_no_other_is(tmp_path: Path, line: str, rule: str) -> None:
    source = text(tmp_path, f'{LINE}\n{LINE}\n{line}\n{{"b": {{"c": 3}}}}\n')
    assert rules(source) == [("t.jsonl, row 3", rule)]
    assert records_of(source) == [{"a": 1, "b": None}] * 2 + [{"a": None, "b": {"c": 3}}]
    (fault,) = [fault for batch in read_all(source) for fault in batch.faults]
    assert fault.raw == f"{line}\n".encode()[:1024]
    assert len(fault.reason) < 300


def test_lines_that_are_whole_only_together_are_faults(tmp_path: Path) -> None:
    source = text(tmp_path, '{"a": 1}\n{"a": {"b": 1}\n,"c": 2} {"a": 3}\n{"a": 4}\n')
    assert [number for (number, _) in rules(source)] == ["t.jsonl, row 2", "t.jsonl, row 3"]
    assert [record["a"] for record in records_of(source)] == [1, 4]


def test_texts_may_hold_anything(tmp_path: Path) -> None:
    values = ["[" * 200, '"' * 30 + "\\" * 31, "\u2028\x00\x7f", "\N{GRINNING FACE}", "}{", "\r"]
    source = text(tmp_path, "\n".join(json.dumps({"a": value}) for value in values))
    assert [record["a"] for record in records_of(source)] == values


def test_lists_of_nothing_but_nulls(tmp_path: Path) -> None:
    rows = [
        {"a": [None, None], "b": {"c": [[None], None, []]}},
        {"a": [], "b": {"c": None}},
        {"a": [None], "b": None},
    ]
    assert records_of(text(tmp_path, "\n".join(map(json.dumps, rows)))) == rows


def test_numbers_that_python_writes(tmp_path: Path) -> None:
    content = '{"a": NaN, "b": -0}\n{"a": Infinity, "b": 9223372036854775807}\n{"a": -Infinity}\n{"a": 1}\n'
    found = records_of(text(tmp_path, content))
    assert str([record["a"] for record in found]) == "[nan, inf, -inf, 1.0]"
    assert found[1]["b"] == 2**63 - 1


def test_lines_with_many_brackets_are_not_deep(tmp_path: Path) -> None:
    content = json.dumps({"a": [{"b": [i]} for i in range(500)], "c": "[" * 99})
    assert len(records_of(text(tmp_path, content))[0]["a"]) == 500


def test_a_line_end_is_a_line_feed(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf  {"a":\r1} \r\n \t \n{"a": 2}\r\n\r\n{"a": 3}'
    for size in (1, 1000):
        source = text(tmp_path, content, partition_bytes=size)
        assert [record["a"] for record in records_of(source)] == [1, 2, 3]
        assert keys(source) == [b"t.jsonl:1", b"t.jsonl:2", b"t.jsonl:3"]


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files(tmp_path: Path, suffix: str, pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_module, "_READ_BYTES", 1000)
    monkeypatch.setattr(jsonl_module, "_SCAN_BYTES", 1000)
    rows = [{"a": i, "b": "x" * 100} for i in range(100)]
    file = tmp_path / f"t.jsonl{suffix}"
    file.write_bytes(pack("\n".join(map(json.dumps, rows)).encode()))
    source = objects(file, key="a", partition_bytes=10)
    assert len(source.partitions()) == 1
    assert records_of(source) == rows
    assert len(read_all(source)) > 5
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(HeadraceError, match=r"A file cannot be read\.\n  where:   t\.jsonl"):
        read_all(source)


def test_a_line_without_end_is_refused_early(tmp_path: Path) -> None:
    """10 GB of one line, which take no room on the disk; reading stops at `max_row_bytes`."""
    file = tmp_path / "t.jsonl"
    with open(file, "wb") as sink:
        sink.write(b'{"a": 1}\n{"a": "')
        sink.truncate(10 << 30)
    before = pa.total_allocated_bytes()
    with pytest.raises(HeadraceError, match=r"(?s)A line is too long.*t\.jsonl, row 2.*max_row_bytes"):
        objects(file, max_row_bytes=1 << 20).partitions()
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_small_lines_that_are_large_in_memory(tmp_path: Path) -> None:
    """Each `{}` takes a cell in every column of the list's objects."""
    wide = json.dumps({"a": [{f"k{i}": i for i in range(200)}]})
    many = '{"a": [' + ",".join(["{}"] * 100_000) + "]}"
    source = text(tmp_path, "\n".join([wide, many, *(['{"a": [' + ",".join(["{}"] * 500) + "]}"] * 100)]))
    assert rules(source) == [("t.jsonl, row 2", "too_large")]
    assert all(batch.records.nbytes < 16 << 20 for batch in read_all(source))
    assert len(records_of(source)) == 101


def test_keys_of_objects_that_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_module, "MAX_FIELDS", 100)
    content = "\n".join(json.dumps({"of": {f"user {i}": i}, "n": i}) for i in range(200))
    with pytest.raises(HeadraceError, match=r"(?s)too many different keys.*declare an object as string"):
        text(tmp_path, content).partitions()
    assert records_of(text(tmp_path, content, columns=["n"]))[199] == {"n": 199}
    source = text(tmp_path, content, types={"of": "string"})
    assert records_of(source)[3] == {"of": '{"user 3":3}', "n": 3}


@pytest.mark.parametrize(
    ("content", "options", "match"),
    [
        ("\n \n", {}, r"The source holds no row"),
        ("[1]\n{}\n", {}, r"(?s)No line of the source is an object with fields.*jq"),
        ('[\n{"a": 1},\n{"a": 2},\n]\n', {}, r"(?s)No line of the source is an object with fields.*jq"),
        ('{"id": 1}\n', {"key": "idd"}, r"(?s)`key` names a column that does not exist.*Did you mean 'id'"),
        (
            '{"id": 1.5}\n',
            {"key": "id"},
            r"(?s)A key must be a text or a whole number.*types: \{id: string\}",
        ),
        ('{"id": [1]}\n', {"key": ["id"]}, r"A key must be a text or a whole number"),
    ],
)
def test_errors(tmp_path: Path, content: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(HeadraceError, match=match):
        text(tmp_path, content, **options).partitions()


def test_lines_changed_since_planning_are_an_error_and_appended_ones_are_not(tmp_path: Path) -> None:
    source = text(tmp_path, '{"a": 1}\n{"a": 2}\n', partition_bytes=9)
    partitions = source.partitions()
    with open(tmp_path / "t.jsonl", "a") as file:
        file.write('{"a": 3}\n')
    assert [len(batch.rows) for partition in partitions for batch in source.read(partition)] == [1, 1]
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"a": 9}\n')
    list(source.read(partitions[0]))
    with pytest.raises(HeadraceError, match=r"was changed while.*\n.*t\.jsonl"):
        list(source.read(partitions[1]))


def test_appending_what_widens_a_column_reads_all_anew(tmp_path: Path) -> None:
    source = text(tmp_path, '{"a": 1}\n{"a": 2}\n', partition_bytes=9)
    before = [partition.identity for partition in source.partitions()]
    with open(tmp_path / "t.jsonl", "a") as file:
        file.write('{"a": 3.5}\n')
    after = [partition.identity for partition in source.partitions()]
    assert all(a != b for a, b in zip(after, before, strict=False))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet='ab"\\{}[]:,é東\n', max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
GOOD = st.dictionaries(st.sampled_from("wxyz"), VALUES, max_size=4).map(json.dumps)
BAD = st.sampled_from(
    [
        '{"x": 1',
        "[1]",
        '{"x": 1, "x": 2}',
        "}{",
        '{"x": 1} {"y": 2}',
        '{"x": {"a": 1}',
        ',"b": 2}',
        '{"x": -Inf}',
        '{"x": 1, "y": NaN}',
    ]
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(GOOD | BAD, max_size=25), st.integers(1, 300), st.integers(1, 100), st.integers(1, 4))
def test_what_is_read_does_not_depend_on_how_it_is_cut(
    tmp_path: Path, lines: list[str], partition: int, chunk: int, one_by_one: int
) -> None:
    """Every line is a record or a fault, and the same whatever its neighbours are."""
    content = "\n".join(['{"w": {"a": 1}, "x": 2}', *lines])
    expected = text(tmp_path, content)
    whole = records_of(expected), faults_of(expected), expected.columns()
    assert len(whole[0]) + len(whole[1]) == len(lines) + 1
    assert whole[0][0]["x"] == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl_module, "_READ_BYTES", chunk)
        patch.setattr(jsonl_module, "_SCAN_BYTES", chunk)
        patch.setattr(parse, "_ONE_BY_ONE", one_by_one)
        patch.setattr(parse, "_FEW", one_by_one)
        (tmp_path / "cut").mkdir(exist_ok=True)
        source = text(tmp_path / "cut", content, partition_bytes=partition)
        assert repr((records_of(source), faults_of(source), source.columns())) == repr(whole)


def test_values_are_those_of_pythons_json(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    rows = [
        {
            "i": rng.randrange(-(2**63), 2**63),
            "f": rng.uniform(-1, 1) * 10 ** rng.randrange(-300, 300),
            "t": chr(i),
        }
        for i in range(1, 3000)
    ]
    assert records_of(text(tmp_path, "\n".join(map(json.dumps, rows)), partition_bytes=20_000)) == rows
