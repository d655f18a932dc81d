"""DuckDB files by DuckDB's own client, which gives Arrow."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from beam_jobs.sources._sql.chunks import Chunk, from_arrow
from beam_jobs.sources._sql.place import Place, explaining
from beam_jobs.sources._sql.statements import Column, Table
from schemas.errors import HeadraceError
from schemas.sources import SqlSource

_KINDS = {
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "int64"
    ),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "float64"),
    **dict.fromkeys(("TINYINT[]", "SMALLINT[]", "INTEGER[]", "BIGINT[]"), "int64[]"),
    **dict.fromkeys(("FLOAT[]", "DOUBLE[]"), "float64[]"),
    "UBIGINT": "uint64",
    "BOOLEAN": "bool",
    "BOOLEAN[]": "bool[]",
    "VARCHAR": "string",
    "VARCHAR[]": "string[]",
    "BLOB": "bytes",
}
# Compared as what they are, so that statistics of row groups serve; of other types the text is.
_SORTED = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIME", "UUID", "HUGEINT")
_BATCH_ROWS = 2048  # of DuckDB's own vectors
_HELD_BATCHES, _HELD_BYTES = 8, 1 << 20
_FAILURES = (duckdb.Error, OSError, pa.ArrowException)
# What is not there is not fetched, and sorting goes to disk before it takes the machine's memory.
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "256MB",
    "threads": "2",
}
_PRIMARY_KEY = """SELECT unnest(constraint_column_names) FROM duckdb_constraints()
WHERE constraint_type = 'PRIMARY KEY' AND table_name = :name
AND schema_name = COALESCE(CAST(:schema AS TEXT), current_schema()) AND database_name = current_database()"""


@dataclass(frozen=True)
class DuckDb:
    """A DuckDB file; see `Database`."""

    place: Place
    where: str

    def selected(self, column: Column, expression: Any) -> Any:
        """Types that Arrow does not have are sent as text: ISO 8601, exact decimals, JSON."""
        return sa.cast(expression, sa.Text) if column.kind == "text" else expression

    def ordered(self, column: Column, expression: Any) -> Any:
        """DuckDB compares text by its bytes."""
        return self.selected(column, expression) if column.type not in _SORTED else expression

    def bound(self, column: Column, value: Any) -> Any:
        """A value with its type."""
        bound: Any = sa.bindparam(None, value, unique=True)
        if column.type in _SORTED:
            return sa.cast(bound, _types()[column.type])
        return bound

    @contextlib.contextmanager
    def session(self) -> Iterator[DuckDbSession]:
        """A transaction of one snapshot."""
        file = Path(str(self.place.database))
        if not file.is_file():
            raise HeadraceError("There is no such file.", where=f"{self.where}.url", value=str(file))
        with explaining(self.place, self.where, *_FAILURES):
            connection = duckdb.connect(
                str(file), read_only=True, config={**_SETTINGS, "temp_directory": _spill()}
            )
        try:
            with explaining(self.place, self.where, *_FAILURES):
                connection.execute("BEGIN")
                connection.execute("SET TimeZone = 'UTC'")
            yield DuckDbSession(self, connection)
        finally:
            connection.close()


@functools.cache
def _spill() -> str:
    """A folder of this process for what is sorted and does not fit into memory."""
    folder = tempfile.mkdtemp(prefix="headrace-duckdb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _types() -> dict[str, Any]:
    class HugeInt(sa.types.UserDefinedType[Any]):
        cache_ok = True

        def get_col_spec(self, **_: Any) -> str:
            return "HUGEINT"

    return {
        "DATE": sa.Date(),
        "TIMESTAMP": sa.TIMESTAMP(),
        "TIMESTAMP WITH TIME ZONE": sa.TIMESTAMP(timezone=True),
        "TIME": sa.Time(),
        "UUID": sa.UUID(),
        "HUGEINT": HugeInt(),
    }


class DuckDbSession:
    """See `Session`."""

    def __init__(self, database: DuckDb, connection: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._connection = connection

    def describe(self, statement: Any) -> list[Column]:
        """By the plan of a statement."""
        with self._explaining():
            relation = self._relation(statement)
            kinds = [str(kind) for kind in relation.types]
            names = relation.columns
        return [Column(name, _KINDS.get(kind, "text"), kind) for name, kind in zip(names, kinds, strict=True)]

    def primary_key(self, spec: SqlSource) -> list[str]:
        """From the catalog."""
        query = sa.text(_PRIMARY_KEY).bindparams(schema=spec.schema_name, name=spec.table)
        with self._explaining():
            return [str(name) for (name,) in self._relation(query).fetchall()]

    def settle(self, table: Table, _spec: SqlSource) -> Table:
        """Columns have types."""
        return table

    def chunks(self, statement: Any, table: Table) -> Iterator[Chunk]:
        """As many rows at a time as DuckDB itself works on, until they are a chunk."""
        held: list[pa.RecordBatch] = []
        size = 0
        with self._explaining():
            for batch in self._relation(statement).to_arrow_reader(_BATCH_ROWS):
                held.append(batch)
                size += batch.nbytes
                if size >= _HELD_BYTES or len(held) == _HELD_BATCHES:
                    yield from _joined(held, table)
                    held, size = [], 0
            yield from _joined(held, table)

    def count(self, statement: Any) -> int:
        """A single number."""
        with self._explaining():
            ((number,),) = self._relation(statement).fetchall()
        return int(number)

    def _relation(self, statement: Any) -> duckdb.DuckDBPyRelation:
        compiled = statement.compile(dialect=_Dialect(paramstyle="qmark"))
        values = compiled.construct_params()
        bound = [values[name] for name in compiled.positiontup or ()]
        return self._connection.sql(str(compiled), params=bound or None)

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(self._database.place, self._database.where, *_FAILURES)


def _joined(batches: list[pa.RecordBatch], table: Table) -> Iterator[Chunk]:
    if any(batch.num_rows for batch in batches):
        (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
        yield from_arrow(whole, table)


class _Dialect(DefaultDialect):
    supports_statement_cache = False
