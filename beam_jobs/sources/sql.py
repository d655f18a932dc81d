"""Rows of a table or a query of a database, in key ranges that are cut from one snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.sources import SqlSource

if TYPE_CHECKING:
    from beam_jobs.sources._sql.chunks import Chunk
    from beam_jobs.sources._sql.database import Database, Session
    from beam_jobs.sources._sql.statements import Column, Table

_Found = TypeVar("_Found")
_Bounds = dict[str, "list[Any] | None"]
_BOUNDS = ("first", "end", "last")
_SHAPE = ("columns", "shown", "order", "key", "by", "stored")  # of a table, in a partition's payload
_KEPT = 64
_FAULTS = 10_000  # of one batch
_BATCH_BYTES = 8 << 20
_ATTEMPTS, _FIRST_PAUSE = 6, 0.1  # seconds, doubled each time: 3 s in all


_kept_ones: dict[tuple[Any, ...], Any] = {}


def _kept(key: tuple[Any, ...], make: Callable[[], _Found]) -> _Found:
    """What was made for the key before, by whichever thread: a source is opened anew for every partition."""
    found = _kept_ones.get(key)
    if found is None:
        if len(_kept_ones) >= _KEPT:
            _kept_ones.clear()
        found = _kept_ones.setdefault(key, make())
    return cast("_Found", found)


def _shape(payload: Any) -> str:
    return repr([payload[name] for name in _SHAPE])


class Sql:
    """Rows of a database, ordered by key; text by its bytes.

    Whole numbers, floats, booleans, text, bytes and lists of them are columns of that type; every other type is the
    text that the database writes: dates and times in ISO 8601, in UTC where they have a zone, exact decimals, UUIDs,
    JSON. The key is the text of the key column; several columns are joined by `|`, with `|` and `\\` within them
    escaped by `\\`. A row without a key is a dead letter.
    """

    def __init__(self, name: str, spec: SqlSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields."""
        if self.spec.columns is not None:
            return list(self.spec.columns)
        table = self._retried(self._describe)
        return [column.name for column in table.columns[: table.shown]]

    def partitions(self) -> list[Partition]:
        """Ranges of the key, or of `partition_by`, found by one pass over the rows of a single snapshot.

        Their identity is a hash of their rows, which the pass reads anyway: what was changed, added or deleted changes
        the partition it lies in, and others only where they begin or end at that very row.
        """
        drafts, state = self._retried(self._scan)
        if not drafts:
            raise HeadraceError("The source holds no row.", where=self._where, value=self._shown)
        return [
            Partition(
                self.name,
                ordinal,
                draft.identity,
                {**draft.payload, "state": state},
                max(draft.bytes, 1),
                draft.rows,
            )
            for ordinal, draft in enumerate(drafts)
        ]

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The rows of one partition, in batches of about 8 MiB.

        They must be those of the snapshot that the partitions were cut from: where the database is not known to be in
        that very state, their hash is compared at the end.
        """
        payload = partition.payload
        if payload["first"] is None:
            yield from self._read_nameless(partition)
            return
        from beam_jobs.sources._sql.digest import RowsDigest

        table = self._table(payload).content
        digest, rows, unhashed = RowsDigest(), 0, 0
        for chunk, state in self._resumed(partition):
            batch = self._batch(chunk, table, rows)
            if state is not None and state == payload["state"]:
                unhashed += chunk.total
            else:
                digest.add(chunk.records.columns, batch.faults)
            rows += chunk.total
            yield from _small(batch)
        # Of rows that were hashed in part, the hash is another one.
        if rows != partition.records or (unhashed < rows and digest.hex() != payload["digest"]):
            raise self._changed(partition)

    def origin(self, partition: Partition, row: int) -> str:
        """The table, where its range of keys begins, and the number of the row from there, from 1."""
        payload = partition.payload
        names = [payload["columns"][place][0] for place in payload["order"]]
        if payload["first"] is None:
            return f"{self._shown}, without {' or '.join(self._key_names(payload))}, row {row}"
        if payload["nulls"]:
            names = [f"no {names[0]}, {names[1]}", *names[2:]]
        values = payload["first"]
        if payload["stored"]:  # where that is may change while rows do not: their origins must not
            first = ", ".join(
                f"{name} = {_seen(value)}" for name, value in zip(names[1:], values[1:], strict=True)
            )
            return f"{self._shown}, as stored from {first} on, row {row}"
        first = ", ".join(f"{name} ≥ {_seen(value)}" for name, value in zip(names, values, strict=True))
        return f"{self._shown}, {first}, row {row}"

    @property
    def _shown(self) -> str:
        return self.spec.table or "query"

    @cached_property
    def _database(self) -> Database:
        try:
            from beam_jobs.sources._sql.database import open_database
            from beam_jobs.sources._sql.place import find_place

            return open_database(find_place(self.spec, self.root, self._where), self._where)
        except ModuleNotFoundError as error:
            raise HeadraceError(
                "A package that reads databases is not installed.",
                where=self._where,
                value=error.name,
                hint="pip install 'headrace[sql]'",
            ) from error

    def _retried(self, work: Callable[[Session], _Found]) -> _Found:
        """What `work` gives in a session of its own, again where a connection is lost: its snapshot is lost too."""
        from beam_jobs.sources._sql.place import LostConnectionError

        for attempt in range(_ATTEMPTS):
            try:
                with self._database.session() as session:
                    return work(session)
            except LostConnectionError as error:
                self._pause(attempt, error)
        raise AssertionError("the last attempt has raised")

    def _pause(self, attempt: int, error: Exception) -> None:
        if attempt + 1 == _ATTEMPTS:
            raise HeadraceError(
                "The database cannot be reached.",
                where=f"{self._where}, {self._database.place.shown}",
                value=shorten(str(error), 600),
                hint="Run the job again once it is there; what is done already is kept.",
            ) from None
        time.sleep(_FIRST_PAUSE * 2**attempt)

    def _describe(self, session: Session) -> Table:
        from beam_jobs.sources._sql.statements import as_from, nothing

        found = session.describe(nothing(as_from(self.spec, self._where)))
        return session.settle(find_columns(self.spec, self._where, found, session), self.spec)

    def _table(self, payload: Any) -> Table:
        from beam_jobs.sources._sql.statements import Column, Table, as_from

        def make() -> Table:
            columns = [Column(*column) for column in payload["columns"]]
            rows = as_from(self.spec, self._where, [column.name for column in columns])
            return Table(rows, columns, *(payload[name] for name in _SHAPE[1:]))

        return _kept(("table", *self._identity, _shape(payload)), make)

    @cached_property
    def _identity(self) -> tuple[str, ...]:
        return self.name, self.root, self.spec.model_dump_json()

    def _key_names(self, payload: Any) -> list[str]:
        return [payload["columns"][place][0] for place in payload["key"]]

    def _scan(self, session: Session) -> tuple[list[_Draft], str | None]:
        from beam_jobs.sources._sql.statements import condition, count_nameless

        table = self._describe(session)
        # Of a view, a query or a condition the rows may change without the database, as the time of day does.
        state = session.state() if table.stored and self.spec.where is None else None
        self._check_order(table)
        if table.stored:
            self._check_keys(session, table)
        drafts = [
            draft for nulls in (False, True)[: 1 + table.by] for draft in self._cut(session, table, nulls)
        ]
        nameless = session.count(count_nameless(table, condition(self.spec, self._where)))
        if nameless:
            drafts.append(_Draft(table, False, None, rows=nameless))
        return drafts, state

    def _check_order(self, table: Table) -> None:
        from beam_jobs.sources._sql.statements import NO_KEYS

        for place in table.order:
            column = table.columns[place]
            if column.kind in NO_KEYS:
                raise HeadraceError(
                    "A column of this type cannot be a key.",
                    where=self._where,
                    value=f"{column.name} ({column.type or column.kind})",
                    allowed="whole numbers, text, bytes, dates, times, decimals, UUIDs, booleans",
                )

    def _cut(self, session: Session, table: Table, nulls: bool) -> list[_Draft]:
        from beam_jobs.sources._sql.chunks import part, row_bytes
        from beam_jobs.sources._sql.cut import Cutter
        from beam_jobs.sources._sql.statements import condition, select_rows

        order = table.order[1:] if nulls else table.order
        cutter, drafts = Cutter(self.spec.partition_rows), []
        last: list[Any] | None = None
        statement = select_rows(table, self._database, condition(self.spec, self._where), nulls=nulls)
        for chunk in session.chunks(statement, table):
            first, end = (
                [ends[table.order.index(place)] for place in order] for ends in (chunk.first, chunk.last)
            )
            self._check_unique(chunk, table, order, last == first)
            if last is None:
                drafts.append(_Draft(table, nulls, first))
            last = end
            sizes = row_bytes(chunk.records)
            starts = cutter.starts(self._keys(chunk, table), sizes)
            borders = [0, *(int(chunk.rows[start]) for start in starts), chunk.total]
            for place, (low, high) in enumerate(pairwise(borders)):
                if place:
                    values = [chunk.records.column(column)[starts[place - 1]].as_py() for column in order]
                    drafts[-1].end = values
                    drafts.append(_Draft(table, nulls, values))
                drafts[-1].add(part(chunk, low, high))
        if drafts:
            drafts[-1].last = last
        return drafts

    def _check_unique(self, chunk: Chunk, table: Table, order: Sequence[int], repeated: bool) -> None:
        """Rows of equal keys have no order of their own, so nobody could tell which partition is whose."""
        same: Any = pa.scalar(True)
        for place in order:
            values = chunk.records.column(place)
            same = pc.and_(same, pc.equal(values[1:], values[:-1]))
        places = pc.indices_nonzero(same) if len(chunk.rows) > 1 else []
        if repeated or len(places):
            row = places[0].as_py() if len(places) else 0
            values = (
                [chunk.records.column(place)[row].as_py() for place in order] if len(places) else chunk.first
            )
            raise self._repeated([table.columns[place].name for place in order], values)

    def _check_keys(self, session: Session, table: Table) -> None:
        """The same where rows of equal keys need not come one after the other."""
        from beam_jobs.sources._sql.statements import condition, select_repeated

        names = [table.columns[place].name for place in table.key]
        primary = session.primary_key(self.spec)
        if primary and set(primary) <= set(names):
            return
        repeated, keys = select_repeated(table, self._database, condition(self.spec, self._where))
        for chunk in session.chunks(repeated, keys):
            raise self._repeated(names, chunk.first)

    def _repeated(self, names: Sequence[str], values: Sequence[Any]) -> HeadraceError:
        return HeadraceError(
            "The key is not unique.",
            where=self._where,
            value=", ".join(f"{name} = {_seen(value)}" for name, value in zip(names, values, strict=False)),
            hint="Name columns that are unique together: `key: [column, column]`.",
        )

    def _keys(self, chunk: Chunk, table: Table) -> pa.Array:
        from beam_jobs.sources._sql.chunks import keys_of

        return keys_of(chunk.records, table)

    def _batch(self, chunk: Chunk, table: Table, before: int) -> SourceBatch:
        """The chunk as a batch; `before` rows of the partition came before it."""
        names = [column.name for column in table.columns[: table.shown]]
        records = pa.RecordBatch.from_arrays(chunk.records.columns[: table.shown], names=names)
        rows = chunk.rows + (before + 1)
        return SourceBatch(records, self._keys(chunk, table), rows, _numbered(chunk.faults, before))

    def _resumed(self, partition: Partition) -> Iterator[tuple[Chunk, str | None]]:
        """The rows of a partition, and the database's state; after a lost connection they go on behind those before."""
        from beam_jobs.sources._sql.chunks import part
        from beam_jobs.sources._sql.place import LostConnectionError

        attempt = done = 0
        while True:
            skip = done
            try:
                with self._database.session() as session:
                    for chunk in self._chunks(session, partition):
                        behind = min(skip, chunk.total)
                        skip -= behind
                        if behind < chunk.total:
                            done += chunk.total - behind
                            yield part(chunk, behind, chunk.total), session.state()
                return
            except LostConnectionError as error:
                self._pause(attempt, error)
                attempt += 1

    def _chunks(self, session: Session, partition: Partition) -> Iterator[Chunk]:
        payload = partition.payload
        table = self._table(payload)
        content = table.content
        bounds: _Bounds = {
            name: None if payload[name] is None else [_plain(value) for value in payload[name]]
            for name in _BOUNDS
        }

        def chunks(bounds: _Bounds) -> Iterator[Chunk]:
            row_bytes = partition.bytes // (partition.records or 1)
            statement = self._rows(table, payload, bounds).execution_options(row_bytes=row_bytes)
            return session.chunks(statement, content)

        if table.stored and _without_gaps(bounds, partition.records or 0):
            found = chunks(bounds)
            first = next(found, None)
            # The row of that key, and no gap behind it: so all that follow are where they were.
            if first is not None and first.first == (bounds["first"] or [])[1:]:
                yield first
                yield from found
                return
        yield from chunks(self._moved(session, table, partition, bounds) if table.stored else bounds)

    def _rows(self, table: Table, payload: Any, bounds: _Bounds) -> Any:
        """The statement for the rows of a partition; that of another one with row numbers of its own, if it may be."""
        from beam_jobs.sources._sql.statements import condition, numbered, select_rows

        def select() -> Any:
            conditions = condition(self.spec, self._where)
            return select_rows(
                table,
                self._database,
                conditions,
                nulls=payload["nulls"],
                sent=table.content.columns,
                **bounds,
            )

        if not table.stored:
            return select()
        values = {numbered(name): found[0] for name, found in bounds.items() if found is not None}
        like = _kept(("rows", *self._identity, _shape(payload), payload["nulls"], *values), select)
        return like.execution_options(like=like, values=values)

    def _moved(self, session: Session, table: Table, partition: Partition, bounds: _Bounds) -> _Bounds:
        """The bounds as rows are numbered now: DuckDB numbers them anew, in the same order, to use space again."""
        from beam_jobs.sources._sql.statements import condition, count_stored, find_stored

        conditions = condition(self.spec, self._where)
        count = count_stored(table, self._database, conditions, **bounds)
        if session.count(count) == (partition.records or 0) + 1:
            return bounds
        found: _Bounds = {}
        for name, values in bounds.items():
            found[name] = None
            if values is not None:
                row = session.count(find_stored(table, self._database, conditions, values))
                if row < 0:
                    raise self._changed(partition)
                found[name] = [row, *values[1:]]
        return found

    def _read_nameless(self, partition: Partition) -> Iterator[SourceBatch]:
        from beam_jobs.sources._sql.statements import ARROW, condition, count_nameless

        table = self._table(partition.payload)
        statement = count_nameless(table, condition(self.spec, self._where))
        if self._retried(lambda session: session.count(statement)) != partition.records:
            raise self._changed(partition)
        fields = [(column.name, ARROW[column.kind]) for column in table.columns[: table.shown]]
        nothing = pa.RecordBatch.from_pylist([], pa.schema(fields))
        reason = f"no value in {' or '.join(self._key_names(partition.payload))}"
        for low in range(1, (partition.records or 0) + 1, _FAULTS):
            rows = range(low, min(low + _FAULTS, (partition.records or 0) + 1))
            faults = [Fault(row, "missing_key", reason) for row in rows]
            yield SourceBatch(nothing, pa.array([], pa.binary()), np.array([], dtype=np.int64), faults)

    def _changed(self, partition: Partition) -> HeadraceError:
        return HeadraceError(
            "Rows were changed while the job was reading them.",
            where=f"{self._where}, {self.origin(partition, 1)} and those after it",
            hint="Run the job again once nobody changes them; what is done already is kept. Rows that come behind all "
            "others do no harm.",
        )


class _Draft:
    """A partition while its rows come."""

    def __init__(self, table: Table, nulls: bool, first: list[Any] | None, rows: int = 0) -> None:
        from beam_jobs.sources._sql.digest import RowsDigest

        self._table = table
        self._nulls = nulls
        self._digest = RowsDigest()
        self.first = first
        self.end: list[Any] | None = None
        self.last: list[Any] | None = None
        self.rows = rows
        self.bytes = 0

    def add(self, chunk: Chunk) -> None:
        """More rows, some of which may be faults."""
        columns = chunk.records.columns[: len(self._table.content.columns)]
        self._digest.add(columns, _numbered(chunk.faults, self.rows))
        self.rows += chunk.total
        self.bytes += chunk.records.nbytes

    @property
    def identity(self) -> Any:
        """The hash of the rows and the columns' types; of rows without a key how many there are."""
        kinds = [[column.name, column.kind] for column in self._table.columns[: self._table.shown]]
        return [self.rows if self.first is None else self._digest.hex(), kinds]

    @property
    def payload(self) -> Any:
        """What `read` needs."""
        table = self._table
        bounds = {name: _json(getattr(self, name)) for name in _BOUNDS}
        return {
            "columns": [[column.name, column.kind, column.type] for column in table.columns],
            "shown": table.shown,
            "order": table.order,
            "key": table.key,
            "by": table.by,
            "stored": table.stored,
            "nulls": self._nulls,
            "digest": self._digest.hex(),
            **bounds,
        }


def find_columns(spec: SqlSource, where: str, found: Sequence[Column], session: Session) -> Table:
    """The columns of a table or query that are to be read, ordered by and used as the key.

    Raises:
      HeadraceError: there is none of that name, two have the same, or no key is known.
    """
    from beam_jobs.sources._sql.statements import Table, as_from

    names = [column.name for column in found]
    for name in names:
        if names.count(name) > 1:
            raise HeadraceError(
                "Two columns have the same name.",
                where=where,
                value=name,
                hint="Rename one: SELECT … AS other.",
            )
    key = [spec.key] if isinstance(spec.key, str) else spec.key or session.primary_key(spec)
    if not key:
        raise HeadraceError(
            "The table has no primary key.",
            where=where,
            value=spec.table,
            hint="Name a column, or columns, that are unique: `key: column`.",
        )
    order = list(dict.fromkeys([*([spec.partition_by] if spec.partition_by else []), *key]))
    shown = spec.columns or names
    for field, asked in (("columns", shown), ("key", key), ("partition_by", order)):
        for name in asked:
            if name not in names:
                raise HeadraceError(
                    "There is no such column.",
                    where=f"{where}.{field}",
                    value=name,
                    allowed=shorten(", ".join(names), 400),
                )
    sent = list(dict.fromkeys([*shown, *order]))
    columns = [found[names.index(name)] for name in sent]
    by = spec.partition_by is not None and spec.partition_by not in key
    places = {name: place for place, name in enumerate(sent)}
    rows = as_from(spec, where, sent)
    return Table(rows, columns, len(shown), [places[n] for n in order], [places[n] for n in key], by)


def _without_gaps(bounds: _Bounds, records: int) -> bool:
    """Whether rows that are ordered as they are stored were numbered one after the other."""
    first, end, last = (bounds[name] for name in _BOUNDS)
    stop = end[0] if end else last[0] + 1 if last else None
    return first is not None and stop is not None and bool(stop - first[0] == records)


def _numbered(faults: Sequence[Fault], before: int) -> list[Fault]:
    """The faults of a chunk with their numbers in the partition, from 1; `before` rows came before the chunk."""
    return [Fault(fault.row + before + 1, fault.rule, fault.reason, fault.raw) for fault in faults]


def _small(batch: SourceBatch) -> Iterator[SourceBatch]:
    """The batch in parts of at most 8 MiB or one record."""
    from beam_jobs.sources._sql.chunks import row_bytes

    if batch.records.nbytes <= _BATCH_BYTES:
        yield batch
        return
    ends = np.cumsum(row_bytes(batch.records))
    start, rows, faults = 0, batch.records.num_rows, batch.faults
    while start < rows:
        taken = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, taken + _BATCH_BYTES, side="right")), start + 1)
        part = slice(start, stop)
        records = batch.records.slice(start, stop - start)
        yield SourceBatch(records, batch.keys[part], batch.rows[part], faults)
        start, faults = stop, []


def _json(values: list[Any] | None) -> Any:
    return None if values is None else [{"hex": v.hex()} if isinstance(v, bytes) else v for v in values]


def _plain(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def _seen(value: Any) -> str:
    return f"0x{value['hex']}" if isinstance(value, dict) else shorten(str(value), 60)
