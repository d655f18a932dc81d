"""The columns of a delimited text: read from its first row, and checked against the spec."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from collections.abc import Iterator

import numpy as np

from beam_jobs.sources._keys import key_columns
from beam_jobs.sources._text.parse import collapse_blanks, dialect_of
from beam_jobs.sources._text.rows import RowBlock, RowTooLongError, row_blocks
from beam_jobs.sources._text.text_file import Read, TextFile
from schemas.errors import HeadraceError, shorten
from schemas.sources import CsvSource

_HEAD_BYTES = 64 << 10


def blocks_of(read: Read, file: TextFile, spec: CsvSource, chunk: int, first: int) -> Iterator[RowBlock]:
    """`row_blocks` of a file, whose first record has the number `first`.

    Raises:
      HeadraceError: a row is too long or a quote is left open; names the row.
    """
    try:
        yield from row_blocks(read, dialect_of(spec), chunk, spec.max_row_bytes)
    except RowTooLongError as error:
        raise HeadraceError(
            "A quote is left open." if error.open_quote else "A row is too long.",
            where=f"{file.shown}, row {first + error.records}",
            value=repr(error.start),
            allowed=f"rows of at most {spec.max_row_bytes} bytes (max_row_bytes)",
            hint="Close the quote, or set `quote` to the quoting character, '' for none.",
        ) from None


def read_header(file: TextFile, spec: CsvSource, where: str) -> tuple[list[str], int]:
    """The columns of `file`, and the byte at which its rows begin (of the converted text, see `TextFile.open`).

    Raises:
      HeadraceError: there is no header, it is in another encoding, or does not fit `spec.columns`.
    """
    where = f"{where}, {file.shown}"
    with file.open() as read:
        start = len(codecs.BOM_UTF8) if file.text_encoding == "utf-8" and _starts_with_bom(read) else 0
    at = start
    with file.open(start) as read:
        for block in blocks_of(read, file, spec, _HEAD_BYTES, 0):
            if block.records:
                row = int(np.argmin(block.blank))
                begin, end = block.bounds[row : row + 2].tolist()
                names = _fields(bytes(block.data[begin:end]), spec, file.text_encoding, where)
                return _columns(names, spec, where), at + end if spec.header else start
            at += len(block.data)
    if spec.columns is None:
        raise HeadraceError("The file has no header: it is empty.", where=where)
    return spec.columns, start


def check_columns(columns: list[str], spec: CsvSource, where: str) -> None:
    """See that names are unique and that what the spec names is there.

    Raises:
      HeadraceError: they are not, or it is not.
    """
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise HeadraceError("Two columns have one name.", where=where, value=", ".join(map(repr, twice)))
    for field, wanted in (("key", key_columns(spec.key)), ("types", list(spec.types))):
        for name in wanted:
            if name not in columns:
                near = [column for column in columns if column.strip().lower() == name.lower()]
                near = near or difflib.get_close_matches(name, columns, 1, 0.6)
                raise HeadraceError(
                    f"`{field}` names a column that does not exist.",
                    where=where,
                    value=name,
                    allowed=shorten(", ".join(columns)),
                    hint=f"Did you mean {near[0]!r}?" if near else "Check `delimiter` and `header`.",
                )


def _columns(first_row: list[str], spec: CsvSource, where: str) -> list[str]:
    if spec.columns is not None and len(first_row) != len(spec.columns):
        raise HeadraceError(
            f"`columns` names {len(spec.columns)} columns and the file's first row has {len(first_row)}.",
            where=where,
            value=", ".join(first_row),
            hint="Check `delimiter` and `columns`.",
        )
    return spec.columns or first_row


def _fields(row: bytes, spec: CsvSource, encoding: str, where: str) -> list[str]:
    quote = spec.quote.encode()
    quoted = bool(quote) and quote in row
    try:
        text = row.decode(encoding)
        if spec.delimiter == "whitespace":
            text = collapse_blanks(text.encode(), quote, quoted).decode()
        lines = io.StringIO(text, newline="")
        delimiter = "\t" if spec.delimiter == "whitespace" else spec.delimiter
        if quoted:
            return next(csv.reader(lines, delimiter=delimiter, quotechar=spec.quote))
        return next(csv.reader(lines, delimiter=delimiter, quotechar=None, quoting=csv.QUOTE_NONE))
    except UnicodeDecodeError as error:
        raise HeadraceError(
            "The first row is in another encoding.",
            where=where,
            value=repr(row),
            allowed=encoding,
            hint=str(error),
        ) from None
    except csv.Error as error:
        raise HeadraceError(
            "The first row cannot be parsed.", where=where, value=repr(row), hint=str(error)
        ) from None


def _starts_with_bom(read: Read) -> bool:
    head = b""
    while len(head) < len(codecs.BOM_UTF8) and (piece := read(len(codecs.BOM_UTF8) - len(head))):
        head += piece
    return head == codecs.BOM_UTF8
