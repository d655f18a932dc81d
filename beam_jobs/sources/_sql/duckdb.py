"""DuckDB files by DuckDB's own client, which gives Arrow."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

from beam_jobs.sources._sql.chunks import CHUNK_BYTES, Chunk, from_arrow
from beam_jobs.sources._sql.cut import PARTITION_BYTES
from beam_jobs.sources._sql.place import Place, explaining
from beam_jobs.sources._sql.statements import Column, Table, as_from
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
_FEW_ROWS, _MANY_ROWS = 2048, 1 << 16  # the few are DuckDB's own vector
_HELD_BATCHES, _HELD_BYTES = 8, 1 << 20
_SORTED_BYTES = 2 * PARTITION_BYTES
_ORDERED = ("int64", "uint64", "string", "bytes")  # by Arrow as by DuckDB
_TICK_NS = 2_000_000_000  # the coarsest that file systems have
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
_ROW_ID = "rowid"
_HAS_ROW_IDS = """SELECT count(*) FROM duckdb_tables() t
WHERE lower(table_name) = lower(:name) AND schema_name = COALESCE(CAST(:schema AS TEXT), current_schema())
AND database_name = current_database() AND NOT EXISTS (SELECT 1 FROM duckdb_columns() c
WHERE c.table_oid = t.table_oid AND c.database_oid = t.database_oid AND lower(c.column_name) = 'rowid')"""


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
        with contextlib.ExitStack() as stack:
            file = file.resolve()
            with explaining(self.place, self.where, *_FAILURES):
                connection = stack.enter_context(_attached(file))
                connection.execute("BEGIN")
            yield DuckDbSession(self, file, connection)


_lock = threading.Lock()
_names: dict[Path, str] = {}  # of files that are open
_users: Counter[Path] = Counter()


@contextlib.contextmanager
def _attached(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a file that is open, and locked for those who would write, only while somebody here reads it.

    What DuckDB needs to begin at all, 9 ms, stays from one partition to the next; to open a file takes 0.7 ms.
    """
    with _lock:
        if not _users[file]:
            _names[file] = _free_name(file)
            path = str(file).replace("'", "''")
            _engine().execute(f"ATTACH '{path}' AS {_quoted(_names[file])} (READ_ONLY, TYPE duckdb)")
        _users[file] += 1
        connection = _engine().cursor()
    try:
        connection.execute(f"USE {_quoted(_names[file])}")
        yield connection
    finally:
        connection.close()
        with _lock:
            _users[file] -= 1
            if not _users[file]:
                _engine().execute(f"DETACH {_quoted(_names[file])}")


def _free_name(file: Path) -> str:
    """The name that DuckDB gives a file, by which queries may call it, unless another one has it."""
    name = file.name.partition(".")[0]
    taken = {"", "memory", "system", "temp", *(_names[other].lower() for other in +_users)}
    return str(file) if name.lower() in taken else name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@functools.cache
def _engine() -> duckdb.DuckDBPyConnection:
    """DuckDB itself, without a file, and with a folder for what is sorted and does not fit into memory."""
    folder = tempfile.mkdtemp(prefix="headrace-duckdb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    engine = duckdb.connect(":memory:", config={**_SETTINGS, "temp_directory": folder})
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    return engine


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


def _state(file: Path) -> list[int] | None:
    """What changes when a file does, nothing where there is none; None right after a change: another would not show."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return []
    if time.time_ns() - status.st_ctime_ns < _TICK_NS:
        return None
    # Nobody can set the last of these times.
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


class DuckDbSession:
    """See `Session`."""

    def __init__(self, database: DuckDb, file: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._file = file
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

    def settle(self, table: Table, spec: SqlSource) -> Table:
        """Columns have types. A table is read as it is stored, by ranges of row numbers, which DuckDB finds at once."""
        if spec.table is None or spec.partition_by is not None:
            return table
        query = sa.text(_HAS_ROW_IDS).bindparams(schema=spec.schema_name, name=spec.table)
        if not self.count(query):  # it is a view, or has a column of that name
            return table
        columns = [*table.columns, Column(_ROW_ID, "int64", "BIGINT")]
        order = [len(table.columns), *table.key]
        rows = as_from(spec, self._database.where, [column.name for column in columns])
        return dataclasses.replace(table, rows=rows, columns=columns, order=order, stored=True)

    def chunks(self, statement: Any, table: Table) -> Iterator[Chunk]:
        """As many rows at a time as DuckDB itself works on, or more where they are small, until they are a chunk."""
        options = statement.get_execution_options()
        row_bytes = options.get("row_bytes")
        many = CHUNK_BYTES // max(row_bytes or CHUNK_BYTES, 1)
        rows = min(max(many, _FEW_ROWS), _MANY_ROWS)
        if options.get("stored"):
            yield from self._chunks(statement, table, rows)
            return
        # Of a partition, which was no larger when it was cut.
        found = self._in_memory(statement, table, rows) if row_bytes is not None else None
        yield from self._chunks(statement, table, rows) if found is None else found

    def _in_memory(self, statement: Any, table: Table, rows: int) -> list[Chunk] | None:
        """The rows of a partition, sorted here if they are not stored so: cheaper than by DuckDB, if they are few."""
        if any(table.columns[place].kind not in _ORDERED for place in table.order):
            return None
        chunks: list[Chunk] = []
        size = 0
        for chunk in self._chunks(statement.order_by(None), table, rows):
            size += chunk.records.nbytes
            if size > _SORTED_BYTES or chunk.faults:
                return None
            chunks.append(chunk)
        ordered = all(_follows(chunk, chunks[:place][-1:], table) for place, chunk in enumerate(chunks))
        return chunks if ordered else [_sorted(chunks, table)]

    def _chunks(self, statement: Any, table: Table, rows: int) -> Iterator[Chunk]:
        held: list[pa.RecordBatch] = []
        size = 0
        with self._explaining():
            for batch in self._relation(statement).to_arrow_reader(rows):
                held.append(batch)
                size += batch.nbytes
                if size >= _HELD_BYTES or len(held) == _HELD_BATCHES:
                    yield from _joined(held, table)
                    held, size = [], 0
            yield from _joined(held, table)

    def state(self) -> str | None:
        """By the times of the file, which is locked for those who write, and of the log that may lie beside it.

        It is never opened for this: to close it would undo DuckDB's lock.
        """
        states = [_state(file) for file in (self._file, Path(f"{self._file}.wal"))]
        return None if None in states else repr(states)

    def count(self, statement: Any) -> int:
        """A single number."""
        with self._explaining():
            ((number,),) = self._relation(statement).fetchall()
        return int(number)

    def _relation(self, statement: Any) -> duckdb.DuckDBPyRelation:
        options = statement.get_execution_options()
        like = options.get("like")
        compiled = statement.compile(dialect=_DIALECT) if like is None else _compiled(like)
        values = compiled.construct_params(options.get("values"))
        bound = [values[name] for name in compiled.positiontup or ()]
        return self._connection.sql(str(compiled), params=bound or None)

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining(self._database.place, self._database.where, *_FAILURES)


def _joined(batches: list[pa.RecordBatch], table: Table) -> Iterator[Chunk]:
    if len(batches) == 1 and batches[0].num_rows:
        yield from_arrow(batches[0], table)
    elif any(batch.num_rows for batch in batches):
        (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
        yield from_arrow(whole, table)


def _follows(chunk: Chunk, before: list[Chunk], table: Table) -> bool:
    """Whether the rows of a chunk are in order, and behind those before."""
    columns = [chunk.records.column(place) for place in table.order]
    if before and before[0].last >= chunk.first:
        return False
    if len(columns[0]) < 2:
        return True
    increasing: Any = pa.scalar(False)
    for column in reversed(columns):
        low, high = column[:-1], column[1:]
        increasing = pc.or_(pc.less(low, high), pc.and_(pc.equal(low, high), increasing))
    return bool(pc.all(increasing, skip_nulls=False).as_py())


def _sorted(chunks: list[Chunk], table: Table) -> Chunk:
    rows = pa.Table.from_batches([chunk.records for chunk in chunks])
    chunks.clear()
    keys = [(table.columns[place].name, "ascending") for place in table.order]
    (records,) = rows.take(pc.sort_indices(rows, sort_keys=keys)).combine_chunks().to_batches()
    ends = [[records.column(place)[row].as_py() for place in table.order] for row in (0, len(records) - 1)]
    return Chunk(records, np.arange(len(records), dtype=np.int64), len(records), *ends)


class _Dialect(DefaultDialect):
    supports_statement_cache = False


_DIALECT = _Dialect(paramstyle="qmark")


@functools.lru_cache(64)
def _compiled(statement: Any) -> Any:
    """A statement that is asked for each partition: making it takes as long as 5,000 rows do."""
    return statement.compile(dialect=_DIALECT)
