"""Expressions of a job: DuckDB SQL over one batch, of which only what computes a value from a row is let through.

An expression is parsed by DuckDB itself, and what it parsed to is walked: columns, constants, casts, operators, CASE,
lambdas, and the functions of `expression_functions`. There is no table, file, setting, clock or chance in it; the
engine, besides, has no access to files or the network, and is locked.
"""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.expression_functions import FUNCTIONS
from schemas import HeadraceError
from schemas.errors import shorten

_CLASSES = frozenset(
    (
        "BETWEEN",
        "CASE",
        "CAST",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "LAMBDA",
        "OPERATOR",
        "TYPE",
    )
)
_EMPTY: dict[str, Any] = {
    "modifiers": [],
    "cte_map": {"map": []},
    "where_clause": None,
    "group_expressions": [],
    "group_sets": [],
    "having": None,
    "sample": None,
    "qualify": None,
}
_MAX_DEPTH = 200  # of an expression, in levels of the parsed tree
_SETTINGS = (
    "memory_limit = '1GB'",
    "temp_directory = ''",
    "TimeZone = 'UTC'",
    "python_enable_replacements = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "ieee_floating_point_ops = false",  # a division by zero is an error, not infinity
    "error_on_division_by_zero = true",
    "enable_external_access = false",
    "lock_configuration = true",
)
# Of the engine's numeric types those that features cannot take, and what is taken in their place.
_INSTEAD = (("DECIMAL", "DOUBLE"), ("HUGEINT", "BIGINT"), ("UHUGEINT", "BIGINT"), ("BIGNUM", "DOUBLE"))


@dataclass(frozen=True)
class Expression:
    """An expression that may be evaluated.

    Attributes:
      text: as the user wrote it.
      sql: the same as the engine writes it, in one line and without comments.
      columns: those it refers to, sorted.
      where: the rule, for errors.
    """

    text: str
    sql: str
    columns: tuple[str, ...]
    where: str


@lru_cache(maxsize=1024)
def parse_expression(text: str, where: str) -> Expression:
    """The expression in `text`; `where` names the rule in errors.

    Raises:
      HeadraceError: it is no expression, or holds what is not allowed.
    """
    answer = _ask("SELECT json_serialize_sql(?)", f"SELECT {text}")
    parsed = json.loads(answer)
    if parsed["error"]:
        raise _refused("This is no SQL expression", text, where, _first_line(parsed["error_message"]))
    statements = parsed["statements"]
    node = statements[0]["node"]
    whole = (
        len(statements) == 1
        and node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and all(node[name] == empty for name, empty in _EMPTY.items())
        and not node["select_list"][0].get("alias")
    )
    if not whole:
        raise _refused("This is more than one SQL expression", text, where, "one value, without AS or FROM")
    columns = tuple(sorted(set(_columns(node["select_list"][0], frozenset(), text, where, 0))))
    folded = {column.casefold() for column in columns}
    if len(folded) < len(columns):
        raise _refused(
            "Two columns differ only in case",
            text,
            where,
            "to SQL that is one name: rename one of them before",
        )
    sql = _ask("SELECT json_deserialize_sql(?)", answer)
    return Expression(text, sql.removeprefix("SELECT ").rstrip("; "), columns, where)


def check_columns(expression: Expression, columns: list[str]) -> None:
    """Whether all columns of an expression are among `columns`.

    Raises:
      HeadraceError: one is not.
    """
    for name in expression.columns:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.6)
            raise HeadraceError(
                f"The expression refers to a column {name!r}, which does not exist.",
                where=expression.where,
                value=expression.text,
                allowed=shorten(", ".join(columns), 400),
                hint=f"Did you mean {near[0]!r}?" if near else "Texts are put in single quotes.",
            )


def evaluate(expression: Expression, records: pa.RecordBatch) -> tuple[pa.Array, dict[int, str]]:
    """The expression's value for every record, and why for each where it fails: null there.

    Raises:
      HeadraceError: a column does not exist, or the types of the columns are never right.
    """
    import duckdb

    check_columns(expression, records.schema.names)
    # Without a column to refer to, the engine must still know how many rows there are.
    names = list(expression.columns) or records.schema.names[:1]
    table = pa.Table.from_batches([records.select(names)])
    sql = expression.sql
    try:
        kind = str(_engine().from_arrow(table.slice(0, 0)).project(f"({sql}) AS value").types[0])
        for prefix, instead in _INSTEAD:
            if kind.startswith(prefix):
                sql = f"CAST(({sql}) AS {instead})"
        # A struct of the value is null only where computing it failed: the value itself may be null by right.
        found = (
            _engine().from_arrow(table).project(f"TRY(struct_pack(v := ({sql}))) AS tried").to_arrow_table()
        )
    except duckdb.Error as error:
        raise HeadraceError(
            "The expression cannot be computed.",
            where=expression.where,
            value=expression.text,
            allowed=_types(table),
            hint=f"{_first_line(str(error))}. Texts become numbers by a `cast` rule before, or `types:` of a csv.",
        ) from error
    tried = found["tried"].combine_chunks()
    tried = tried.combine_chunks() if isinstance(tried, pa.ChunkedArray) else tried
    values = pc.struct_field(tried, [0])
    failed = np.flatnonzero(pc.is_null(tried).to_numpy(zero_copy_only=False))
    return values, {place: _why(sql, table.slice(place, 1)) for place in failed.tolist()}


def _why(sql: str, row: pa.Table) -> str:
    """Why the expression fails for a row."""
    import duckdb

    try:
        _engine().from_arrow(row).project(f"({sql}) AS value").fetchall()
    except duckdb.Error as error:
        return _first_line(str(error))
    return "it has no value"


def engine_version() -> str:
    """The engine's version: values may depend on it."""
    return str(_duckdb().__version__)


_local = threading.local()


def _engine() -> Any:
    """This thread's own engine: one thread, no files, no network, no extensions, no setting that can be changed."""
    if not hasattr(_local, "engine"):
        engine = _duckdb().connect(":memory:", config={"threads": 1})
        for setting in _SETTINGS:
            engine.execute(f"SET {setting}")
        _local.engine = engine
    return _local.engine


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise HeadraceError(
            "Expressions need DuckDB, which is not installed.",
            where="clean",
            hint="pip install 'headrace[expressions]'",
        ) from error
    return duckdb


def _ask(query: str, text: str) -> str:
    """The one value that a query of ours answers for `text`."""
    rows: list[tuple[str]] = _engine().execute(query, [text]).fetchall()
    return rows[0][0]


def _columns(part: Any, lambdas: frozenset[str], text: str, where: str, depth: int) -> Iterator[str]:
    """The columns that a part of a parsed expression refers to; refuses what is not allowed."""
    if depth > _MAX_DEPTH:
        raise _refused("The expression is nested too deeply", text, where, f"{_MAX_DEPTH} levels")
    if isinstance(part, list):
        for each in part:
            yield from _columns(each, lambdas, text, where, depth + 1)
        return
    if not isinstance(part, dict):
        return
    kind = part.get("class")
    if kind is not None and kind not in _CLASSES:
        what = str(kind).lower().replace("_", " ")
        raise _refused(
            f"An expression holds no {what}",
            text,
            where,
            "columns, constants, operators, CASE, CAST, lambdas and functions of one row",
        )
    if kind == "COLUMN_REF":
        if part["column_names"][0] not in lambdas:
            yield part["column_names"][0]
        return
    if kind == "FUNCTION":
        name = str(part["function_name"])
        if name not in FUNCTIONS or part["schema"] or part["catalog"] or part["filter"] is not None:
            near = difflib.get_close_matches(name, sorted(FUNCTIONS), n=3, cutoff=0.5)
            hint = f"; the nearest are {', '.join(near)}" if near else ""
            raise _refused(
                f"The function {name!r} is not allowed in an expression",
                text,
                where,
                f"functions that depend on nothing but the row{hint}",
            )
    if kind == "LAMBDA":
        names = frozenset(_columns(part["lhs"], frozenset(), text, where, depth + 1))
        yield from _columns(part["expr"], lambdas | names, text, where, depth + 1)
        return
    for each in part.values():
        yield from _columns(each, lambdas, text, where, depth + 1)


def _refused(what: str, text: str, where: str, allowed: str) -> HeadraceError:
    return HeadraceError(f"{what}.", where=where, value=text, allowed=allowed)


def _first_line(message: str) -> str:
    line = message.strip().splitlines()[0].rstrip(" .")
    # What follows is advice for those who write the whole query.
    line = line.split(". Use TRY(", 1)[0]
    return shorten(line, 300)


def _types(table: pa.Table) -> str:
    return shorten(", ".join(f"{field.name}: {field.type}" for field in table.schema), 400)
