"""Expressions: what is let through, what is refused, and rows where they fail."""

from __future__ import annotations

import sys
import threading

import pyarrow as pa
import pytest

from beam_jobs import expressions
from beam_jobs.expression_functions import FUNCTIONS
from beam_jobs.expressions import _engine, check_columns, evaluate, parse_expression
from schemas import HeadraceError

RECORDS = pa.record_batch(
    {
        "width": pa.array([4, 0, None, 7]),
        "height": pa.array([2, 3, 5, 0]),
        "name": ["a1", "b", None, "9"],
        "meta": [{"k": 1, "deep": {"x": 0.5}}, {"k": 2, "deep": None}, None, {"k": 3, "deep": {"x": 1.5}}],
        "words": [["x", "yy"], [], None, ["zzz"]],
        "a.b c": [1, 2, 3, 4],
    }
)


def values(text: str) -> tuple[list[object], dict[int, str]]:
    found, failed = evaluate(parse_expression(text, "clean, compute x"), RECORDS)
    return found.to_pylist(), failed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("width * height", [8, 0, None, 0]),
        ("width + 0.5", [4.5, 0.5, None, 7.5]),  # no decimals: no feature takes them
        ("CASE WHEN height = 0 THEN -1 ELSE width // height END", [2, 0, None, -1]),
        ("coalesce(name, 'none') -- the name\n", ["a1", "b", "none", "9"]),
        ("upper(name) || '!'", ["A1!", "B!", None, "9!"]),
        ("meta.k", [1, 2, None, 3]),
        ("meta.deep.x", [0.5, None, None, 1.5]),
        ("list_transform(words, lambda w: length(w))", [[1, 2], [], None, [3]]),
        ("[length(w) for w in words]", [[1, 2], [], None, [3]]),
        ('"a.b c" % 2 = 0', [False, True, False, True]),
        ("try_cast(name AS BIGINT)", [None, None, None, 9]),
        ("1 + 1", [2, 2, 2, 2]),
        ("list_sum([width, height])", [6, 3, 5, 7]),  # the engine's 128-bit integers become int64
        ("name LIKE 'a%' AND width BETWEEN 1 AND 5", [True, False, None, False]),
        ("regexp_extract(name, '([0-9]+)', 1)", ["1", "", None, "9"]),
    ],
)
def test_values(text: str, expected: list[object]) -> None:
    found, failed = values(text)
    assert found == expected
    assert failed == {}


@pytest.mark.parametrize(
    ("text", "rows", "reason"),
    [
        ("width / height", [3], "Division by zero"),
        ("width % height", [3], "Division by zero"),
        ("CAST(name AS BIGINT)", [0, 1], "Could not convert string 'a1' to INT64"),
        ("width + 9223372036854775807", [0, 3], "Overflow in addition"),
        ("ln(width)", [1], "logarithm of zero"),
    ],
)
def test_rows_that_fail(text: str, rows: list[int], reason: str) -> None:
    found, failed = values(text)
    assert list(failed) == rows
    assert reason in failed[rows[0]]
    assert all(found[row] is None for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width *", "no SQL expression"),
        ("", "no SQL expression"),
        ("1; DROP TABLE x", "no SQL expression"),
        ("1; SELECT 2", "more than one SQL expression"),
        ("1, 2", "more than one SQL expression"),
        ("1 AS x", "more than one SQL expression"),
        ("1 FROM 'x.csv'", "more than one SQL expression"),
        ("width LIMIT 1", "more than one SQL expression"),
        ("width WHERE true", "more than one SQL expression"),
        ("1 UNION SELECT 2", "more than one SQL expression"),
        ("(SELECT max(x) FROM read_csv('/etc/passwd'))", "holds no subquery"),
        ("EXISTS (SELECT 1)", "holds no subquery"),
        ("row_number() OVER ()", "holds no window"),
        ("*", "holds no star"),
        ("COLUMNS('w.*')", "holds no star"),
        ("?", "holds no parameter"),
        ("name COLLATE nocase", "holds no collate"),
        ("random()", "'random' is not allowed"),
        ("now()", "'now' is not allowed"),
        ("sum(width)", "'sum' is not allowed"),
        ("getvariable('x')", "'getvariable' is not allowed"),
        ("current_setting('threads')", "'current_setting' is not allowed"),
        ("read_text('/etc/passwd')", "'read_text' is not allowed"),
        ("json_serialize_sql('SELECT 1')", "'json_serialize_sql' is not allowed"),
        ("list_transform(words, lambda w: random())", "'random' is not allowed"),
        ("main.upper(name)", "'upper' is not allowed"),
        ("width + Width", "differ only in case"),
        ("(" * 150 + "width" + " + 1)" * 150, "nested too deeply"),
        ("(" * 5000 + "width" + ")" * 5000, "no SQL expression"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(HeadraceError, match=message) as caught:
        parse_expression(text, "clean, compute x")
    assert caught.value.where == "clean, compute x"


def test_columns_are_known_before_data_are_read() -> None:
    expression = parse_expression("wdith * height", "clean, compute area")
    assert expression.columns == ("height", "wdith")
    with pytest.raises(HeadraceError, match="column 'wdith', which does not exist") as caught:
        check_columns(expression, RECORDS.schema.names)
    assert caught.value.hint == "Did you mean 'width'?"
    # To the engine this is a value of today; to us it is a column.
    with pytest.raises(HeadraceError, match="'current_date', which does not exist"):
        values("current_date")


def test_types_that_are_never_right() -> None:
    with pytest.raises(HeadraceError, match="cannot be computed") as caught:
        values("name * 2 + words")
    assert caught.value.allowed == "name: string, words: list<item: string>"
    assert "cast" in (caught.value.hint or "")


def test_the_engine_is_locked_and_reaches_no_file() -> None:
    import duckdb

    for query in (
        "SET threads = 2",
        "SET enable_external_access = true",
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "ATTACH '/tmp/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
    ):
        with pytest.raises(duckdb.Error):
            _engine().execute(query)


def test_every_function_exists_and_depends_on_the_row_alone() -> None:
    """No version of the engine may have made one volatile, or an aggregate."""
    rows = (
        _engine().execute("SELECT function_name, function_type, stability FROM duckdb_functions()").fetchall()
    )
    kinds: dict[str, set[tuple[str, str | None]]] = {}
    for name, kind, stability in rows:
        kinds.setdefault(name, set()).add((kind, stability))
    syntax = {"->", "if", "ifnull", "**", "||", "!"}
    assert {name for name in FUNCTIONS - syntax if name not in kinds} == set()
    volatile = {name for name in FUNCTIONS & set(kinds) if ("scalar", "VOLATILE") in kinds[name]}
    only_aggregate = {
        name for name in FUNCTIONS & set(kinds) if {kind for kind, _ in kinds[name]} == {"aggregate"}
    }
    assert volatile | only_aggregate == set()


def test_without_the_engine_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.setattr(expressions, "_local", threading.local())
    with pytest.raises(HeadraceError, match="DuckDB, which is not installed") as caught:
        parse_expression("1 + 2 + 3 + 4", "clean, compute x")
    assert caught.value.hint == "pip install 'headrace[expressions]'"
