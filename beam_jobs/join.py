"""Joining a small table onto the records: the table lies in the work directory, every worker holds it once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import OWN_PREFIX, Batch, DeadLetter, Ledger, Problem
from beam_jobs.sources.base import Partition, Source
from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.spec import Join

_ROW = f"{OWN_PREFIX}row"  # the row's number in its source, kept beside the table's own columns
_PARTITION = f"{OWN_PREFIX}partition"
_DIGEST = f"{OWN_PREFIX}digest"
_OWN = (_ROW, _PARTITION, _DIGEST)
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Table:
    """A joined source, ready to be looked up in.

    Attributes:
      rows: its valid rows, with unique keys.
      places: place in `rows` of each key.
      digests: uint8 (rows, 16), hashes of what a record takes from each row.
      letters: its faults and duplicate rows.
      read: how many rows the source held.
      duplicates: how many of them repeated a key.
    """

    rows: pa.Table
    places: dict[str, int]
    digests: npt.NDArray[np.uint8]
    letters: list[DeadLetter]
    read: int
    duplicates: int


def write_table(path: StorePath, join: Join, source: Source, partitions: list[Partition]) -> None:
    """Read a source in full and leave it as a table in `path`, an Arrow file with its books in the metadata."""
    name = join.table
    batches: list[pa.RecordBatch] = []
    letters: list[DeadLetter] = []
    read = 0
    for partition in partitions:
        ledger = Ledger(name, lambda row, partition=partition: source.origin(partition, row))  # type: ignore[misc]
        for found in source.read(partition):
            read += len(found.keys) + len(found.faults)
            for fault in found.faults:
                ledger.fault(fault.row, fault.rule, fault.reason)
            batch = Batch(found.records, found.keys, found.rows)
            batch = ledger.refuse(batch, "join", _missing_keys(batch, join.right_on, name))
            batches.append(
                batch.with_column(_ROW, pa.array(batch.rows))
                .with_column(_PARTITION, pa.array(np.full(len(batch), partition.ordinal)))
                .records
            )
        letters += ledger.letters
    if not batches:
        raise HeadraceError("A table to join has no rows.", where=f"sources.{name}")
    rows = pa.Table.from_batches(batches)
    rows, repeated = _without_duplicates(rows, join.right_on)
    by_ordinal = {partition.ordinal: partition for partition in partitions}
    for row in repeated.select([join.right_on, _ROW, _PARTITION]).to_pylist():
        origin = source.origin(by_ordinal[row[_PARTITION]], row[_ROW])
        reason = (
            f"{join.right_on} {shorten(repr(row[join.right_on]), 80)} occurred before; the first row is used"
        )
        letters.append(DeadLetter(name, origin, str(row[join.right_on]), "join", "duplicate_key", reason))
    books = {"read": read, "duplicates": len(repeated), "letters": [vars(letter) for letter in letters]}
    rows = rows.append_column(_DIGEST, _digests(rows, join))
    rows = rows.replace_schema_metadata({"headrace": json.dumps(books)})
    with path.writing(durable=False) as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)


def open_table(path: StorePath, join: Join) -> Table:
    """The table that `write_table` left in `path`; read once by each process."""
    with _lock:
        name = str(path)
        if name not in _tables:
            with pa.ipc.open_file(path.read()) as reader:
                rows = reader.read_all()
            books = json.loads(rows.schema.metadata[b"headrace"])
            keys = rows[join.right_on].cast(pa.string()).to_pylist()
            letters = [DeadLetter(**letter) for letter in books["letters"]]
            if len(_tables) >= _MAX_OPEN_TABLES:
                _tables.popitem(last=False)
            _tables[name] = Table(
                rows,
                {key: place for place, key in enumerate(keys)},
                _as_matrix(rows[_DIGEST]),
                letters,
                books["read"],
                books["duplicates"],
            )
        return _tables[name]


_MAX_OPEN_TABLES = 8  # of one process, which may run several jobs one after the other
_tables: OrderedDict[str, Table] = OrderedDict()
_lock = threading.Lock()


def look_up(table: Table, keys: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """The place of each key's row in the table, -1 where there is none."""
    # A null is in no dict of strings.
    places: Mapping[str | None, int] = table.places  # type: ignore[assignment]
    return np.fromiter((places.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))


def asked_keys(batch: Batch, join: Join, table: Table) -> list[str | None]:
    """What each record looks for in the table.

    Raises:
      HeadraceError: a column is missing, or both sides have one of the same name.
    """
    _check_columns(batch, join, table)
    keys: list[str | None] = batch.records.column(join.left_on).cast(pa.string()).to_pylist()
    return keys


def join_table(batch: Batch, join: Join, table: Table, ledger: Ledger) -> tuple[Batch, npt.NDArray[np.int64]]:
    """The batch with the table's columns, and for each record the place of its row in the table (-1: none).

    Raises:
      HeadraceError: a column is missing, or both sides have one of the same name.
    """
    keys = asked_keys(batch, join, table)
    places = look_up(table, keys)
    unmatched = places < 0
    if bool(unmatched.any()) and join.unmatched_left != "keep":
        if join.unmatched_left == "drop":
            batch = ledger.drop(batch, f"unmatched in {join.table}", unmatched)
        else:
            problems = [
                Problem(
                    place,
                    "unmatched",
                    f"{join.left_on} {keys[place]!r} is not in {join.table}.{join.right_on}",
                )
                for place in np.flatnonzero(unmatched).tolist()
            ]
            batch = ledger.refuse(batch, "join", problems)
        places = places[~unmatched]
    chosen = table.rows.take(pa.array(places, mask=places < 0)).combine_chunks()
    for name in chosen.schema.names:
        if name not in (*_OWN, join.right_on):
            column = chosen[name]
            batch = batch.with_column(
                name, column.chunk(0) if column.num_chunks else pa.array([], column.type)
            )
    return batch, places


def unused_rows(
    table: Table, used: npt.NDArray[np.bool_], join: Join, source: Source, partitions: list[Partition]
) -> list[DeadLetter]:
    """Dead letters of the table's rows that no record asked for."""
    by_ordinal = {partition.ordinal: partition for partition in partitions}
    rows = table.rows.select([join.right_on, _ROW, _PARTITION]).take(pa.array(np.flatnonzero(~used)))
    return [
        DeadLetter(
            join.table,
            source.origin(by_ordinal[row[_PARTITION]], row[_ROW]),
            str(row[join.right_on]),
            "join",
            "unmatched",
            f"no record has {join.left_on} {shorten(repr(row[join.right_on]), 80)}",
        )
        for row in rows.to_pylist()
    ]


def _digests(rows: pa.Table, join: Join) -> pa.Array:
    """A hash of each row's columns, but for its key and our own."""
    names = [name for name in rows.column_names if name not in (*_OWN, join.right_on)]
    records = zip(*(rows[name].to_pylist() for name in names), strict=True) if names else [()] * len(rows)
    blake2b = hashlib.blake2b
    digests = [
        blake2b(repr(record).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        for record in records
    ]
    return pa.array(digests, pa.binary(DIGEST_BYTES))


def _as_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, DIGEST_BYTES)


def _missing_keys(batch: Batch, column: str, name: str) -> list[Problem]:
    if column not in batch.records.schema.names:
        raise HeadraceError(
            "The join's column does not exist in the table.",
            where=f"join, {name}.right_on",
            value=column,
            allowed=", ".join(batch.columns),
        )
    missing = pc.is_null(batch.records.column(column)).to_numpy(zero_copy_only=False)
    return [
        Problem(place, "missing_key", f"{column} has no value") for place in np.flatnonzero(missing).tolist()
    ]


def _without_duplicates(rows: pa.Table, key: str) -> tuple[pa.Table, pa.Table]:
    """The first row of each key, and the others."""
    codes = rows[key].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    _, first = np.unique(codes.indices.to_numpy(zero_copy_only=False), return_index=True)
    keep = np.zeros(rows.num_rows, dtype=np.bool_)
    keep[first] = True
    return rows.filter(pa.array(keep)), rows.filter(pa.array(~keep))


def _check_columns(batch: Batch, join: Join, table: Table) -> None:
    names = batch.columns
    if join.left_on not in names:
        raise HeadraceError(
            "The join's column does not exist.",
            where="join.left_on",
            value=join.left_on,
            allowed=", ".join(names),
        )
    both = (set(names) & set(table.rows.column_names)) - {join.right_on}
    if both:
        raise HeadraceError(
            f"The records and the table {join.table!r} both have a column of the same name.",
            where="join",
            value=", ".join(sorted(both)),
            hint=f"Rename the column in {join.table}, for a csv source with `columns:`.",
        )
