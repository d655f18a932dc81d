"""Joining tables onto the records. A small table is one file, which every worker holds; a large one is shuffled by key.

Shuffled means: every partition of it is read once and left as one file, its rows in the order of their keys' hashes
(a part); then every range of the hashes is put together from all parts (a bucket). Beam carries their numbers only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, DeadLetter, Ledger, Problem
from beam_jobs.lookup import (
    DIGEST_BYTES,
    OWN,
    PARTITION,
    ROW,
    Asked,
    Table,
    bucket_of,
    hash_texts,
    key_texts,
    open_table,
    read_rows,
    spread,
    write_bucket,
    write_rows,
)
from beam_jobs.sources.base import Partition, Source
from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.errors import shorten
from schemas.hashing import fingerprint
from schemas.spec import Join

_BUCKET_BYTES = 32 << 20  # of a source, in each bucket of a shuffled table, about
_MAX_BUCKETS = 4096
_CHUNK_ROWS = 16_384  # that are Python objects at a time


@dataclass(frozen=True)
class TableFiles:
    """Where a table is, or will be.

    Attributes:
      directory: of all tables.
      name: of this one, a fingerprint of all that it is made of.
      kind: the same without its partitions: parts of it serve another state of the source, too.
      buckets: how many files it is.
      digested: whether a later version may ask what a record took from it.
    """

    directory: StorePath
    name: str
    kind: str
    buckets: int
    digested: bool

    @property
    def shuffled(self) -> bool:
        """Whether it is too large to be held by every worker."""
        return self.buckets > 1

    @property
    def files(self) -> list[StorePath]:
        """The file of each bucket."""
        return [self.directory / f"{self.name}-{number}.arrow" for number in range(self.buckets)]

    def part(self, partition: Partition) -> StorePath:
        """The file of a partition of a shuffled table."""
        identity = fingerprint(self.kind, self.buckets, partition.identity)
        return self.directory / f"part-{identity}.arrow"

    def open(self) -> Table:
        """The table, once all of its files are there."""
        return open_table(self.files)


def count_buckets(join: Join, partitions: Sequence[Partition]) -> int:
    """How many files the table becomes: one, if it is small enough to be held by every worker."""
    size = sum(partition.bytes for partition in partitions)
    if size <= join.broadcast:
        return 1
    buckets = 2
    while buckets * _BUCKET_BYTES < size and buckets < _MAX_BUCKETS:
        buckets *= 2
    return buckets


def write_part(files: TableFiles, join: Join, source: Source, partition: Partition) -> None:
    """Leaves the rows of a partition of a shuffled table, sorted by the hashes of their keys."""
    rows, books = _read(join, source, partition)
    if rows is None:
        write_rows(files.part(partition), pa.table({}), {**books, "ends": [0] * (files.buckets + 1)})
        return
    hashes = hash_texts(key_texts(rows, join.right_keys))
    order = np.lexsort((hashes["lo"], hashes["hi"]))
    owners = bucket_of(hashes, files.buckets)[order]
    books["ends"] = np.searchsorted(owners, np.arange(files.buckets + 1)).tolist()
    write_rows(files.part(partition), rows.take(pa.array(order)), books)


def write_table_bucket(
    files: TableFiles, number: int, join: Join, source: Source, partitions: Sequence[Partition]
) -> None:
    """Leaves one bucket of a table: of a small one all rows, read here; of a shuffled one what its parts hold of it.

    Raises:
      HeadraceError: the table has no rows, or two of one key where the join does not allow it.
    """
    found: list[pa.Table] = []
    books: dict[str, Any] = {"read": 0, "duplicates": 0, "letters": []}
    for partition in partitions:
        if files.shuffled:
            rows, part = read_rows(files.part(partition), mapped=True)
            start, end = part["ends"][number : number + 2]
            # The ordinals are those of today: the part may be older than the partition before it.
            rows = _numbered(rows.slice(start, end - start), partition) if rows.num_columns else None
            part = {**part, "letters": [[partition.ordinal, *rest] for _, *rest in part["letters"]]}
        else:
            rows, part = _read(join, source, partition)
        if rows is not None:
            found.append(rows)
        if number == 0:  # one of the buckets tells of all parts
            books["read"] += part["read"]
            books["letters"] += part["letters"]
    if not found:
        raise HeadraceError("A table to join has no rows.", where=f"sources.{join.table}")
    rows = pa.concat_tables(found)
    hashes = hash_texts(key_texts(rows, join.right_keys))
    order = np.lexsort(
        (hashes["lo"], hashes["hi"])
    )  # which is stable: equal keys stay in the order of the source
    rows, hashes = rows.take(pa.array(order)), hashes[order]
    again = np.zeros(len(hashes), np.bool_)
    again[1:] = hashes[1:] == hashes[:-1]
    if again.any() and join.many in ("first", "error"):
        letters = _repeated(rows.filter(pa.array(again)), join, source, partitions)
        if join.many == "error":
            raise HeadraceError(
                f"A key occurs more than once in the table {join.table!r}.",
                where=f"join, {join.table}.many",
                value=f"{letters[0][2]['key']}, again in {letters[0][2]['origin']}",
                allowed="once, since `many: error`",
            )
        books["letters"] += letters
        books["duplicates"] = len(letters)
        rows, hashes = rows.filter(pa.array(~again)), hashes[~again]
    digests = _digests(rows, join) if files.digested else None
    write_bucket(files.files[number], rows, hashes, digests, books)


def ask(batch: Batch, join: Join, table: Table) -> Asked:
    """What each record looks for in the table, and finds.

    Raises:
      HeadraceError: a column is missing, or both sides have one of the same name.
    """
    columns_after_join(join, batch.columns, table.columns)
    return table.look_up(key_texts(batch.records, join.left_keys).to_pylist())


def join_table(
    batch: Batch, join: Join, table: Table, asked: Asked, ledger: Ledger
) -> tuple[Batch, npt.NDArray[np.int64]]:
    """The batch with the table's columns, and for each record the place of its (first) row in the table (-1: none).

    Raises:
      HeadraceError: a record has no row, and the join does not allow it.
    """
    firsts, counts = asked.firsts, asked.counts
    unmatched = firsts < 0
    if bool(unmatched.any()) and join.unmatched_left != "keep":
        batch = _without_unmatched(batch, join, asked, ledger)
        firsts, counts = firsts[~unmatched], counts[~unmatched]
    names = _taken(join, table.columns)
    if join.many == "list":
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        taken = table.take(spread(firsts, counts), list(names))
        for name, values in taken.items():
            batch = batch.with_column(names[name], pa.ListArray.from_arrays(offsets, values))
        return batch, firsts
    if join.many == "explode":
        batch, firsts = _explode(batch, firsts, counts, ledger)
    for name, values in table.take(firsts, list(names)).items():
        batch = batch.with_column(names[name], values)
    return batch, firsts


def columns_after_join(join: Join, columns: list[str], table: list[str]) -> list[str]:
    """The columns there are after a join.

    Raises:
      HeadraceError: one to join by is missing, or both sides have one of the same name.
    """
    for side, names, known in (("left", join.left_keys, columns), ("right", join.right_keys, table)):
        for name in names:
            if name not in known:
                raise HeadraceError(
                    "There is no such column.",
                    where=f"join.{join.table}.{side}_on",
                    value=name,
                    allowed=shorten(", ".join(known), 400),
                )
    new = list(_taken(join, table).values())
    if both := sorted(set(columns) & set(new)):
        raise HeadraceError(
            f"The records and the table {join.table!r} both have a column of the same name.",
            where=f"join.{join.table}",
            value=", ".join(both),
            hint="Give the join a `prefix:`, which is put before the names of the table's columns.",
        )
    return [*columns, *new]


def unused_rows(
    table: Table,
    used: Mapping[int, npt.NDArray[np.bool_]],
    join: Join,
    source: Source,
    partitions: list[Partition],
) -> list[DeadLetter]:
    """Dead letters of the table's rows that no record asked for, in the order of the source."""
    found = []
    for number, bucket in table.buckets():
        rows = bucket.rows.select([*join.right_keys, ROW, PARTITION]).take(
            pa.array(np.flatnonzero(~used[number]))
        )
        reason = f"no record has {', '.join(join.left_keys)} {{}}"
        found += _letters(rows, join, _origins(source, partitions), "unmatched", reason)
    return [DeadLetter(**letter) for _, _, letter in sorted(found, key=lambda letter: letter[:2])]


def _read(join: Join, source: Source, partition: Partition) -> tuple[pa.Table | None, dict[str, Any]]:
    """The valid rows of a partition, each with its number, and how many it held, with letters of those left out."""
    batches, read = [], 0
    ledger = Ledger(join.table, lambda row: source.origin(partition, row))
    for found in source.read(partition):
        read += len(found.keys) + len(found.faults)
        for fault in found.faults:
            ledger.fault(fault.row, fault.rule, fault.reason)
        batch = Batch(found.records, found.keys, found.rows)
        batch = ledger.refuse(batch, "join", _missing_keys(batch, join))
        batches.append(batch.with_column(ROW, pa.array(batch.rows)).records)
    letters = [[partition.ordinal, row, vars(letter)] for row, letter in ledger.numbered]
    rows = _numbered(pa.Table.from_batches(batches), partition) if batches else None
    return rows, {"read": read, "letters": letters}


def _numbered(rows: pa.Table, partition: Partition) -> pa.Table:
    """The rows with the number of their partition."""
    if PARTITION in rows.column_names:
        rows = rows.drop_columns([PARTITION])
    return rows.append_column(PARTITION, pa.array(np.full(len(rows), partition.ordinal)))


def _missing_keys(batch: Batch, join: Join) -> Iterator[Problem]:
    for column in join.right_keys:
        if column not in batch.records.schema.names:
            raise HeadraceError(
                "The join's column does not exist in the table.",
                where=f"join.{join.table}.right_on",
                value=column,
                allowed=", ".join(batch.columns),
            )
        missing = pc.is_null(batch.records.column(column)).to_numpy(zero_copy_only=False)
        for place in np.flatnonzero(missing).tolist():
            yield Problem(place, "missing_key", f"{column} has no value")


def _repeated(rows: pa.Table, join: Join, source: Source, partitions: Sequence[Partition]) -> list[list[Any]]:
    """Numbered dead letters of rows whose key occurred before."""
    reason = f"{', '.join(join.right_keys)} {{}} occurred before; the first row is used"
    letters = _letters(rows, join, _origins(source, partitions), "duplicate_key", reason)
    return sorted(letters, key=lambda letter: letter[:2])


def _letters(
    rows: pa.Table, join: Join, origin: Callable[[int, int], str], rule: str, reason: str
) -> list[list[Any]]:
    """Dead letters of rows, each after the numbers of its partition and row; {} in the reason is their key."""
    found = []
    for row in rows.select([*join.right_keys, ROW, PARTITION]).to_pylist():
        key = ", ".join(str(row[name]) for name in join.right_keys)
        said = ", ".join(shorten(repr(row[name]), 80) for name in join.right_keys)
        place = (row[PARTITION], row[ROW])
        letter = DeadLetter(join.table, origin(*place), key, "join", rule, reason.replace("{}", said))
        found.append([*place, vars(letter)])
    return found


def _origins(source: Source, partitions: Sequence[Partition]) -> Callable[[int, int], str]:
    """Where a row of a partition, by its ordinal, came from."""
    by_ordinal = {partition.ordinal: partition for partition in partitions}
    return lambda ordinal, row: source.origin(by_ordinal[ordinal], row)


def _without_unmatched(batch: Batch, join: Join, asked: Asked, ledger: Ledger) -> Batch:
    unmatched = asked.firsts < 0
    if join.unmatched_left == "drop":
        return ledger.drop(batch, f"unmatched in {join.table}", unmatched)
    places = np.flatnonzero(unmatched).tolist()
    left, right = ", ".join(join.left_keys), ", ".join(join.right_keys)
    problems = [
        Problem(place, "unmatched", f"{left} {asked.keys[place]!r} is not in {join.table}.{right}")
        for place in places
    ]
    if join.unmatched_left == "error":
        raise HeadraceError(
            f"A record matches no row of {join.table}.",
            where=f"join.{join.table}, {ledger.origin(int(batch.rows[places[0]]))}",
            value=problems[0].reason,
            allowed="none, since `unmatched_left: error`",
        )
    return ledger.refuse(batch, "join", problems)


def _explode(
    batch: Batch, firsts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], ledger: Ledger
) -> tuple[Batch, npt.NDArray[np.int64]]:
    """A record for every row of its key; a record without one stays. Keys get the row's number behind them."""
    times = np.maximum(counts, 1)
    ledger.added += int((times - 1).sum())
    places = spread(np.where(counts > 0, firsts, -1), times)
    origin = np.repeat(np.arange(len(batch)), times)
    number = np.arange(len(origin)) - np.repeat(np.cumsum(times) - times, times) + 1
    suffix = pc.binary_join_element_wise("#", pa.array(number).cast(pa.string()), "").cast(pa.binary())
    keys = batch.keys.take(pa.array(origin))
    named = pc.binary_join_element_wise(keys, suffix, pa.scalar(b"", pa.binary()))
    matched = pa.array(np.repeat(counts > 0, times))
    records = batch.records.take(pa.array(origin))
    return Batch(records, pc.if_else(matched, named, keys), batch.rows[origin]), places


def _taken(join: Join, columns: Sequence[str]) -> dict[str, str]:
    """The table's columns that records get, with the names they have then."""
    return {name: join.prefix + name for name in columns if name not in (*OWN, *join.right_keys)}


def _digests(rows: pa.Table, join: Join) -> list[bytes]:
    """A hash of each row's columns, but for its key and our own."""
    names = list(_taken(join, rows.column_names))
    blake2b = hashlib.blake2b
    found: list[bytes] = []
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = rows.slice(start, _CHUNK_ROWS)
        records = zip(*(part[name].to_pylist() for name in names), strict=True) if names else [()] * len(part)
        found += [
            blake2b(repr(record).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
            for record in records
        ]
    return found
