"""Tables to be joined, sorted by a hash of their key, and looking up in them.

A small table is one file in the work directory, which is read; a large one is a file for each range of the hashes. On a
disk these are mapped, not read: the system keeps what is used, once for all workers, and gives up what is not.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import OWN_PREFIX, DeadLetter
from beam_jobs.store_path import StorePath
from schemas import HeadraceError
from schemas.hashing import as_sortable, key_hashes

ROW = f"{OWN_PREFIX}row"  # the row's number in its source, kept beside the table's own columns
PARTITION = f"{OWN_PREFIX}partition"
DIGEST = f"{OWN_PREFIX}digest"
HIGH, LOW = f"{OWN_PREFIX}high", f"{OWN_PREFIX}low"
COUNT = f"{OWN_PREFIX}count"
OWN = (ROW, PARTITION, DIGEST, HIGH, LOW, COUNT)
DIGEST_BYTES = 16
_CHUNK_ROWS = 16_384  # that are Python objects at a time
_PLACE_BITS = 40  # of a row's place: which bucket, and where in it
_HELD_BYTES = 256 << 20  # of tables in an object store, by each process
_MAX_OPEN_TABLES = 8  # of one process, which may run several jobs one after the other

Places = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.void]


@dataclass(frozen=True)
class Bucket:
    """The rows of a table whose keys' hashes lie in one range, sorted by it; equal keys in the order of the source.

    Attributes:
      rows: the source's columns and our own, one chunk.
      high, low: uint64 (n,), the halves of the hashes.
      counts: int32 (n,), at the first row of each key how many there are.
      digests: uint8 (n, 16), at the first row of each key a hash of what a record takes from its rows.
      books: what `write_bucket` was told.
    """

    rows: pa.Table
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    counts: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint8]
    books: dict[str, Any]

    def find(self, hashes: Hashes) -> Places:
        """The first row of each key, -1 where there is none."""
        high, low = hashes["hi"].astype(np.uint64), hashes["lo"].astype(np.uint64)
        places = np.searchsorted(self.high, high).astype(np.int64)
        last = len(self.high) - 1
        if last < 0:
            return np.full(len(hashes), -1, np.int64)
        while True:
            here = np.minimum(places, last)
            # Of hashes with the same first half, those before ours: there hardly ever are any.
            before = (places <= last) & (self.high[here] == high) & (self.low[here] < low)
            if not before.any():
                break
            places[before] += 1
        good = (places <= last) & (self.high[here] == high) & (self.low[here] == low)
        return np.where(good, places, -1)


@dataclass(frozen=True)
class Asked:
    """What n records look for in a table, and what they find.

    Attributes:
      keys: the texts of the keys, None where there is none.
      firsts: int64 (n,), the first row of the key; -1 where there is none.
      counts: int64 (n,), how many rows it has.
    """

    keys: list[str | None]
    firsts: Places
    counts: Places


@dataclass
class Table:
    """A joined source, ready to be looked up in.

    Attributes:
      files: of its buckets, a power of two.
    """

    files: list[StorePath]
    _held: OrderedDict[int, Bucket] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bucket(self, number: int) -> Bucket:
        """One of its buckets."""
        with self._lock:
            if number not in self._held:
                bucket = read_bucket(self.files[number], mapped=len(self.files) > 1)
                if "://" in str(self.files[number]):
                    while self._held and _size(bucket, *self._held.values()) > _HELD_BYTES:
                        self._held.popitem(last=False)
                self._held[number] = bucket
            self._held.move_to_end(number)
            return self._held[number]

    def buckets(self) -> Iterator[tuple[int, Bucket]]:
        """All of them."""
        for number in range(len(self.files)):
            yield number, self.bucket(number)

    @cached_property
    def columns(self) -> list[str]:
        """The names of the source's columns."""
        return [name for name in self.bucket(0).rows.schema.names if name not in OWN]

    @cached_property
    def books(self) -> tuple[int, int, list[DeadLetter]]:
        """How many rows the source held, how many repeated a key, and its dead letters in its order."""
        read, duplicates, letters = 0, 0, []
        for _, bucket in self.buckets():
            read += bucket.books["read"]
            duplicates += bucket.books["duplicates"]
            letters += bucket.books["letters"]
        letters.sort(key=lambda letter: letter[:2])
        return read, duplicates, [DeadLetter(**letter) for _, _, letter in letters]

    def look_up(self, keys: Sequence[str | None]) -> Asked:
        """Finds the rows of each key."""
        texts = pa.array(keys, pa.string()).dictionary_encode()
        codes = pc.fill_null(texts.indices, len(texts.dictionary)).to_numpy(zero_copy_only=False)
        hashes = hash_texts(texts.dictionary)
        firsts = np.full(len(hashes) + 1, -1, np.int64)  # the last is that of no key
        counts = np.zeros(len(hashes) + 1, np.int64)
        owners = bucket_of(hashes, len(self.files))
        for number in np.unique(owners).tolist():
            bucket, here = self.bucket(number), np.flatnonzero(owners == number)
            places = bucket.find(hashes[here])
            found = places >= 0
            firsts[here[found]] = places[found] + (number << _PLACE_BITS)
            counts[here[found]] = bucket.counts[places[found]]
        return Asked(list(keys), firsts[codes], counts[codes])

    def digests(self, firsts: Places) -> npt.NDArray[np.uint8]:
        """Hashes of what records take from the rows of the keys that begin there, uint8 (n, 16); zeros for -1."""
        found = np.zeros((len(firsts), DIGEST_BYTES), np.uint8)
        for number, here, places in _by_bucket(firsts):
            found[here] = self.bucket(number).digests[places]
        return found

    def group(self, firsts: Places) -> tuple[Places, Places]:
        """All rows of the keys that begin at `firsts`, and how many each has; none for -1."""
        counts = np.zeros(len(firsts), np.int64)
        for number, here, places in _by_bucket(firsts):
            counts[here] = self.bucket(number).counts[places]
        return spread(firsts, counts), counts

    def take(self, places: Places, columns: Sequence[str]) -> dict[str, pa.Array]:
        """The values of columns in the rows at `places`, null for -1."""
        parts, order = [], []
        for number, here, inside in _by_bucket(places):
            parts.append(self.bucket(number).rows.select(columns).take(pa.array(inside)))
            order.append(here)
        if not parts:
            schema = self.bucket(0).rows.schema
            return {name: pa.nulls(len(places), schema.field(name).type) for name in columns}
        position = np.full(len(places), -1, np.int64)
        position[np.concatenate(order)] = np.arange(sum(map(len, order)))
        rows = pa.concat_tables(parts)
        if not np.array_equal(position, np.arange(rows.num_rows)):
            rows = rows.take(pa.array(position, mask=position < 0))
        return {name: _one_chunk(rows[name]) for name in columns}


def split_place(places: Places) -> tuple[Places, Places]:
    """Which bucket each place lies in, and where."""
    return places >> _PLACE_BITS, places & ((1 << _PLACE_BITS) - 1)


def spread(firsts: Places, counts: Places) -> Places:
    """The places firsts[0], firsts[0] + 1, … of each of `counts` consecutive ones."""
    ends = np.cumsum(counts)
    inside = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
    return np.repeat(firsts, counts) + inside


def key_texts(records: pa.RecordBatch | pa.Table, columns: Sequence[str]) -> pa.Array:
    """The key of every row as text, null where a column of it has no value; several are joined as a csv's are."""
    parts = [_text(records[name], name) for name in columns]
    if len(parts) == 1:
        return parts[0]
    for text in ("\\", "|"):
        parts = [pc.replace_substring(part, text, "\\" + text) for part in parts]
    return pc.binary_join_element_wise(*parts, "|")


def _text(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    try:
        return _one_chunk(column.cast(pa.string()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise HeadraceError(
            "A column to join by has values that are no text.",
            where=f"join, column {name}",
            value=str(column.type),
            allowed="texts, numbers, bools, dates and times",
            hint=str(error),
        ) from error


def hash_texts(texts: pa.Array) -> Hashes:
    """128-bit hashes of texts, `KEY_HASH_DTYPE` (n,)."""
    pieces = (texts[start : start + _CHUNK_ROWS] for start in range(0, len(texts), _CHUNK_ROWS))
    keys = (text.encode() for piece in pieces for text in piece.to_pylist())
    return as_sortable(key_hashes(keys, 0))


def bucket_of(hashes: Hashes, buckets: int) -> npt.NDArray[np.int64]:
    """In which of `buckets`, a power of two, each hash lies."""
    if buckets == 1:
        return np.zeros(len(hashes), np.int64)
    return (hashes["hi"].astype(np.uint64) >> np.uint64(65 - buckets.bit_length())).astype(np.int64)


def write_bucket(
    path: StorePath, rows: pa.Table, hashes: Hashes, digests: list[bytes] | None, books: Any
) -> None:
    """Writes rows that are sorted by `hashes`; `digests` are those of single rows, where they will be asked for."""
    first = np.ones(len(hashes), np.bool_)
    first[1:] = hashes[1:] != hashes[:-1]
    starts = np.flatnonzero(first)
    counts = np.zeros(len(hashes), np.int32)
    counts[starts] = np.diff(np.append(starts, len(hashes)))
    if digests is None:
        digests = [bytes(DIGEST_BYTES)] * len(rows)
    else:
        for start in starts[counts[starts] > 1].tolist():
            joined = b"".join(digests[start : start + int(counts[start])])
            digests[start] = hashlib.blake2b(joined, digest_size=DIGEST_BYTES).digest()
    for name, column in (
        (DIGEST, pa.array(digests, pa.binary(DIGEST_BYTES))),
        (HIGH, pa.array(hashes["hi"].astype(np.uint64))),
        (LOW, pa.array(hashes["lo"].astype(np.uint64))),
        (COUNT, pa.array(counts)),
    ):
        rows = rows.append_column(name, column)
    write_rows(path, rows, books)


def write_rows(path: StorePath, rows: pa.Table, books: Any) -> None:
    """Writes an Arrow file of one batch, with `books` in its metadata."""
    rows = rows.combine_chunks().replace_schema_metadata({"headrace": json.dumps(books)})
    with path.writing(durable=False) as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=max(1, rows.num_rows))


def read_rows(path: StorePath, *, mapped: bool) -> tuple[pa.Table, Any]:
    """What `write_rows` left: read, or mapped where it lies on a disk."""
    where = str(path)
    data = pa.memory_map(where) if mapped and "://" not in where else path.read()
    rows = pa.ipc.open_file(data).read_all()
    return rows, json.loads(rows.schema.metadata[b"headrace"])


def read_bucket(path: StorePath, *, mapped: bool) -> Bucket:
    """What `write_bucket` left."""
    rows, books = read_rows(path, mapped=mapped)
    digests = _one_chunk(rows[DIGEST])
    matrix = np.frombuffer(digests.buffers()[1], np.uint8) if len(rows) else np.zeros(0, np.uint8)
    matrix = matrix[: len(rows) * DIGEST_BYTES]
    high, low, counts = (_one_chunk(rows[name]).to_numpy() for name in (HIGH, LOW, COUNT))
    return Bucket(rows, high, low, counts, matrix.reshape(-1, DIGEST_BYTES), books)


def open_table(files: list[StorePath]) -> Table:
    """The table of these buckets; one for each process."""
    with _lock:
        name = str(files[0])
        if name not in _tables:
            if len(_tables) >= _MAX_OPEN_TABLES:
                _tables.popitem(last=False)
            _tables[name] = Table(files)
        return _tables[name]


def close_tables() -> None:
    """Gives up all tables of this process: of files that are mapped, a disk could not be taken away."""
    with _lock:
        _tables.clear()


_tables: OrderedDict[str, Table] = OrderedDict()
_lock = threading.Lock()


def _by_bucket(places: Places) -> Iterator[tuple[int, Places, Places]]:
    """For each bucket: which of `places` lie in it, and where there."""
    owners, inside = split_place(places)
    for number in np.unique(owners[places >= 0]).tolist():
        here = np.flatnonzero((owners == number) & (places >= 0))
        yield number, here, inside[here]


def _size(*buckets: Bucket) -> int:
    return sum(bucket.rows.nbytes for bucket in buckets)


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
