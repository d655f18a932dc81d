"""TFRecords of `tf.train.Example`, one file or several, in byte-range partitions that appending never moves."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._keys import join_keys, numbered
from beam_jobs.sources._places.file import changed
from beam_jobs.sources._places.locate import find_files
from beam_jobs.sources._sets.example import (
    BYTES_LIST,
    FLOAT_LIST,
    INT64_LIST,
    KINDS,
    MAX_FEATURES,
    Examples,
    Found,
    find_features,
    values_of,
)
from beam_jobs.sources._sets.frames import FrameBlock, RecordFile, frame_blocks
from beam_jobs.sources._text.kept import scanned_once
from beam_jobs.sources._text.ranges import Range, cut_ranges, digest_of, verify_range
from beam_jobs.sources._text.rows import RowBlock
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.sources import TfrecordSource

_SCAN_BYTES = 2 << 20
_READ_BYTES = 2 << 20  # A number of one byte takes eight in a column.
_TAGS = {"bytes": BYTES_LIST, "string": BYTES_LIST, "float32": FLOAT_LIST, "int64": INT64_LIST}
_ONE, _ANY = 0, -1  # lengths of a column: one value, a list of any; n > 0 for so many


class Column(NamedTuple):
    """A feature to be read: its type as in the spec, and how many values it has."""

    name: str
    type: str
    length: int


class _File(NamedTuple):
    name: str
    version: Any
    compression: str
    ranges: list[Range]


class _Scan(NamedTuple):
    columns: list[Column]
    files: list[_File]


class Tfrecord:
    """Examples as records: a column for each feature, one value or a list.

    A record's number counts from 1, damaged ones included. Without `features` every feature of any record is a column,
    of the type that it has first, and a list where any record has several values. A feature that a record lacks is
    null. The key is the key feature's bytes or number, else `file:number`. Compressed files are one partition each,
    streamed.
    """

    def __init__(self, name: str, spec: TfrecordSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields: as in the spec, else sorted."""
        return [column.name for column in self._scan().columns]

    def partitions(self) -> list[Partition]:
        """Byte ranges that begin at the first record at or after each multiple of `partition_bytes`."""
        columns, files = self._scan()
        schema = json.dumps(columns, ensure_ascii=False)
        kinds = digest_of([schema.encode("utf-8", "surrogatepass")])
        partitions: list[Partition] = []
        for name, version, compression, ranges in files:
            for part in ranges:
                payload = {
                    "file": name,
                    "schema": schema,
                    "version": version,
                    "compression": compression,
                    "range": list(part),
                }
                identity = [name, part.first, part.digest, kinds]
                known = part.records if compression == "none" else None
                size = part.end - part.start
                partitions.append(Partition(self.name, len(partitions), identity, payload, size, known))
        if not partitions:
            raise HeadraceError("The source holds no row.", where=self._where, value=self.root)
        self._check(columns)
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The records of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        part = Range(*payload["range"])
        columns = [Column(*column) for column in json.loads(payload["schema"])]
        wanted = frozenset(column.name.encode() for column in columns)
        file = RecordFile(self.root, payload["file"], payload["compression"])
        version = verify_range(file, part, payload["version"])
        first = part.first
        with file.open(part.start, part.end if file.seekable else None) as read:
            for block in frame_blocks(read, _READ_BYTES, self.spec.max_record_bytes, part.start):
                examples = find_features(block.rows.data, block.starts, block.ends, wanted)
                yield self._batch(block, examples, columns, first, file.name)
                first += block.rows.records
        verify_range(file, part, version)
        if partition.records is not None and first - part.first != partition.records:
            raise changed(file.shown)

    def origin(self, partition: Partition, row: int) -> str:
        """The file and the number of the record, from 1."""
        file = RecordFile(self.root, partition.payload["file"], partition.payload["compression"])
        return f"{file.shown}, record {row}"

    def _scan(self) -> _Scan:
        """What all records are, from one pass over them."""
        files = [RecordFile(self.root, name) for name in find_files(self.root, self._where)]
        return scanned_once(self.root, self.spec, files, lambda: self._look(files))

    def _look(self, files: list[RecordFile]) -> _Scan:
        seen: dict[str, Column] | None = {} if self.spec.features is None else None
        found = []
        for file in files:
            version = file.version()
            found.append(_File(file.name, version, file.compression, self._look_at(file, seen)))
            if file.version() != version:
                raise changed(file.shown)
        if seen is not None:
            return _Scan([seen[name] for name in sorted(seen)], found)
        return _Scan([_declared(name, *feature) for name, feature in self._features()], found)

    def _features(self) -> Iterator[tuple[str, tuple[str, tuple[int | None, ...]]]]:
        for name, feature in (self.spec.features or {}).items():
            yield name, (feature.type, feature.shape)

    def _look_at(self, file: RecordFile, seen: dict[str, Column] | None) -> list[Range]:
        """Where the file is cut; adds the features of its records to those that were seen."""

        def looked_at(blocks: Iterator[FrameBlock]) -> Iterator[RowBlock]:
            for block in blocks:
                if seen is not None:
                    _see(find_features(block.rows.data, block.starts, block.ends), seen)
                    self._check_size(seen, file)
                yield block.rows

        with file.open() as read:
            blocks = frame_blocks(read, _SCAN_BYTES, self.spec.max_record_bytes, check=seen is not None)
            rows = looked_at(blocks)
            if file.seekable:
                return list(cut_ranges(rows, 0, self.spec.partition_bytes))
            if seen is not None:
                for _ in rows:
                    pass
        return [Range(0, file.version()[0], 1, 0, digest_of(file.stored()))]

    def _batch(
        self, block: FrameBlock, examples: Examples, columns: list[Column], first: int, file: str
    ) -> SourceBatch:
        places = block.places
        wrong = {row: ("bad_example", reason) for row, reason in examples.bad.items()}
        arrays = []
        for column in columns:
            array, bad = _read_column(examples, column)
            arrays.append(array)
            for row, problem in bad.items():
                wrong.setdefault(row, problem)
        records = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
        faults = [Fault(fault.row + first, fault.rule, fault.reason) for fault in block.faults]
        faults += [Fault(int(places[row]) + first, *problem) for row, problem in wrong.items()]
        keep = np.ones(len(places), dtype=bool)
        keep[list(wrong)] = False
        if wrong:
            records = records.filter(pa.array(keep))
        rows = places[keep] + first
        return SourceBatch(
            records, self._keys(records, rows, file), rows, sorted(faults, key=lambda f: f.row)
        )

    def _keys(self, records: pa.RecordBatch, rows: npt.NDArray[np.int64], file: str) -> pa.Array:
        if self.spec.key is None:
            return numbered(file, rows)
        key = records.column(self.spec.key)
        return (
            key.cast(pa.binary())
            if pa.types.is_large_binary(key.type)
            else join_keys([key.cast(pa.string())])
        )

    def _check_size(self, seen: dict[str, Column], file: RecordFile) -> None:
        if len(seen) > MAX_FEATURES:
            raise HeadraceError(
                "The records have too many different features to be columns.",
                where=f"{self._where}, {file.shown}",
                value=shorten(", ".join(seen), 200),
                allowed=f"at most {MAX_FEATURES}",
                hint="Name those to read with `features`.",
            )

    def _check(self, columns: list[Column]) -> None:
        """See that there are columns, and that the key is one that can name a record."""
        names = [column.name for column in columns]
        if not names:
            raise HeadraceError(
                "No record of the source is a tf.train.Example with a feature.",
                where=self._where,
                value=self.root,
                hint="Name the features with `features`, to have each record's fault as a dead letter.",
            )
        if self.spec.key is None:
            return
        if self.spec.key not in names:
            near = difflib.get_close_matches(self.spec.key, names, 1, 0.6)
            raise HeadraceError(
                "`key` names a feature that does not exist.",
                where=f"{self._where}.key",
                value=self.spec.key,
                allowed=shorten(", ".join(names)),
                hint=f"Did you mean {near[0]!r}?" if near else None,
            )
        column = columns[names.index(self.spec.key)]
        if column.length != _ONE or column.type == "float32":
            raise HeadraceError(
                "A key must be one value of bytes, text or a whole number.",
                where=f"{self._where}.key",
                value=f"{column.name}: {column.type}" + ("" if column.length == _ONE else ", a list"),
            )


def _declared(name: str, type_: str, shape: tuple[int | None, ...]) -> Column:
    return Column(name, type_, (shape[0] or _ANY) if shape else _ONE)


def _see(examples: Examples, seen: dict[str, Column]) -> None:
    """Adds the features of the records to those that were seen; the first kind of each stays."""
    bad = np.array(list(examples.bad), dtype=np.int64)
    for text, parts in examples.found.items():
        try:
            name = text.decode()
        except UnicodeDecodeError:  # protobuf allows no such name
            continue
        rows = np.concatenate([part.rows for part in parts])
        kinds = np.concatenate([part.kinds for part in parts])
        typed = np.flatnonzero((kinds != 0) & ~np.isin(rows, bad))
        if not len(typed):
            continue
        kind = int(kinds[typed[np.argmin(rows[typed])]])
        column = seen.setdefault(name, Column(name, KINDS[kind], _ONE))
        if column.length == _ONE and any(_several(examples, part, _TAGS[column.type], bad) for part in parts):
            seen[name] = column._replace(length=_ANY)


def _several(examples: Examples, part: Found, kind: int, bad: npt.NDArray[np.int64]) -> bool:
    """Whether any of the records has more than one value."""
    _, counts, _ = values_of(examples, part, kind)
    return bool(((counts > 1) & ~np.isin(part.rows, bad)).any())


def _read_column(examples: Examples, column: Column) -> tuple[pa.Array, dict[int, tuple[str, str]]]:
    """The column in all records, and what is wrong with each that cannot have it."""
    tag = _TAGS[column.type]
    found = examples.feature(column.name)
    values, counts, damaged = values_of(examples, found, tag)
    where = f"feature {column.name!r}"
    bad = {row: ("bad_example", f"{where}: {reason}") for row, reason in damaged.items()}
    for row in np.flatnonzero((found.kinds != 0) & (found.kinds != tag)).tolist():
        reason = (
            f"{where} holds {KINDS[int(found.kinds[row])]}, not {column.type}, as declared or as first seen"
        )
        bad.setdefault(row, ("bad_type", reason))
    present = found.kinds != 0
    right = counts <= 1 if column.length == _ONE else (counts == column.length) | ~present
    if column.length != _ANY:
        allowed = "one" if column.length == _ONE else str(column.length)
        for row in np.flatnonzero(~right).tolist():
            bad.setdefault(row, ("bad_shape", f"{where} has {counts[row]} values, not {allowed}"))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if column.type == "string":
        values, wrong = _as_texts(values)
        for row in np.unique(np.searchsorted(offsets, wrong, side="right") - 1).tolist():
            bad.setdefault(row, ("bad_encoding", f"{where} is not UTF-8"))
    if column.length != _ONE:
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~present))
        return lists, bad
    if bool((counts == 1).all()):
        return values, bad
    return values.take(pa.array(np.minimum(offsets[:-1], max(len(values) - 1, 0)), mask=counts == 0)), bad


def _as_texts(values: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The values as text, empty where they are no UTF-8, and which those are."""
    try:
        return values.cast(pa.large_string()), np.zeros(0, dtype=np.int64)
    except pa.ArrowInvalid:
        pass
    texts, wrong = [], []
    for place, value in enumerate(values.to_pylist()):
        try:
            texts.append(value.decode())
        except UnicodeDecodeError:
            texts.append("")
            wrong.append(place)
    return pa.array(texts, pa.large_string()), np.array(wrong, dtype=np.int64)
