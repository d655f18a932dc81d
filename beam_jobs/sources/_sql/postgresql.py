"""PostgreSQL by ADBC, which gives COPY's binary rows as Arrow."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import quote, urlencode

import adbc_driver_postgresql
import pyarrow as pa
import sqlalchemy as sa
from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect
from sqlalchemy.types import UserDefinedType

from beam_jobs.sources._sql.chunks import CHUNK_BYTES, Chunk, from_arrow
from beam_jobs.sources._sql.place import Place, explaining
from beam_jobs.sources._sql.statements import Column, Table
from schemas.sources import SqlSource

_KINDS = {
    **dict.fromkeys(("int2", "int4", "int8"), "int64"),
    **dict.fromkeys(("float4", "float8"), "float64"),
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), "string"),
    **dict.fromkeys(("_int2", "_int4", "_int8"), "int64[]"),
    **dict.fromkeys(("_float4", "_float8"), "float64[]"),
    **dict.fromkeys(("_text", "_varchar", "_bpchar"), "string[]"),
    "bool": "bool",
    "_bool": "bool[]",
    "bytea": "bytes",
}
# Sorted and compared as what they are, so that their indexes serve; of other types the text is.
_SORTED = ("date", "timestamp", "timestamptz", "time", "uuid", "numeric")
_FAILURES = (Error, OSError, pa.ArrowException)
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_SETTINGS = {
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
}
_PRIMARY_KEY = """SELECT a.attname FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indisprimary AND i.indrelid = CAST(CAST(:name AS TEXT) AS regclass)
ORDER BY array_position(i.indkey, a.attnum)"""


class _Compiler(PGCompiler):
    """Takes bound values from settings of the transaction, which are sent before as parameters.

    COPY, which streams rows as Arrow in bounded memory, takes no parameters of its own.
    """

    def visit_bindparam(self, bindparam: Any, *arguments: Any, **options: Any) -> str:
        super().visit_bindparam(bindparam, *arguments, **options)  # type: ignore[no-untyped-call]
        place = list(dict.fromkeys(self.bind_names.values())).index(self.bind_names[bindparam])
        kind = self.dialect.type_compiler_instance.process(bindparam.type)
        return f"CAST(current_setting('headrace.p{place}') AS {kind})"


class _Dialect(PGDialect):
    statement_compiler = _Compiler
    supports_statement_cache = False


_compiling: Any = _Dialect  # which has no types


class _Named(UserDefinedType[Any]):
    """A type by its name, one of `_SORTED`."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


@dataclass(frozen=True)
class PostgreSql:
    """A PostgreSQL database; see `Database`."""

    place: Place
    where: str

    def selected(self, column: Column, expression: Any) -> Any:
        """Types that Arrow does not have are sent as text: ISO 8601 in UTC, exact decimals, JSON."""
        return sa.cast(expression, sa.Text) if column.kind == "text" else expression

    def ordered(self, column: Column, expression: Any) -> Any:
        """Text in the order of its bytes."""
        if column.kind == "text" and column.type not in _SORTED:
            return sa.collate(sa.cast(expression, sa.Text), "C")
        return sa.collate(expression, "C") if column.kind == "string" else expression

    def bound(self, column: Column, value: Any) -> Any:
        """A value with its type."""
        types: dict[str, Any] = {"int64": sa.BigInteger(), "bool": sa.Boolean(), "bytes": sa.LargeBinary()}
        named = column.kind == "text" and column.type in _SORTED
        return sa.bindparam(
            None,
            value,
            unique=True,
            type_=_Named(column.type) if named else types.get(column.kind, sa.Text()),
        )

    @contextlib.contextmanager
    def session(self) -> Iterator[PostgreSqlSession]:
        """A transaction of one snapshot."""
        with explaining(self.place, self.where, *_FAILURES):
            connection = _idle.take(self.place) or dbapi.connect(_uri(self.place))
        try:
            session = PostgreSqlSession(self, connection)
            session.run(_SNAPSHOT)
            yield session
            with explaining(self.place, self.where, *_FAILURES):
                connection.rollback()
        except BaseException:
            with contextlib.suppress(*_FAILURES):
                connection.close()
            raise
        _idle.give(self.place, connection)


class _Idle:
    """Connections that nobody uses right now: a new one costs as much as reading thousands of rows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[tuple[Place, float, Any]] = []
        atexit.register(self.drop, 0)

    def take(self, place: Place) -> Any:
        """A connection to `place`, or None."""
        self.drop(_IDLE_SECONDS)
        with self._lock:
            for number, (where, _, connection) in enumerate(self._connections):
                if where == place:
                    del self._connections[number]
                    return connection
        return None

    def give(self, place: Place, connection: Any) -> None:
        """Keeps a connection for a while."""
        with self._lock:
            self._connections.append((place, time.monotonic(), connection))

    def drop(self, seconds: float) -> None:
        """Closes what was idle for so long."""
        with self._lock:
            old = [entry for entry in self._connections if time.monotonic() - entry[1] >= seconds]
            self._connections = [entry for entry in self._connections if entry not in old]
        for _, _, connection in old:
            with contextlib.suppress(*_FAILURES):
                connection.close()


_IDLE_SECONDS = 30
_idle = _Idle()


class PostgreSqlSession:
    """See `Session`."""

    def __init__(self, database: PostgreSql, connection: Any) -> None:
        self._database = database
        self._connection = connection

    def run(self, sql: str, values: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        with self._explaining(), self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def describe(self, statement: Any) -> list[Column]:
        """By a statement without rows."""
        with self._reader(statement) as reader:
            return [_column(field) for field in reader.schema]

    def primary_key(self, spec: SqlSource) -> list[str]:
        """From the catalog, which those who may only read see too."""
        table = sa.table(sa.quoted_name(str(spec.table), True), schema=_quoted(spec.schema_name))
        name = _compiling(paramstyle="named").identifier_preparer.format_table(table)
        query = sa.text(_PRIMARY_KEY).bindparams(sa.bindparam("name", name, type_=sa.Text()))
        with self._reader(query) as reader:
            return [name for batch in reader for name in batch.column(0).to_pylist()]

    def settle(self, table: Table, _spec: SqlSource) -> Table:
        """Columns have types."""
        return table

    def chunks(self, statement: Any, table: Table) -> Iterator[Chunk]:
        """As COPY sends them."""
        with self._reader(statement) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield from_arrow(batch, table)

    def state(self) -> None:
        """Nobody can tell."""

    def count(self, statement: Any) -> int:
        """A single number."""
        with self._reader(statement) as reader:
            return int(reader.read_all().column(0)[0].as_py())

    @contextlib.contextmanager
    def _reader(self, statement: Any) -> Iterator[pa.RecordBatchReader]:
        compiled = statement.compile(dialect=_compiling(paramstyle="named"))
        values = {f"headrace.p{n}": _setting(v) for n, v in enumerate(compiled.construct_params().values())}
        values |= _SETTINGS
        calls = ", ".join(f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(len(values)))
        self.run(f"SELECT {calls}", tuple(itertools.chain(*values.items())))
        with self._explaining(), self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(
                **{adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(CHUNK_BYTES)}
            )
            cursor.execute(str(compiled))
            yield cursor.fetch_record_batch()

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(self._database.place, self._database.where, *_FAILURES)


def _quoted(name: str | None) -> Any:
    return None if name is None else sa.quoted_name(name, True)


def _column(field: pa.Field) -> Column:
    metadata: Mapping[bytes, bytes] = field.metadata or {}
    kind = metadata.get(b"POSTGRESQL:type", b"").decode()
    return Column(field.name, _KINDS.get(kind, "text"), kind)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return value.isoformat() if isinstance(value, date) else str(value)


def _uri(place: Place) -> str:
    user = quote(place.user or "", safe="")
    password = "" if place.password is None else ":" + quote(place.password, safe="")
    host = f"[{place.host}]" if ":" in (place.host or "") else place.host
    port = "" if place.port is None else f":{place.port}"
    options = {"connect_timeout": "10", "application_name": "headrace", **place.options}
    at = f"{user}{password}@" if user or password else ""
    return f"postgresql://{at}{host}{port}/{quote(place.database or '', safe='')}?{urlencode(options)}"
