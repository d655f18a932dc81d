"""SQLite files by Python's own client. Its columns promise no types, so each value is looked at."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from beam_jobs.sources._sql.chunks import Chunk, tuples_to_chunks
from beam_jobs.sources._sql.place import Place, explained, explaining
from beam_jobs.sources._sql.statements import Column, Table
from schemas.errors import HeadraceError
from schemas.sources import SqlSource

_STORED = {"integer": "int64", "real": "float64", "text": "string", "blob": "bytes"}
# As SQLite itself reads declarations, in this order.
_DECLARED = (
    (("INT", "BOOL"), "int64"),
    (("CHAR", "CLOB", "TEXT"), "string"),
    (("REAL", "FLOA", "DOUB", "NUM", "DEC"), "float64"),
    (("BLOB",), "bytes"),
)
_lenient = functools.partial(str, encoding="utf-8", errors="surrogateescape")
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sqlite:
    """A SQLite file; see `Database`."""

    place: Place
    where: str

    def selected(self, _column: Column, expression: Any) -> Any:
        """As it is stored."""
        return expression

    def ordered(self, column: Column, expression: Any) -> Any:
        """Text in the order of its bytes, whatever the column's collation."""
        return sa.collate(expression, "BINARY") if column.kind == "string" else expression

    def bound(self, _column: Column, value: Any) -> Any:
        """A value as it is stored."""
        return sa.bindparam(None, value, unique=True)

    @contextlib.contextmanager
    def session(self) -> Iterator[SqliteSession]:
        """A transaction of one snapshot."""
        file = Path(str(self.place.database))
        if not file.is_file():
            raise HeadraceError("There is no such file.", where=f"{self.where}.url", value=str(file))
        with explaining(self.place, self.where, sqlite3.Error):
            # A source may be read by one thread and closed by another.
            connection = sqlite3.connect(
                f"file:{quote(str(file))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
        try:
            session = SqliteSession(self, connection)
            for statement in ("PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON", "BEGIN"):
                session.run(statement)
            yield session
        finally:
            connection.close()


class SqliteSession:
    """See `Session`."""

    def __init__(self, database: Sqlite, connection: sqlite3.Connection) -> None:
        self._database = database
        self._connection = connection

    def run(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """A cursor over the rows of a statement."""
        with self._explaining():
            return self._connection.execute(sql, values)

    def describe(self, statement: Any) -> list[Column]:
        """By a statement without rows; the types of a table's columns are as declared, others unknown yet."""
        cursor = self._execute(statement)
        return [Column(name, _UNKNOWN) for name, *_ in cursor.description]

    def primary_key(self, spec: SqlSource) -> list[str]:
        """From the schema."""
        rows = self.run("SELECT name, pk FROM pragma_table_xinfo(?) WHERE pk > 0 ORDER BY pk", (spec.table,))
        return [name for name, _ in rows.fetchall()]

    def settle(self, table: Table, spec: SqlSource) -> Table:
        """A table's columns have the types that were declared, others that of their first value in order."""
        rows = self.run("SELECT name, type FROM pragma_table_xinfo(?)", (spec.table,)).fetchall()
        declared = {name: _kind(type_) for name, type_ in rows}
        columns = []
        for column in table.columns:
            kind = declared.get(column.name)
            if kind is None:
                expression = table.rows.c[column.name]
                first = sa.select(sa.func.typeof(expression)).where(expression.is_not(None)).limit(1)
                order = [table.rows.c[table.columns[key].name] for key in table.order]
                found = self._execute(first.order_by(*order)).fetchone()
                kind = _STORED[found[0]] if found else "string"
            columns.append(dataclasses.replace(column, kind=kind))
        return dataclasses.replace(table, columns=columns)

    def chunks(self, statement: Any, table: Table) -> Iterator[Chunk]:
        """As they come; once some text is no UTF-8, by a slower way that lets it pass for a fault."""
        done = 0
        try:
            for chunk in tuples_to_chunks(self._execute(statement).fetchmany, contextlib.nullcontext, table):
                yield chunk
                done += chunk.total
        except sqlite3.Error as error:
            if "decode" not in str(error):
                raise explained(error, self._database.place, self._database.where) from None
            self._connection.text_factory = _lenient
            cursor = self._execute(statement)
            for _ in range(done):
                cursor.fetchone()
            yield from tuples_to_chunks(cursor.fetchmany, self._explaining, table)

    def state(self) -> None:
        """Nobody can tell."""

    def count(self, statement: Any) -> int:
        """A single number."""
        with self._explaining():
            return int(self._execute(statement).fetchone()[0])

    def _execute(self, statement: Any) -> sqlite3.Cursor:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        values = compiled.construct_params()
        return self.run(str(compiled), tuple(values[name] for name in compiled.positiontup or ()))

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(self._database.place, self._database.where, sqlite3.Error)


def _kind(declared: str) -> str | None:
    upper = declared.upper()
    return next((kind for words, kind in _DECLARED if any(word in upper for word in words)), None)
