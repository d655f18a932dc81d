"""Rows of delimited text, one file or several, in byte-range partitions that appending never moves."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.sources._keys import join_keys, key_columns, numbered
from beam_jobs.sources._places.file import changed
from beam_jobs.sources._places.locate import find_files
from beam_jobs.sources._text.header import blocks_of, check_columns, read_header
from beam_jobs.sources._text.parse import convert, parse_block
from beam_jobs.sources._text.ranges import Range, cut_ranges, digest_of, verify_range
from beam_jobs.sources._text.rows import RowBlock
from beam_jobs.sources._text.text_file import TextFile
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError
from schemas.remote_errors import redacted
from schemas.sources import CsvSource

_SCAN_BYTES = 4 << 20
_READ_BYTES = 4 << 20  # Columns of short strings take up to twice the bytes of their text.
_MAX_ROW_BYTES = 1 << 30  # pyarrow counts the bytes of a block in 32 bits.


class Csv:
    """Rows of text files, as strings unless the spec gives types.

    A row's number counts from 1 after the header; blank lines are no rows. The key is the text of the key column as
    written; several columns are joined by `|`, with `|` and `\\` within them escaped by `\\`; without a key column it
    is `file:row`. Compressed files (.gz, .bz2, .xz) and encodings that are neither UTF-8 nor one byte a letter cannot
    be cut: each file is one partition, streamed.
    """

    def __init__(self, name: str, spec: CsvSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"
        _check_options(spec, self._where)

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields: those of the first file."""
        first = find_files(self.root, self._where)[0]
        return read_header(self._open(first), self.spec, self._where)[0]

    def partitions(self) -> list[Partition]:
        """Byte ranges that begin at the first row at or after each multiple of `partition_bytes`.

        Their identity is a hash of their bytes: the scan reads them all anyway, and so neither copying the file nor
        appending to it changes a partition that holds the same rows as before.
        """
        partitions: list[Partition] = []
        names = find_files(self.root, self._where)
        earlier: list[str] | None = None
        for name in names:
            file = self._open(name)
            version = file.version()
            columns, start = read_header(file, self.spec, self._where)
            check_columns(columns, self.spec, f"{self._where}, {file.shown}")
            if columns != (earlier or columns):
                raise _other_columns(columns, earlier or [], f"{self._where}, {file.shown}", names[0])
            earlier = columns
            for part in self._ranges(file, start):
                known = part.records if file.seekable else None
                payload = {"file": name, "columns": columns, "version": version, "range": list(part)}
                identity = [name, part.first, part.digest, columns]
                size = part.end - part.start
                partitions.append(Partition(self.name, len(partitions), identity, payload, size, known))
            if file.version() != version:
                raise changed(file.shown)
        if not any(partition.records is None or partition.records for partition in partitions):
            raise HeadraceError("The source holds no row.", where=self._where, value=redacted(self.root))
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The rows of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        part = Range(*payload["range"])
        file = self._open(payload["file"])
        version = verify_range(file, part, payload["version"])
        first = part.first
        with file.open(part.start, part.end if file.seekable else None) as read:
            for block in blocks_of(read, file, self.spec, _READ_BYTES, first):
                if block.records:
                    yield self._batch(block, payload["columns"], first, file)
                first += block.records
        verify_range(file, part, version)
        if partition.records is not None and first - part.first != partition.records:
            raise changed(file.shown)

    def origin(self, partition: Partition, row: int) -> str:
        """The file and the number of the row, from 1 after the header."""
        return f"{self._open(partition.payload['file']).shown}, row {row}"

    def _open(self, name: str) -> TextFile:
        return TextFile(self.root, name, self.spec.encoding)

    def _ranges(self, file: TextFile, start: int) -> Iterator[Range]:
        if not file.seekable:
            stored = file.version()[0]
            yield Range(start, start + stored, 1, 0, digest_of(file.stored()))
            return
        with file.open(start) as read:
            yield from cut_ranges(
                blocks_of(read, file, self.spec, _SCAN_BYTES, 1), start, self.spec.partition_bytes
            )

    def _batch(self, block: RowBlock, columns: list[str], first: int, file: TextFile) -> SourceBatch:
        try:
            parsed = parse_block(block, columns, self.spec, file.text_encoding)
        except (pa.ArrowInvalid, RuntimeError) as error:
            where = f"{file.shown}, rows {first} to {first + block.records - 1}"
            raise HeadraceError("Rows cannot be parsed.", where=where, value=str(error)) from error
        rows = parsed.records + first
        faults = [Fault(fault.row + first, fault.rule, fault.reason, fault.raw) for fault in parsed.faults]
        keys = self._keys(parsed.texts, rows, file.name)
        records, wrong = convert(parsed.texts, self.spec.types, self.spec.nulls)
        if wrong:
            faults += [Fault(int(rows[row]), "bad_type", reason) for row, reason in wrong.items()]
            keep = np.ones(len(rows), dtype=bool)
            keep[list(wrong)] = False
            keys, rows = keys.filter(pa.array(keep)), rows[keep]
        return SourceBatch(records, keys, rows, sorted(faults, key=lambda fault: fault.row))

    def _keys(self, texts: pa.RecordBatch, rows: npt.NDArray[np.int64], file: str) -> pa.Array:
        names = key_columns(self.spec.key)
        return join_keys([texts.column(name) for name in names]) if names else numbered(file, rows)


def _check_options(spec: CsvSource, where: str) -> None:
    try:
        codecs.lookup(spec.encoding)
    except LookupError:
        raise HeadraceError(
            "There is no such encoding.",
            where=f"{where}.encoding",
            value=spec.encoding,
            allowed="utf-8, latin-1, cp1252, utf-16, … as Python names them",
        ) from None
    for field, value in (("delimiter", spec.delimiter), ("quote", spec.quote)):
        if not value.isascii() or value in ("\r", "\n"):
            raise HeadraceError(
                f"`{field}` must be an ASCII character and no line end.",
                where=f"{where}.{field}",
                value=value,
            )
    if spec.quote and spec.quote == spec.delimiter:
        raise HeadraceError("`quote` and `delimiter` are the same.", where=where, value=spec.quote)
    if spec.max_row_bytes > _MAX_ROW_BYTES:
        raise HeadraceError(
            "Rows cannot be that long.",
            where=f"{where}.max_row_bytes",
            value=spec.max_row_bytes,
            allowed=f"at most {_MAX_ROW_BYTES}",
        )


def _other_columns(columns: list[str], earlier: list[str], where: str, first: str) -> HeadraceError:
    return HeadraceError(
        "Files of one source have different columns.",
        where=where,
        value=", ".join(columns),
        allowed=", ".join(earlier),
        hint=f"The others are as in {first}: make two sources of them, or mend the header.",
    )
