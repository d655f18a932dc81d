"""The split that a record's own row tells, as functions: times of every type, values, lists, and mistakes of jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from beam_jobs.batch import Batch, Ledger
from beam_jobs.local_store import LocalStore
from beam_jobs.split_lists import MAX_LIST_BYTES, Lists, read_lists, write_lists
from beam_jobs.splits import SPLIT, assign_splits
from beam_jobs.store_path import StorePath
from beam_jobs.times import is_time, micros
from schemas import HeadraceError
from schemas.hashing import value_hashes
from schemas.split import Split, parse_moment, parse_zone

BERLIN = timezone(timedelta(hours=2))
NOON = 1_720_000_000_000_000  # 2024-07-03T09:46:40Z, in microseconds


def make_batch(**columns: Any) -> Batch:
    records = pa.record_batch(columns)
    keys = pa.array([f"k{n}".encode() for n in range(records.num_rows)], pa.binary())
    return Batch(records, keys, np.arange(records.num_rows))


def assigned(split: Split, lists: Lists | None = None, **columns: Any) -> tuple[list[int], Ledger]:
    ledger = Ledger("main", lambda row: f"row {row}")
    batch = assign_splits(make_batch(**columns), split, lists, ledger)
    return batch.records.column(SPLIT).to_pylist(), ledger


MOMENT = datetime(2024, 7, 3, 9, 46, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("column", "unit", "expected"),
    [
        (pa.array([MOMENT], pa.timestamp("us", "UTC")), None, NOON),
        (pa.array([MOMENT], pa.timestamp("ns", "America/New_York")), None, NOON),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("s")), None, NOON - 7_200_000_000),
        (
            pa.array([MOMENT.date()], pa.date32()),
            None,
            NOON // 86_400_000_000 * 86_400_000_000 - 7_200_000_000,
        ),
        (
            pa.array([MOMENT.date()], pa.date64()),
            None,
            NOON // 86_400_000_000 * 86_400_000_000 - 7_200_000_000,
        ),
        (pa.array(["2024-07-03T09:46:40Z"]), None, NOON),
        (pa.array([" 2024-07-03 11:46:40+02:00"]), None, NOON),
        (pa.array(["2024-07-03T11:46:40"], pa.large_string()), None, NOON),
        (pa.array([NOON // 10**6]), "s", NOON),
        (pa.array([NOON // 10**3]), "ms", NOON),
        (pa.array([NOON], pa.uint64()), "us", NOON),
        (pa.array([NOON * 1000 + 999]), "ns", NOON),
        (pa.array([-1]), "ns", -1),
    ],
)
def test_times(column: pa.Array, unit: str | None, expected: int) -> None:
    assert is_time(column.type, unit)
    times, bad = micros(column, BERLIN, unit)
    assert times.tolist() == [expected]
    assert not bad.any()


def test_what_is_no_time() -> None:
    column = pa.array(["2024-13-01", None, "soon", "2024-01-01", ""])
    assert micros(column, UTC, None)[1].tolist() == [True, False, True, False, True]
    assert micros(pa.nulls(2), UTC, None)[1].tolist() == [False, False]
    for kind, unit in ((pa.int64(), None), (pa.float64(), "s"), (pa.binary(), None), (pa.bool_(), None)):
        assert not is_time(kind, unit)
    # So far away that microseconds do not fit: still before or after everything.
    far = micros(pa.array([2**62, -(2**62)]), UTC, "s")[0]
    assert far[0] > parse_moment("9999-12-31", UTC) > parse_moment("0001-01-01", UTC) > far[1]


@pytest.mark.parametrize("text", ["Europe/Berlin", "", ":30", "2", "Z;", "+25:99"])
def test_zones(text: str) -> None:
    assert parse_zone("UTC") == UTC
    assert parse_zone("-05:30") == timezone(-timedelta(hours=5, minutes=30))
    with pytest.raises(ValueError, match="the zone must be UTC or an offset"):
        parse_zone(text)


TIMED = Split(time="t", before={"train": "2024-01-01", "validation": date(2024, 7, 1)}, after="test")


def test_by_time() -> None:
    times = ["2023-12-31T23:59:59.999999", "2024-01-01", None, "2024-06-30", "2024-07-01T00:00", "soon"]
    found, ledger = assigned(TIMED, t=times)
    assert found == [0, 1, 1, 2]
    assert [(letter.rule, letter.reason) for letter in ledger.letters] == [
        ("no_split", "t: no time"),
        ("no_time", "t: 'soon' is no time"),
    ]
    zoned = TIMED.model_copy(update={"zone": "+02:00"})
    # Both a bound and a time that name no zone are in that of the job, so they move together.
    assert assigned(zoned, t=["2024-01-01", "2023-12-31T22:00Z", "2023-12-31T21:59Z"])[0] == [1, 1, 0]


@pytest.mark.parametrize(
    ("otherwise", "expected", "dropped", "letters"),
    [("dead_letter", [0, 2], 0, 1), ("drop", [0, 2], 1, 0), ("validation", [0, 1, 2], 0, 0)],
)
def test_records_of_no_split(otherwise: str, expected: list[int], dropped: int, letters: int) -> None:
    split = TIMED.model_copy(update={"otherwise": otherwise})
    found, ledger = assigned(split, t=["2020-01-01", None, "2025-01-01"])
    assert found == expected
    assert len(ledger.letters) == letters
    assert {rule: len(rows) for rule, rows in ledger.dropped.items()} == (
        {"in no split": 1} if dropped else {}
    )


def test_records_of_no_split_as_an_error() -> None:
    split = TIMED.model_copy(update={"otherwise": "error"})
    with pytest.raises(HeadraceError, match="A record belongs to no split") as caught:
        assigned(split, t=["2020-01-01", None])
    assert caught.value.where == "main, row 1"


def test_by_a_column() -> None:
    split = Split(column="c", values={"train": [1, True], "test": "x"}, otherwise="test")
    assert assigned(split, c=pa.array(["1", "true", "x", "y", None]))[0] == [0, 0, 1, 1, 1]
    assert assigned(split, c=pa.array([1, 2, None]))[0] == [0, 1, 1]
    assert assigned(split, c=pa.array([True, False]))[0] == [0, 1]
    assert assigned(split, c=pa.array(["1", "x"]).dictionary_encode())[0] == [0, 1]
    with pytest.raises(HeadraceError, match="cannot be compared as text") as caught:
        assigned(split, c=pa.array([[1]]))
    assert caught.value.where == "split.column"
    with pytest.raises(HeadraceError, match="The column to split by does not exist"):
        assigned(split, d=pa.array([1]))


def test_values_are_pinned() -> None:
    assert value_hashes([b"a", b""]).tolist() == [2238592211814931297, 6148094383412020297]


def lists_of(tmp_path: Path, split: Split) -> Lists:
    store = LocalStore(tmp_path / "store")
    entries, digest = read_lists(split.lists, split.names, split.list_column)
    lists = Lists(StorePath(store, f"lists-{digest}.bin"), digest)
    write_lists(lists, entries, digest)
    return lists


def test_by_lists(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes("k1\r\n\nk3\nk1\nÄ\n".encode())
    (tmp_path / "t.csv").write_text("file\n007\nk4\n")
    pq.write_table(pa.table({"id": ["k5", None, "k6"], "n": [1, 2, 3]}), tmp_path / "u.parquet")
    split = Split(
        lists={"validation": str(tmp_path / "v.txt"), "test": str(tmp_path / "t.csv")}, otherwise="train"
    )
    assert split.names == ["train", "validation", "test"]
    assert assigned(split, lists_of(tmp_path, split), x=range(6))[0] == [0, 1, 0, 1, 2, 0]
    grouped = split.model_copy(update={"by": "g", "otherwise": "dead_letter"})
    found, ledger = assigned(grouped, lists_of(tmp_path, grouped), g=["Ä", "007", None, "7"])
    assert found == [0, 1]
    assert [letter.reason for letter in ledger.letters] == ["g: in no list"] * 2
    parquet = Split(lists={"a": str(tmp_path / "u.parquet")}, list_column="id", otherwise="b")
    assert assigned(parquet, lists_of(tmp_path, parquet), x=range(7))[0] == [0, 0, 0, 0, 0, 1, 1]


def _too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_LIST_BYTES + 1)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gone.txt", lambda path: None, "There is no such list"),
        ("a.txt", _too_large, "The list is too large"),
        ("a.txt", lambda path: path.write_bytes(b"\xff\xfe"), "The list is not UTF-8"),
        ("a.csv", lambda path: path.write_text("a,b\n1,2\n"), "The list has several columns"),
        ("a.csv", lambda path: path.write_text("a,b\n1\n"), "The list has several columns"),
        ("a.csv", lambda path: path.write_bytes(b"a\n\xff\n"), "The list has a row that cannot be read"),
        ("a.csv", lambda path: path.write_text(""), "empty|no rows|nothing"),
        ("a.parquet", lambda path: path.write_bytes(b"PAR1"), "is damaged|cannot be read|no Parquet"),
        ("a.txt", lambda path: path.write_text("same\n"), "Values that are in the lists of two splits: 1"),
    ],
)
def test_mistakes_in_lists(name: str, make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    (tmp_path / "other.txt").write_text("same\nelse\n")
    with pytest.raises(HeadraceError, match=message) as caught:
        read_lists({"a": str(tmp_path / name), "b": str(tmp_path / "other.txt")}, ["a", "b"], None)
    assert str(caught.value.where).startswith("split.lists")


def test_a_list_that_changes_while_a_job_begins(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("k1\n")
    entries, digest = read_lists({"a": str(tmp_path / "a.txt")}, ["a"], None)
    lists = Lists(StorePath(LocalStore(tmp_path / "store"), "l.bin"), "another")
    with pytest.raises(HeadraceError, match="A list was changed"):
        write_lists(lists, entries, digest)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fractions": {"a": 1}, "time": "t"}, "one of them decides, not several: fractions, time"),
        ({"before": {"a": "2024-01-01"}}, "`before` goes with `time`, not with `fractions`"),
        ({"time": "t"}, "`time` needs `before`"),
        ({"time": "t", "before": {"a": "2024"}, "after": "b"}, "'2024' is no date or time"),
        (
            {"time": "t", "before": {"a": "2024-02-01", "b": "2024-01-01"}, "after": "c"},
            "the times of `before` must grow",
        ),
        ({"time": "t", "before": {"a": "2024-01-01"}, "after": "a"}, "`time` needs `before`"),
        ({"time": "t", "before": {"a": "2024-01-01"}, "after": "b", "exact": True}, "`exact` goes with"),
        ({"time": "t", "before": {"a": "2024-01-01"}, "after": "b", "zone": "CET"}, "the zone must be UTC"),
        ({"column": "c"}, "`column` needs `values`"),
        ({"column": "c", "values": {"a": "x", "b": ["y", "x"]}}, r"values name more than one split: \['x'\]"),
        (
            {"column": "c", "values": {"a": "x"}, "otherwise": "b"},
            "'b' is none of dead_letter, drop, error, a",
        ),
        ({"lists": {"drop": "x"}}, "no split may be called 'drop'"),
        ({"lists": {"all": "x"}}, "no split may be called 'all'"),
        ({"exact": "groups"}, "`exact: groups` needs `by`"),
        ({"cap": {"by": "c", "most": 1, "splits": ["x"]}}, r"there are no splits \['x'\]"),
        ({"cap": {"by": "c", "most": 0}}, "greater than or equal to 1"),
    ],
)
def test_mistakes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Split.model_validate(fields)


def test_a_job_is_the_same_read_back() -> None:
    assert Split.model_validate(TIMED.model_dump(mode="json")) == TIMED
    assert Split.model_validate(Split().model_dump(mode="json")) == Split()
