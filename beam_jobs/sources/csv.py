"""Rows of delimited text, one file or several, in byte-range partitions that appending never moves."""

from __future__ import annotations

import codecs
import difflib
import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sources._parse import convert, dialect_of, header_names, parse_block
from beam_jobs.sources._rows import RowBlock, RowTooLongError, row_blocks
from beam_jobs.sources._text import Read, TextFile, TextFiles, find_files, is_utf8
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.spec import CsvSource

_SCAN_BYTES = 4 << 20
_READ_BYTES = 4 << 20  # Columns of short strings take up to twice the bytes of their text.
_HASH_BYTES = 16


class Csv:
    """Rows of text files. Rows are numbered from 1 after the header; blank lines are no rows and not counted.

    The key is the text of the key column as written; several columns are joined by `|` with `|` and `\\` escaped;
    without a key column it is `file:row`.
    """

    def __init__(self, name: str, spec: CsvSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"
        self._dialect = dialect_of(spec)
        self._check_options()

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields: those of the first file."""
        return self._header(self._open(self._files.names[0]))[0]

    def partitions(self) -> list[Partition]:
        """Byte ranges that begin at the first row at or after each multiple of `partition_bytes`.

        Their identity is a hash of their bytes: the scan reads them all anyway, and neither a copy nor an appended
        row then changes a partition that holds the same rows as before.
        """
        partitions: list[Partition] = []
        names: list[str] | None = None
        for name in self._files.names:
            file = self._open(name)
            header, start = self._header(file)
            names = self._check_header(header, names, name)
            version = file.version()
            for payload, digest in self._plan(file, start):
                payload |= {"file": name, "columns": header, "version": version, "digest": digest}
                identity = [name, payload["first"], digest, header]
                size = payload["end"] - payload["start"] if file.seekable else version[0]
                partitions.append(
                    Partition(self.name, len(partitions), identity, payload, size, payload["records"])
                )
        if not any(partition.records is None or partition.records for partition in partitions):
            raise HeadraceError("The source holds no row.", where=self._where, value=self.root)
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The rows of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        file = self._open(payload["file"])
        before = self._verify(file, payload)
        first = payload["first"]
        with file.open(payload["start"], payload["end"]) as read:
            for block in self._blocks(read, file, _READ_BYTES, first):
                yield self._batch(block, payload, first, file)
                first += block.records
        expected = payload["records"]
        if file.version() != before or (expected is not None and first - payload["first"] != expected):
            raise _changed(payload["file"])

    def origin(self, partition: Partition, row: int) -> str:
        """The file and the number of the row, from 1 after the header."""
        return f"{partition.payload['file']}, row {row}"

    @cached_property
    def _files(self) -> TextFiles:
        return find_files(self.root, self._where)

    def _open(self, name: str) -> TextFile:
        return TextFile(self.root, self._files.base, name, self.spec.encoding)

    def _encoding(self, file: TextFile) -> str:
        return "utf-8" if file.transcoded or is_utf8(self.spec.encoding) else self.spec.encoding

    def _blocks(self, read: Read, file: TextFile, chunk: int, first: int) -> Iterator[RowBlock]:
        try:
            yield from row_blocks(read, self._dialect, chunk, self.spec.max_row_bytes)
        except RowTooLongError as error:
            what = "A quote is left open." if error.open_quote else "A row is too long."
            raise HeadraceError(
                what,
                where=f"{file.name}, row {first + error.records}",
                value=repr(error.start),
                allowed=f"rows of at most {self.spec.max_row_bytes} bytes (max_row_bytes)",
                hint="Close the quote, or set `quote` to the quoting character, '' for none.",
            ) from None

    def _header(self, file: TextFile) -> tuple[list[str], int]:
        """The columns of `file`, and where its rows begin."""
        with file.open() as read:
            start = len(codecs.BOM_UTF8) if self._encoding(file) == "utf-8" and _starts_with_bom(read) else 0
        with file.open(start) as read:
            for block in self._blocks(read, file, 64 << 10, 0):
                if not block.records:
                    start += len(block.data)
                    continue
                row = int(np.argmin(block.blank))
                begin, end = block.bounds[row : row + 2].tolist()
                names = header_names(bytes(block.data[begin:end]), self.spec, self._encoding(file), file.name)
                return self._named(names, file.name), start + (end if self.spec.header else 0)
        if self.spec.header:
            raise HeadraceError("The file has no header: it is empty.", where=f"{self._where}, {file.name}")
        return list(self.spec.columns or []), start

    def _named(self, first_row: list[str], file: str) -> list[str]:
        if self.spec.columns is not None and len(first_row) != len(self.spec.columns):
            raise HeadraceError(
                f"`columns` names {len(self.spec.columns)} columns and the file's first row has {len(first_row)}.",
                where=f"{self._where}, {file}",
                value=", ".join(first_row),
                hint="Check `delimiter` and `columns`.",
            )
        return self.spec.columns or first_row

    def _check_header(self, header: list[str], earlier: list[str] | None, file: str) -> list[str]:
        where = f"{self._where}, {file}"
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise HeadraceError("Two columns have one name.", where=where, value=", ".join(map(repr, twice)))
        if earlier is not None and header != earlier:
            raise HeadraceError(
                "Files of one source have different columns.",
                where=where,
                value=", ".join(header),
                allowed=", ".join(earlier),
                hint=f"The others are as in {self._files.names[0]}; make two sources of them, or mend the header.",
            )
        for field, wanted in (("key", self._key_columns()), ("types", self.spec.types)):
            for name in wanted:
                if name not in header:
                    raise _no_column(name, header, f"{self._where}.{field}", file)
        return header

    def _plan(self, file: TextFile, start: int) -> Iterator[tuple[dict[str, Any], str]]:
        """Payload and content hash of each partition of `file`, whose rows begin at `start`."""
        if not file.seekable:
            yield {"start": start, "end": None, "first": 1, "records": None}, _digest(file.raw_pieces())
            return
        size = self.spec.partition_bytes
        begin, first, records, digest = start, 1, 0, hashlib.blake2b(digest_size=_HASH_BYTES)
        with file.open(start) as read:
            for block in self._blocks(read, file, _SCAN_BYTES, 1):
                at = start + block.offset
                row = 0
                while True:
                    target = (begin // size + 1) * size
                    cut = max(int(np.searchsorted(block.bounds[:-1], target - at)), row)
                    low, high = int(block.bounds[row]), int(block.bounds[cut])
                    digest.update(block.data[low:high])
                    records += cut - row - int(np.count_nonzero(block.blank[row:cut]))
                    if cut == len(block.blank):
                        break
                    if at + high > begin:
                        yield _payload(begin, at + high, first, records), digest.hexdigest()
                    begin, first, records = at + high, first + records, 0
                    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
                    row = cut
        end = start + block.offset + len(block.data) if "block" in locals() else start
        if end > begin:
            yield _payload(begin, end, first, records), digest.hexdigest()

    def _verify(self, file: TextFile, payload: dict[str, Any]) -> Any:
        """The file's version now, after making sure that the partition's bytes are those that were planned."""
        try:
            version = file.version()
        except OSError as error:
            raise HeadraceError(
                "A file is gone since the job was planned.", where=file.name, value=str(error)
            ) from error
        if version != payload["version"]:
            # Rows may have been appended: what matters is this partition's own bytes.
            if _digest(file.raw_pieces(payload["start"], payload["end"])) != payload["digest"]:
                raise _changed(file.name)
        return version

    def _batch(self, block: RowBlock, payload: dict[str, Any], first: int, file: TextFile) -> SourceBatch:
        try:
            parsed = parse_block(block, payload["columns"], self.spec, self._encoding(file))
        except (pa.ArrowInvalid, RuntimeError) as error:
            where = f"{file.name}, rows {first} to {first + block.records - 1}"
            raise HeadraceError("Rows cannot be parsed.", where=where, value=str(error)) from error
        rows = parsed.records + first
        faults = [Fault(fault.row + first, fault.rule, fault.reason, fault.raw) for fault in parsed.faults]
        keys = self._keys(parsed.texts, rows, file.name)
        records, wrong = convert(parsed.texts, self.spec.types)
        if wrong:
            faults += [Fault(int(rows[row]), "bad_type", reason) for row, reason in wrong.items()]
            keep = np.ones(len(rows), dtype=bool)
            keep[list(wrong)] = False
            keys, rows = keys.filter(pa.array(keep)), rows[keep]
        return SourceBatch(records, keys, rows, sorted(faults, key=lambda fault: fault.row))

    def _key_columns(self) -> list[str]:
        key = self.spec.key
        return [key] if isinstance(key, str) else list(key or [])

    def _keys(self, texts: pa.RecordBatch, rows: np.ndarray[Any, np.dtype[np.int64]], file: str) -> pa.Array:
        names = self._key_columns()
        if not names:
            prefix = pa.scalar(f"{file}:", pa.string())
            return pc.binary_join_element_wise(prefix, pc.cast(pa.array(rows), pa.string()), "").cast(
                pa.binary()
            )
        if len(names) == 1:
            return texts.column(names[0]).cast(pa.binary())
        parts = [texts.column(name) for name in names]
        for text in ("\\", "|"):
            parts = [pc.replace_substring(part, text, "\\" + text) for part in parts]
        return pc.binary_join_element_wise(*parts, "|").cast(pa.binary())

    def _check_options(self) -> None:
        try:
            codecs.lookup(self.spec.encoding)
        except LookupError:
            raise HeadraceError(
                "There is no such encoding.",
                where=f"{self._where}.encoding",
                value=self.spec.encoding,
                allowed="utf-8, latin-1, cp1252, utf-16, … as Python names them",
            ) from None
        for field, value in (("delimiter", self.spec.delimiter), ("quote", self.spec.quote)):
            if not value.isascii():
                raise HeadraceError(
                    f"`{field}` must be an ASCII character.", where=f"{self._where}.{field}", value=value
                )


def _payload(start: int, end: int, first: int, records: int) -> dict[str, Any]:
    return {"start": start, "end": end, "first": first, "records": records}


def _starts_with_bom(read: Read) -> bool:
    head = b""
    while len(head) < len(codecs.BOM_UTF8) and (piece := read(len(codecs.BOM_UTF8) - len(head))):
        head += piece
    return head == codecs.BOM_UTF8


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=_HASH_BYTES)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _no_column(name: str, header: list[str], where: str, file: str) -> HeadraceError:
    near = difflib.get_close_matches(name, header, 1, 0.6) or [
        h for h in header if h.strip().lower() == name.lower()
    ]
    return HeadraceError(
        f"There is no column called {name!r} in {file}.",
        where=where,
        value=name,
        allowed=shorten(", ".join(header)),
        hint=f"Did you mean {near[0]!r}?" if near else "Check `delimiter` and `header`.",
    )


def _changed(file: str) -> HeadraceError:
    return HeadraceError(
        "A file was changed while the job was reading it.",
        where=file,
        hint="Run the job again once nobody writes to the file; what is done already is kept.",
    )
