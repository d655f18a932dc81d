"""Rules that reshape records, from end to end: same bytes, balanced books, errors before anything is read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import clean, run
from beam_jobs.batch import Batch, Ledger
from beam_jobs.inspect_dataset import inspect
from beam_jobs.planning import plan_job
from schemas import HeadraceError
from schemas.rules import CastRule, DropRule, FlattenRule, RenameRule, SelectRule
from tests.jobs.small_job import digests, make_job, options

ROWS = 400
JOB = """
name: shapes
version: 1.0.0
vars: {data: unset}
sources:
  rows: {kind: csv, path: "${data}/rows.csv", key: id, partition_bytes: 1000, types: {height: int64}}
clean:
  - cast: {width: int64}
  - where: width <> 13
    name: unlucky
  - compute: {ratio: width / height, big: width * height > 50, label: "CASE WHEN width > 9 THEN 'wide' ELSE 'slim' END"}
  - rename: {note: remark, id: note}
  - select: [note, ratio, big, label, remark]
  - where: remark <> 'gone' AND regexp_full_match(remark, '[a-z ]+[0-9]+|gone')
features:
  ratio: {type: float32}
  big: {type: bool}
  label: {type: class_label, names: [slim, wide]}
  text: {type: text, from: remark}
  name: {type: text, from: note}
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2, max_dead_letters: 10%}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = ["id,width,height,note"]
    for n in range(ROWS):
        width = "wide" if n == 50 else str(n % 20)
        lines.append(f"r{n},{width},{0 if n == 60 else n % 7 + 1},{'gone' if n % 40 == 1 else f'note {n}'}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_one_job(data: Path, tmp_path: Path) -> None:
    first = run(make_job(data, JOB), tmp_path / "one", options("multi_threading", 1))
    many = run(make_job(data, JOB), tmp_path / "many", options("multi_threading", 4))
    processes = run(make_job(data, JOB), tmp_path / "processes", options("multi_processing", 2))
    assert digests(first.path) == digests(many.path) == digests(processes.path)
    books = first.manifest.books["rows"]
    text = "not remark <> 'gone' AND regexp_full_match(remark, '[a-z ]+[0-9]+|gone')"
    assert books.dropped == {text: 10, "unlucky": 20}
    assert (books.read, books.dead_lettered, books.balanced) == (ROWS, 2, True)
    letters = {
        letter["key"]: letter
        for letter in pq.read_table(first.path / "dead_letters/dead_letters.parquet").to_pylist()
    }
    assert letters["r50"]["reason"] == "width: 'wide' is no int64"
    assert letters["r60"]["rule"] == "compute"
    assert letters["r60"]["origin"] == "rows.csv, row 61"
    assert letters["r60"]["reason"].startswith("ratio = width / height: ")
    assert "Division by zero" in letters["r60"]["reason"]
    assert json.loads(letters["r60"]["raw"])["height"] == 0
    values = {
        str(record.values["name"][0], "utf-8"): record.values
        for record in inspect(first.path, records=ROWS).records
        if record.values is not None
    }
    assert values["r9"]["ratio"][0] == pytest.approx(3.0)
    assert (values["r9"]["big"][0], values["r19"]["big"][0], values["r19"]["label"][0]) == (0, 1, 1)
    assert values["r9"]["text"][0] == b"note 9"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width <> 13", "widht <> 13", "column 'widht', which does not exist"),
        ("width <> 13", "random() < 0.5", "'random' is not allowed"),
        ("width <> 13", "(SELECT true)", "holds no subquery"),
        ("width <> 13", "width <>", "no SQL expression"),
        ("width / height", "width / length", "column 'length', which does not exist"),
        ("remark, id: note", "width", "two columns called 'width'"),
        ("{note: remark", "{remark: other", "There is no such column"),
        ("select: [note", "select: [id", "There is no such column"),
        ("cast: {width", "cast: {breadth", "There is no such column"),
        ("cast: {width: int64}", "cast: {width: integer}", "'integer' is not known here"),
        ("from: remark", "from: note2", "There is no such column"),
        ("rename: {note: remark", "rename: {height: note, note: remark", "several columns would be called"),
        ("select: [note", "select: [note, note", "listed more than once"),
        ("select: [note", "select: ['headrace:x', note", "begin with headrace:"),
        ("- where: remark", "- were: remark", "a rule needs its verb"),
        ("name: unlucky", "nam: unlucky", "no field 'nam' here; did you mean 'name'"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(
    old: str, new: str, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeadraceError, match=message):
        plan_job(make_job(data, JOB, **{old: new}), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width <> 13", "width + 1", "neither true nor false"),
        ("width * height > 50", "note * height > 50", "cannot be computed"),
    ],
)
def test_types_are_known_when_the_first_batch_is(
    old: str, new: str, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeadraceError, match=message) as caught:
        run(make_job(data, JOB, **{old: new}), tmp_path / "out")
    assert "clean, " in (caught.value.where or "")


def test_another_expression_makes_other_records(data: Path, tmp_path: Path) -> None:
    run(make_job(data, JOB), tmp_path / "out")
    text = JOB.replace("width > 9", "width > 8").replace("1.0.0", "2.0.0")
    updated = run(make_job(data, text), tmp_path / "out")
    assert updated.previous is None
    fresh = run(make_job(data, text), tmp_path / "fresh")
    assert digests(updated.path) == digests(fresh.path)


def batch(**columns: pa.Array) -> tuple[Batch, Ledger]:
    records = pa.record_batch(columns)
    keys = pa.array([f"k{n}".encode() for n in range(len(records))])
    rows = pa.array(range(len(records)), pa.int64()).to_numpy()
    return Batch(records, keys, rows), Ledger("rows", lambda row: f"row {row}")


def test_flatten() -> None:
    struct = pa.array([{"k": 1, "deep": {"x": 0.5}}, None, {"k": 3, "deep": None}])
    before, ledger = batch(a=pa.array([1, 2, 3]), meta=struct, **{"headrace:own": pa.array([7, 8, 9])})
    after = clean.apply_rule(before, FlattenRule(flatten="meta", prefix="m_"), ledger)
    assert after.columns == ["a", "m_k", "m_deep"]
    assert after.records["m_k"].to_pylist() == [1, None, 3]
    deep = clean.apply_rule(before, FlattenRule(flatten="meta", depth=2), ledger)
    assert deep.columns == ["a", "k", "deep_x"]
    assert deep.records["deep_x"].to_pylist() == [0.5, None, None]
    assert deep.records["headrace:own"].to_pylist() == [7, 8, 9]
    with pytest.raises(HeadraceError, match="Only a column of structs"):
        clean.apply_rule(before, FlattenRule(flatten="a"), ledger)
    clash, ledger = batch(k=pa.array([1, 2, 3]), meta=struct)
    with pytest.raises(HeadraceError, match="two columns called 'k'"):
        clean.apply_rule(clash, FlattenRule(flatten="meta"), ledger)


def test_dropping_by_bytes_and_by_lists() -> None:
    before, ledger = batch(
        raw=pa.array([b"\xff", b"b", None], pa.large_binary()), many=pa.array([[1], [2], None])
    )
    rule = {"drop": "some", "values": ["b", None]}
    after = clean.apply_rule(before, DropRule(column="raw", **rule), ledger)
    assert after.records["raw"].to_pylist() == [b"\xff"]
    with pytest.raises(HeadraceError, match="holds lists or structs"):
        clean.apply_rule(before, DropRule(column="many", **rule), ledger)


def test_our_own_columns_stay() -> None:
    before, ledger = batch(a=pa.array([1, 2]), b=pa.array([3, 4]), **{"headrace:own": pa.array([7, 8])})
    after = clean.apply_rule(before, SelectRule(select=["b"]), ledger)
    assert after.records.schema.names == ["b", "headrace:own"]
    swapped = clean.apply_rule(before, RenameRule(rename={"a": "b", "b": "a"}), ledger)
    assert swapped.records.to_pydict() == {"b": [1, 2], "a": [3, 4], "headrace:own": [7, 8]}


@pytest.mark.parametrize(
    ("values", "kind", "expected", "lost"),
    [
        (["1", " 2 ", "x", None, "3.5"], "int64", [1, 2, None], ["'x' is no int64", "'3.5' is no int64"]),
        ([1.0, 2.5, float("nan"), None], "int32", [1, None], ["2.5 is no int32", "nan is no int32"]),
        ([2**40, 5], "int32", [5], ["1099511627776 is no int32"]),
        (["true", "0", "maybe"], "bool", [True, False], ["'maybe' is no bool"]),
        ([1, None], "string", ["1", None], []),
        (["2020-02-30", "2020-02-03"], "date", None, ["'2020-02-30' is no date"]),
    ],
)
def test_casts_lose_nothing(values: list, kind: str, expected: list | None, lost: list[str]) -> None:
    before, ledger = batch(a=pa.array(values))
    after = clean.apply_rule(before, CastRule(cast={"a": kind}), ledger)
    if expected is not None:
        assert after.records["a"].to_pylist() == expected
    assert [letter.reason for letter in ledger.letters] == [f"a: {reason}" for reason in lost]


def test_a_cast_that_never_works() -> None:
    before, ledger = batch(a=pa.array([[1], [2]]))
    with pytest.raises(HeadraceError, match="There is no such cast"):
        clean.apply_rule(before, CastRule(cast={"a": "date"}), ledger)
