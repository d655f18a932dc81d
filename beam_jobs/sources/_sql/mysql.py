"""MySQL and MariaDB by PyMySQL, unbuffered: rows are taken from the network as they are asked for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pymysql
import sqlalchemy as sa
from pymysql.constants import FIELD_TYPE, FLAG
from pymysql.converters import encoders
from pymysql.cursors import SSCursor
from sqlalchemy.dialects import mysql

from beam_jobs.sources._sql.chunks import Chunk, tuples_to_chunks
from beam_jobs.sources._sql.place import Place, explaining
from beam_jobs.sources._sql.statements import Column, Table
from schemas.errors import HeadraceError
from schemas.sources import SqlSource

_INTEGERS = (
    FIELD_TYPE.TINY,
    FIELD_TYPE.SHORT,
    FIELD_TYPE.INT24,
    FIELD_TYPE.LONG,
    FIELD_TYPE.LONGLONG,
    FIELD_TYPE.YEAR,
)
_FLOATS = (FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE)
_DECIMALS = (FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL)
_TIMES = (FIELD_TYPE.DATE, FIELD_TYPE.NEWDATE, FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP, FIELD_TYPE.TIME)
_BINARY = 63  # the character set of what is no text
# Everything else stays the text that the server wrote: dates, among them impossible ones, and exact decimals.
_DECODERS: dict[int, Any] = {**dict.fromkeys(_INTEGERS, int), **dict.fromkeys(_FLOATS, float)}
_VECTOR = 242  # MySQL's type, which PyMySQL takes for text
# Modes with which MySQL refuses dates as bounds that its tables hold, and with which text would be quoted otherwise.
_NO_MODES = ("NO_ZERO_IN_DATE", "NO_ZERO_DATE", "TRADITIONAL", "NO_BACKSLASH_ESCAPES")
_MODES = functools.reduce(lambda modes, mode: f"REPLACE({modes}, '{mode}', '')", _NO_MODES, "@@sql_mode")
_SESSION = (
    # No limit of rows: one that a server sets for all would leave out rows, and tell nobody.
    "SET SESSION time_zone = '+00:00', sql_select_limit = 18446744073709551615, "
    f"sql_mode = CONCAT({_MODES}, ',ALLOW_INVALID_DATES')",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
_OPTIONS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_identity", "unix_socket")
_PRIMARY_KEY = """SELECT column_name FROM information_schema.key_column_usage
WHERE constraint_name = 'PRIMARY' AND table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name
ORDER BY ordinal_position"""
_FAILURES = (pymysql.MySQLError, OSError)


@dataclass(frozen=True)
class MySql:
    """A MySQL or MariaDB database; see `Database`."""

    place: Place
    where: str

    def selected(self, column: Column, expression: Any) -> Any:
        """What the server writes in full: a FLOAT loses digits else, bits are no number, and vectors no bytes."""
        if column.type == "vector":
            return sa.cast(expression, mysql.BINARY)
        if column.type == "float":
            return expression + sa.literal_column("0e0")
        return sa.cast(expression, mysql.INTEGER(unsigned=True)) if column.type == "bit" else expression

    def ordered(self, column: Column, expression: Any) -> Any:
        """Text in the order of its bytes; collations know no case, and no blanks at the end."""
        if column.kind == "string":
            return sa.cast(sa.cast(expression, mysql.CHAR(charset="utf8mb4")), sa.LargeBinary)
        return self.selected(column, expression)

    def bound(self, column: Column, value: Any) -> Any:
        """A value with its type; decimals are compared as such, not as the floats that text would become."""
        if column.kind == "string":
            return sa.bindparam(None, str(value).encode(), unique=True)
        if column.type == "decimal":
            return sa.bindparam(None, Decimal(value), unique=True)
        return sa.bindparam(None, value, unique=True)

    @contextlib.contextmanager
    def session(self) -> Iterator[MySqlSession]:
        """A transaction of one snapshot."""
        place = self.place
        options = {name: value for name, value in place.options.items() if name in _OPTIONS}
        if len(options) < len(place.options):
            raise HeadraceError(
                "The URL has an option that is not known.",
                where=f"{self.where}.url",
                value=", ".join(sorted(set(place.options) - set(_OPTIONS))),
                allowed=", ".join(_OPTIONS),
            )
        arguments: dict[str, Any] = {
            "host": place.host,
            "port": place.port or 3306,
            "user": place.user,
            "password": place.password or "",
            "database": place.database,
            "charset": "utf8mb4",
            "connect_timeout": 10,
            "conv": {**encoders, **_DECODERS},
            "cursorclass": SSCursor,
            **options,
            # Who names an authority means that it is asked, which PyMySQL does not by itself.
            "ssl_verify_cert": True if "ssl_ca" in options else None,
            "ssl_verify_identity": options.get("ssl_verify_identity") == "true",
        }
        with explaining(place, self.where, *_FAILURES):
            connection = pymysql.connect(**arguments)
        session = MySqlSession(self, connection)
        try:
            for statement in _SESSION:
                session.run(statement)
            yield session
        finally:
            session.close()


class MySqlSession:
    """See `Session`."""

    def __init__(self, database: MySql, connection: Any) -> None:
        self._database = database
        self._connection = connection
        self._cursors: list[Any] = []

    def run(self, sql: str, values: Any = None) -> Any:
        """A cursor over the rows of a statement."""
        with self._explaining():
            cursor = self._connection.cursor()
            self._cursors.append(cursor)
            cursor.execute(sql, values)
        return cursor

    def describe(self, statement: Any) -> list[Column]:
        """By a statement without rows."""
        cursor = self._execute(statement)
        # The cursor's own description does not tell text from bytes.
        columns = [_column(field) for field in cursor._result.fields]
        cursor.close()
        return columns

    def primary_key(self, spec: SqlSource) -> list[str]:
        """From the catalog."""
        query = sa.text(_PRIMARY_KEY).bindparams(schema=spec.schema_name, name=spec.table)
        cursor = self._execute(query)
        names = [str(name) for (name,) in cursor.fetchall()]
        cursor.close()
        return names

    def settle(self, table: Table, _spec: SqlSource) -> Table:
        """Columns have types."""
        return table

    def chunks(self, statement: Any, table: Table) -> Iterator[Chunk]:
        """As they come."""
        cursor = self._execute(statement)

        yield from tuples_to_chunks(cursor.fetchmany, self._explaining, table)
        cursor.close()

    def state(self) -> None:
        """Nobody can tell."""

    def count(self, statement: Any) -> int:
        """A single number."""
        cursor = self._execute(statement)
        (number,) = cursor.fetchone()
        cursor.close()
        return int(number)

    def close(self) -> None:
        """Ends the connection; cursors would else wait for all that is left of their rows."""
        for cursor in self._cursors:
            cursor.connection = None
            if cursor._result is not None:
                cursor._result.unbuffered_active = False
        with contextlib.suppress(*_FAILURES):
            self._connection.close()

    def _execute(self, statement: Any) -> Any:
        compiled = statement.compile(dialect=mysql.dialect(paramstyle="pyformat"))
        return self.run(str(compiled), compiled.construct_params())

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(self._database.place, self._database.where, *_FAILURES)


def _column(field: Any) -> Column:
    code = field.type_code
    if code in _INTEGERS:
        return Column(
            field.name, "uint64" if code == FIELD_TYPE.LONGLONG and field.flags & FLAG.UNSIGNED else "int64"
        )
    if code in _FLOATS:
        return Column(field.name, "float64", "float" if code == FIELD_TYPE.FLOAT else "")
    if code in _DECIMALS:
        return Column(field.name, "text", "decimal")
    if code in _TIMES:
        return Column(field.name, "text", "time")
    if code == FIELD_TYPE.BIT:
        return Column(field.name, "uint64", "bit")
    if code == _VECTOR:
        return Column(field.name, "bytes", "vector")
    binary = field.charsetnr == _BINARY and code != FIELD_TYPE.JSON
    return Column(field.name, "bytes" if binary else "string")
