from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beam_jobs.sources import Source, open_source
from schemas.errors import HeadraceError
from schemas.sources import PythonSource

from .conformance import SourceSuite, faults_of, read_all, records_of

FUNCTIONS = "tests.sources.python_functions"


def source(read: str, partitions: Any = "parts", path: str | Path = "", **options: Any) -> Source:
    given = f"{FUNCTIONS}:{partitions}" if isinstance(partitions, str) else partitions
    spec = PythonSource(
        kind="python", partitions=given, read=f"{FUNCTIONS}:{read}", path="${data}", **options
    )
    return open_source("rows", spec, str(path))


def keys(source: Source) -> list[bytes | None]:
    return [key for batch in read_all(source) for key in batch.keys.to_pylist()]


class TestPython(SourceSuite):
    missing = "A user function failed.(?s:.*)FileNotFoundError"
    read = "read_lines"

    def write(self, place: Path, count: int) -> None:
        for start in range(0, count, 7):
            lines = [f"r{i:04d},some text,{i}\n" for i in range(start, min(start + 7, count))]
            (place / f"part-{start:04d}.txt").write_text("".join(lines))

    def append(self, place: Path) -> None:
        (place / "part-9999.txt").write_text("r9999,more,9999\n")

    def spoil(self, place: Path) -> set[str]:
        (place / "part-9000.txt").write_text(
            "r5000,fine,1\n!text,no dict,0\n!type,x,many\nr5001,fine,2\n!column,y,3\n"
        )
        return {"not_a_record", "bad_type", "unknown_column"}

    def change(self, place: Path) -> None:
        file = place / "part-0007.txt"
        file.write_text(file.read_text().replace("r0008", "r000X"))

    def open(self, place: Path) -> Source:
        return source(self.read, "list_files", place, key="id")


class TestRowsAsKeys(TestPython):
    """Keys made of partition and row, declared columns."""

    def open(self, place: Path) -> Source:
        columns = {"number": "int64", "id": "string", "words": "list<string>", "more.length": "int64"}
        return source(self.read, "list_files", place, columns=columns)


class TestRecordBatches(TestPython):
    read = "read_batches"

    def spoil(self, place: Path) -> set[str]:
        (place / "part-9000.txt").write_text(
            "r5000,fine,1\nr5001,fine,2\nr5002,fine,3\n!type,x,many\nr5003,x,4\n"
        )
        return {"bad_type"}


def test_records_keys_and_origins() -> None:
    found = source("count")
    assert found.columns() == ["i", "id"]
    assert records_of(found)[:4] == [
        {"i": 0, "id": "a 0"},
        {"i": 1, "id": "a 1"},
        {"i": 2, "id": "a 2"},
        {"i": 0, "id": "2 0"},
    ]
    assert keys(found)[2:8] == [b"a:3", b"2:1", b"2:2", b"2:3", b'{"of": 3}:1', b'{"of": 3}:2']
    assert keys(source("count", key=["id", "i"]))[0] == b"a 0|0"
    last = found.partitions()[-1]
    assert found.origin(last, 3) == 'partition {"of": 3}, row 3'


def test_partitions_may_be_listed_in_the_job() -> None:
    assert keys(source("count", [1, "b"])) == [b"1:1", b"1:2", b"1:3", b"b:1", b"b:2", b"b:3"]


def test_identities_know_value_version_path_and_columns() -> None:
    def identities(**options: Any) -> list[Any]:
        return [partition.identity for partition in source("count", [1, 2], **options).partitions()]

    plain = identities()
    assert plain[0] != plain[1]
    for other in ({"version": "2"}, {"columns": {"id": "string", "i": "float64"}}):
        assert not [identity for identity in identities(**other) if identity in plain]
    assert [p.identity for p in source("count", [2]).partitions()] == plain[1:]


def test_an_identity_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_reader.py"
    spec = PythonSource(kind="python", partitions=[1], read="my_reader:read")
    found = []
    for text in ("one", "two"):
        file.write_text(f"def read(partition):\n    yield {{'id': '{text}'}}\n")
        found.append(open_source("rows", spec, "").partitions()[0].identity)
    assert found[0] != found[1]


def test_an_exception_names_function_partition_and_row() -> None:
    failing = source("fail_in_row_three", ["x"], columns={"id": "string"})
    (partition,) = failing.partitions()
    with pytest.raises(HeadraceError) as caught:
        list(failing.read(partition))
    assert caught.value.what == "A user function failed."
    assert caught.value.where == f"sources.rows, {FUNCTIONS}:fail_in_row_three, partition x, row 3"
    assert caught.value.value == "KeyError: 'no x'"
    assert "python_functions.py, line " in str(caught.value.hint)
    assert str(Path(__file__).parent) not in str(caught.value)


def test_reasons_of_faults(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("r0,x,1\n")
    (tmp_path / "a.txt").write_text("r1,x,1\n!text,no dict,0\n!type,x,many\n!column,y,3\n")
    found = faults_of(source("read_lines", "list_files", tmp_path))
    assert [(origin.rpartition("row ")[2], rule, reason) for origin, rule, reason in found] == [
        ("2", "not_a_record", "'no dict' is no dict"),
        ("3", "bad_type", "column 'number': 'many' is no int64"),
        ("4", "unknown_column", "there is no column 'numbre'; there are id, more.length, number, words"),
    ]
    assert [reason for _, _, reason in faults_of(source("odd_names", [1]))] == [
        "there is no column 3; there are id"
    ]


def test_numbers_are_not_cut_to_whole_ones() -> None:
    """Nor moments to their day, as Arrow does by itself."""
    cut = source("cut_by_arrow", [1])
    assert [record["id"] for record in records_of(cut)][1000:] == ["also whole"]
    assert [(origin.rpartition("row ")[2], rule, reason) for origin, rule, reason in faults_of(cut)] == [
        ("1002", "bad_type", "column 'n': 0.5 is no int64"),
        ("1003", "bad_type", "column 'n': Decimal is no int64"),
        ("1004", "bad_type", "column 'list': list is no list<item: int64>"),
        ("1005", "bad_type", "column 'list': ndarray is no list<item: int64>"),
        ("1006", "bad_type", "column 'day': datetime is no date32[day]"),
        ("1007", "bad_type", "column 'n': nan is no int64"),
    ]


@pytest.mark.parametrize("typed", [False, True])
def test_fields_of_dicts_in_lists_are_columns_of_lists(typed: bool) -> None:
    """As in every other source; a field that the first records do not have is not dropped in silence."""
    columns = {"boxes.x": "list<int64>", "boxes.name.first": "list<string>", "id": "string"}
    boxes = source("dicts_in_lists", [1], columns=columns if typed else None)
    assert boxes.columns() == list(columns)
    found = [list(record.values()) for record in records_of(boxes)]
    assert [*found[:3], *found[1000:]] == [
        [[], [], "0"],
        [[1], ["n"], "1"],
        [[2, 2], ["n", "n"], "2"],
        [[1, None, 2], [None, None, None], "less"],
        [None, None, "none"],
        [[7], ["b"], "batch"],
    ]
    assert [(origin.rpartition("row ")[2], rule, reason) for origin, rule, reason in faults_of(boxes)] == [
        ("1001", "bad_type", "column 'boxes.x': list is no list<item: int64>"),
        ("1002", "unknown_column", "there is no column 'boxes.y'; there are boxes.x, boxes.name.first, id"),
        ("1005", "unknown_column", "there is no column 'boxes'; there are boxes.x, boxes.name.first, id"),
        ("1007", "bad_type", "column 'boxes.x': list is no list<item: int64>"),
    ]


@pytest.mark.parametrize("typed", [False, True])
def test_none_in_place_of_a_dict_is_none_for_all_its_fields(typed: bool) -> None:
    columns = {"id": "string", "more.deep.x": "int64", "more.length": "int64"}
    some = source("none_for_a_dict", [1], columns=columns if typed else None)
    assert some.columns() == list(columns)
    values = [list(record.values()) for record in records_of(some)]
    assert values == [["none", None, None], ["some", None, 1], ["all", 3, 2]]
    assert faults_of(some) == []


def test_large_records_have_batches_of_their_own() -> None:
    for read, rows in (("large", 2), ("large_batch", 3)):
        batches = read_all(source(read, [1]))
        assert max(batch.records.num_rows for batch in batches) <= rows
        assert all(batch.records.nbytes <= 9 << 20 for batch in batches)
        numbers = [row for batch in batches for row in batch.rows.tolist()]
        assert numbers == list(range(1, len(numbers) + 1))


def test_columns_come_from_the_first_partition_with_records() -> None:
    assert source("late", [1, 2, 3]).columns() == ["id", "n"]
    assert len(records_of(source("late", [1, 2, 3]))) == 1


@pytest.mark.parametrize(
    ("read", "partitions", "options", "message"),
    [
        ("count", "no_partitions", {}, r"holds no row: it has no partition"),
        ("count", "a_set", {}, r"gave no list of partitions.\n(?s:.*)set(?s:.*)a list of values"),
        ("count", "not_a_number", {}, r"no value that JSON can hold"),
        ("count", [1, "1"], {}, r"Two partitions have one value.\n.*\n.*1"),
        ("count", ["x" * 70_000], {}, r"value is too long"),
        ("count", "absent", {}, r"cannot be imported.\n.*sources.rows.partitions\n.*absent"),
        ("absent", [1], {}, r"cannot be imported.\n.*sources.rows.read\n.*absent"),
        ("ONE_THIRD", [1], {}, r"This is no function"),
        ("none", [1], {}, r"yields no records.\n.*partition 1, row 1\n.*NoneType"),
        ("nothing", [1, 2], {}, r"holds no row"),
        ("texts", [1], {}, r"yields no records.\n.*partition 1\n.*'a'"),
        ("mixed", [1], {}, r"several types.\n.*column id\n(?s:.*)columns:"),
        ("empty_column", [1], {}, r"no value in the first 2 records(?s:.*)column x\n.*x: string"),
        ("count", [1], {"key": "ib"}, r"`key` names a column that does not exist(?s:.*)Did you mean 'i'"),
    ],
)
def test_errors(read: str, partitions: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        source(read, partitions, **options).partitions()


def test_a_batch_of_other_columns_is_an_error() -> None:
    found = source("other_batches", [1])
    with pytest.raises(HeadraceError, match=r"a column that there is not.\n.*row 2\n.*extra"):
        read_all(found)
