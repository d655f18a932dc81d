"""JSON objects, one a line, one file or several, in byte-range partitions that appending never moves."""

from __future__ import annotations

import codecs
import difflib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._json.ahead import ahead
from beam_jobs.sources._json.kinds import (
    count_fields,
    declared_kind,
    flat_arrays,
    flat_columns,
    overlay,
)
from beam_jobs.sources._json.parse import MAX_FIELDS, Target, fits, learn, lines_of, parse_lines, slices
from beam_jobs.sources._keys import join_keys, numbered
from beam_jobs.sources._places.file import changed
from beam_jobs.sources._places.locate import find_files
from beam_jobs.sources._text.kept import scanned_once
from beam_jobs.sources._text.ranges import Range, cut_ranges, digest_of, verify_range
from beam_jobs.sources._text.rows import Dialect, RowBlock, RowTooLongError, row_blocks
from beam_jobs.sources._text.text_file import Read, TextFile
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.sources import JsonlSource

_SCAN_BYTES = 4 << 20
_READ_BYTES = 4 << 20
_LINES = Dialect(b"", b"", b" \t", lone_cr=False)


class _File(NamedTuple):
    name: str
    version: Any
    ranges: list[Range]


class _Scan(NamedTuple):
    """What one pass over all lines finds: the kind of every column, and where each file is cut."""

    kind: dict[str, Any]
    files: list[_File]


class Jsonl:
    """JSON objects as records, nested objects as structs unless they are flattened, lists as lists.

    A line's number counts from 1; blank lines do not count. What `types` leaves open is inferred from all lines, and so
    is the same for every worker. The key is the text of the key column; several columns are joined as those of a
    csv are, and without a key column it is `file:row`. Compressed files (.gz, .bz2, .xz) cannot be cut: each is one
    partition, streamed.
    """

    def __init__(self, name: str, spec: JsonlSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"
        self._declared = declared_kind(spec.types, spec.separator)
        self._wanted = (
            declared_kind(dict.fromkeys(spec.columns, "null"), spec.separator) if spec.columns else None
        )

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields, in the order in which the lines first have them."""
        return self._names(self._scan().kind)

    def partitions(self) -> list[Partition]:
        """Byte ranges that begin at the first line at or after each multiple of `partition_bytes`.

        Their identity is a hash of their bytes and the kinds of all columns: lines that are appended leave it
        as it is unless they widen a column, which changes what is read of every line.
        """
        kind, files = self._scan()
        schema = json.dumps(kind, ensure_ascii=False)
        kinds = digest_of([schema.encode("utf-8", "surrogatepass")])
        partitions: list[Partition] = []
        for name, version, ranges in files:
            seekable = self._open(name).seekable
            for part in ranges:
                payload = {"file": name, "schema": schema, "version": version, "range": list(part)}
                identity = [name, part.first, part.digest, kinds]
                size, known = part.end - part.start, part.records if seekable else None
                partitions.append(Partition(self.name, len(partitions), identity, payload, size, known))
        if not any(partition.records is None or partition.records for partition in partitions):
            raise HeadraceError("The source holds no row.", where=self._where, value=self.root)
        self._check(kind)
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The lines of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        part = Range(*payload["range"])
        kind = json.loads(payload["schema"])
        target = Target(kind, self._declared, self._wanted is None)
        file = self._open(payload["file"])
        version = verify_range(file, part, payload["version"])
        first = part.first
        with file.open(part.start, part.end if file.seekable else None) as read:
            for block in self._blocks(read, file, _READ_BYTES, first):
                for lines in slices(lines_of(block), kind):
                    parsed = parse_lines(lines, target)
                    rows = parsed.places + first
                    faults = [Fault(f.row + first, f.rule, f.reason, f.raw) for f in parsed.faults]
                    records, keys = self._batch(parsed.records, kind, rows, file.name)
                    yield SourceBatch(records, keys, rows, faults)
                    first += len(lines)
        verify_range(file, part, version)
        if partition.records is not None and first - part.first != partition.records:
            raise changed(file.shown)

    def origin(self, partition: Partition, row: int) -> str:
        """The file and the number of the line, from 1; blank lines do not count."""
        return f"{self._open(partition.payload['file']).shown}, row {row}"

    def _open(self, name: str) -> TextFile:
        return TextFile(self.root, name, "utf-8")

    def _names(self, kind: dict[str, Any]) -> list[str]:
        return [name for name, _, _ in self._columns(kind)]

    def _columns(self, kind: dict[str, Any]) -> list[tuple[str, list[str], Any]]:
        """Name, path and kind of the columns; those that were asked for, where some were."""
        columns = flat_columns(kind, self.spec.separator)
        if self.spec.columns is None:
            return columns
        # An object that was asked for by its name is a column, or with a separator all of its fields are.
        order = {name: place for place, name in enumerate(self.spec.columns)}
        return sorted(columns, key=lambda column: order.get(column[0], len(order)))

    def _scan(self) -> _Scan:
        """What all lines are, from one pass over them."""
        files = [self._open(name) for name in find_files(self.root, self._where)]
        return scanned_once(self.root, self.spec, files, lambda: self._look(files))

    def _look(self, files: list[TextFile]) -> _Scan:
        kind = overlay(self._wanted or {}, self._declared)
        assert isinstance(kind, dict)
        found = []
        for file in files:
            version = file.version()
            kind, ranges = self._look_at(file, kind)
            found.append(_File(file.name, version, ranges))
            if file.version() != version:
                raise changed(file.shown)
        return _Scan(kind, found)

    def _look_at(self, file: TextFile, kind: dict[str, Any]) -> tuple[dict[str, Any], list[Range]]:
        """The kind of all lines up to the end of `file`, and its ranges."""
        known = kind
        certain = self._wanted is not None and self._wanted_is_declared()

        def fitting(block: RowBlock) -> bool:
            return fits(lines_of(block), known, self._wanted)

        def looked_at(blocks: Iterator[RowBlock]) -> Iterator[RowBlock]:
            nonlocal known
            if certain:
                yield from blocks
                return
            # Most blocks teach nothing, and pyarrow finds that out on all processors; the others wait for their turn.
            for block, fitted in ahead(blocks, fitting):
                if not fitted:
                    known = learn(lines_of(block), known, self._declared, self._wanted)
                    self._check_size(known, file)
                yield block

        start = _mark(file)
        with file.open(start) as read:
            blocks = looked_at(self._blocks(read, file, _SCAN_BYTES, 1))
            if file.seekable:
                ranges = list(cut_ranges(blocks, start, self.spec.partition_bytes))
                return known, ranges
            if not certain:
                for _ in blocks:
                    pass
        return known, [Range(start, start + file.version()[0], 1, 0, digest_of(file.stored()))]

    def _blocks(self, read: Read, file: TextFile, chunk: int, first: int) -> Iterator[RowBlock]:
        try:
            yield from row_blocks(read, _LINES, chunk, self.spec.max_row_bytes)
        except RowTooLongError as error:
            raise HeadraceError(
                "A line is too long.",
                where=f"{file.shown}, row {first + error.records}",
                value=repr(error.start),
                allowed=f"lines of at most {self.spec.max_row_bytes} bytes (max_row_bytes)",
                hint="Each line must be one object: `jq -c '.[]'` writes a list so.",
            ) from None

    def _wanted_is_declared(self) -> bool:
        return set(self.spec.columns or []) <= set(self.spec.types)

    def _check_size(self, kind: dict[str, Any], file: TextFile) -> None:
        if count_fields(kind) > MAX_FIELDS:
            raise HeadraceError(
                "The objects have too many different keys to be columns.",
                where=f"{self._where}, {file.shown}",
                value=shorten(", ".join(kind), 200),
                allowed=f"at most {MAX_FIELDS} fields, nested ones included",
                hint="Name those to read with `columns`, or declare an object as string to get its text.",
            )

    def _check(self, kind: dict[str, Any]) -> None:
        """See that there are columns, that names are unique, and that what the spec names is there."""
        columns = self._columns(kind)
        names = self._names(kind)
        if not names:
            raise HeadraceError(
                "No line of the source is an object with fields.",
                where=self._where,
                value=self.root,
                hint="Each line must be one object: `jq -c '.[]'` writes a list so.",
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise HeadraceError(
                "Two columns have one name once objects are flattened.",
                where=f"{self._where}.flatten",
                value=", ".join(map(repr, twice)),
                hint="Give another separator, such as `flatten: __`.",
            )
        unseen = [name for name, _, inner in columns if inner == "null" and name in (self.spec.columns or [])]
        if unseen:
            raise HeadraceError(
                "`columns` names a column of which no line has a value.",
                where=self._where,
                value=", ".join(unseen),
            )
        keys = self._keys()
        for name in keys:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1, 0.6)
                raise HeadraceError(
                    "`key` names a column that does not exist.",
                    where=self._where,
                    value=name,
                    allowed=shorten(", ".join(names)),
                    hint=f"Did you mean {near[0]!r}?" if near else None,
                )
        for name, _, inner in columns:
            if name in keys and inner not in ("string", "int64", "null"):
                raise HeadraceError(
                    "A key must be a text or a whole number.",
                    where=f"{self._where}.key",
                    value=f"{name}: {json.dumps(inner)}",
                    hint=f"Declare it: `types: {{{name}: string}}`.",
                )

    def _keys(self) -> list[str]:
        key = self.spec.key
        return [key] if isinstance(key, str) else list(key or [])

    def _batch(
        self, records: pa.RecordBatch, kind: dict[str, Any], rows: npt.NDArray[np.int64], file: str
    ) -> tuple[pa.RecordBatch, pa.Array]:
        """The columns that were asked for, and the keys."""
        columns = self._columns(kind)
        names = [name for name, _, _ in columns]
        flat = flat_arrays(records, [path for _, path, _ in columns])
        keys = [flat[names.index(name)].cast(pa.string()) for name in self._keys()]
        return pa.RecordBatch.from_arrays(flat, names=names), join_keys(keys) if keys else numbered(
            file, rows
        )


def _mark(file: TextFile) -> int:
    """How many bytes of byte order mark the file begins with."""
    head = b""
    with file.open() as read:
        while len(head) < len(codecs.BOM_UTF8) and (piece := read(len(codecs.BOM_UTF8) - len(head))):
            head += piece
    return len(head) if head == codecs.BOM_UTF8 else 0
