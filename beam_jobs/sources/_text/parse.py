"""From the bytes of whole rows to columns, with each row that cannot be used set aside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from beam_jobs.sources._text.rows import Dialect, RowBlock
from beam_jobs.sources._text.text_file import is_utf8
from beam_jobs.sources.base import Fault
from schemas.errors import shorten
from schemas.sources import CsvSource

_RAW_BYTES = 1 << 10
_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class Parsed:
    """Rows of one block.

    Attributes:
      texts: every column as string, n rows.
      records: int64 (n,), number of each row among the block's records, from 0.
      faults: the rest; their `row` counts as `records` does.
    """

    texts: pa.RecordBatch
    records: npt.NDArray[np.int64]
    faults: list[Fault]


def dialect_of(spec: CsvSource) -> Dialect:
    """What tells rows and fields apart."""
    if spec.delimiter == "whitespace":
        return Dialect(b" \t", spec.quote.encode(), b" \t")
    return Dialect(spec.delimiter.encode(), spec.quote.encode())


def parse_block(block: RowBlock, columns: Sequence[str], spec: CsvSource, encoding: str) -> Parsed:
    """The block's records as string columns; undecodable and ragged rows become faults."""
    data, faults = _decode(block, encoding)
    records = np.arange(block.records, dtype=np.int64)
    if faults:
        records = np.delete(records, [fault.row for fault in faults])
    if spec.delimiter == "whitespace":
        data = collapse_blanks(data, spec.quote.encode(), block.quoted)
    ragged: list[Any] = []

    def set_aside(row: Any) -> str:
        ragged.append(row)
        return "skip"

    if len(records):
        texts = _read_csv(data, columns, spec, block.quoted, set_aside)
    else:
        texts = pa.RecordBatch.from_pylist([], pa.schema([(name, pa.string()) for name in columns]))
    if ragged:
        wrong = np.array([row.number - 1 for row in ragged])
        for row, record in zip(ragged, records[wrong], strict=True):
            reason = f"found {row.actual_columns} fields where the header has {row.expected_columns}"
            faults.append(Fault(int(record), "ragged_row", reason, row.text.encode()[:_RAW_BYTES]))
        records = np.delete(records, wrong)
    if len(records) != texts.num_rows:
        raise RuntimeError(f"{len(records)} rows were scanned and {texts.num_rows} parsed")
    return Parsed(texts, records, faults)


def convert(
    texts: pa.RecordBatch, types: Mapping[str, str], nulls: Sequence[str]
) -> tuple[pa.RecordBatch, dict[int, str]]:
    """`texts` with columns converted to `types`, and why for each row that cannot be: it is left out."""
    null_texts = pa.array(nulls, pa.string())
    columns = {name: texts.column(name) for name in texts.schema.names}
    wrong: dict[int, str] = {}
    for name, kind in types.items():
        if kind == "string":
            continue
        trimmed = pc.utf8_trim_whitespace(columns[name])
        # Quotes make a text of "NA", but no number: writers that quote everything quote missing numbers too.
        trimmed = pc.if_else(pc.is_in(trimmed, null_texts), pa.scalar(None, pa.string()), trimmed)
        columns[name], bad = _cast(trimmed, _TYPES[kind])
        for row in bad:
            value = shorten(texts.column(name)[row].as_py(), 80)
            wrong.setdefault(row, f"column {name!r}: {value!r} is no {kind}")
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    if wrong:
        keep = np.ones(batch.num_rows, dtype=bool)
        keep[list(wrong)] = False
        batch = batch.filter(pa.array(keep))
    return batch, wrong


def _cast(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """`texts` as `kind`, null where a cell cannot be, and the rows of those cells: found by halving."""
    try:
        return pc.cast(texts, kind), []
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind), [0]
    half = len(texts) // 2
    left, left_bad = _cast(texts[:half], kind)
    right, right_bad = _cast(texts[half:], kind)
    return pa.concat_arrays([left, right]), left_bad + [row + half for row in right_bad]


def _read_csv(
    data: bytes | memoryview, columns: Sequence[str], spec: CsvSource, quoted: bool, set_aside: Any
) -> pa.RecordBatch:
    options: dict[str, Any] = {
        # One block, so that row numbers in `set_aside` count from its start.
        "read_options": pa.csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=list(columns)
        ),
        "parse_options": pa.csv.ParseOptions(
            delimiter="\t" if spec.delimiter == "whitespace" else spec.delimiter,
            quote_char=spec.quote if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=set_aside,
        ),
        "convert_options": pa.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=spec.nulls,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            check_utf8=False,
        ),
    }
    table = pa.csv.read_csv(pa.py_buffer(data), **options).combine_chunks()
    batches = table.to_batches()
    return (
        batches[0]
        if batches
        else pa.RecordBatch.from_arrays([pa.array([], pa.string())] * len(columns), names=columns)
    )


def _decode(block: RowBlock, encoding: str) -> tuple[bytes | memoryview, list[Fault]]:
    """The block as UTF-8 without the rows that are not in `encoding`, which become faults."""
    plain = is_utf8(encoding)
    try:
        text = str(block.data, encoding)
        return (block.data if plain else text.encode()), []
    except UnicodeDecodeError:
        pass
    good, faults = [], []
    record = -1
    for start, end, blank in zip(
        block.bounds[:-1].tolist(), block.bounds[1:].tolist(), block.blank.tolist(), strict=True
    ):
        if blank:
            continue
        record += 1
        raw = block.data[start:end]
        try:
            good.append(str(raw, encoding).encode())
        except UnicodeDecodeError as error:
            reason = (
                f"byte {error.start} of the row, 0x{raw[error.start]:02x}, is no {encoding}: set `encoding`"
            )
            faults.append(Fault(record, "bad_encoding", reason, bytes(raw[:_RAW_BYTES])))
    return b"".join(good), faults


def collapse_blanks(data: bytes | memoryview, quote: bytes, quoted: bool) -> bytes:
    """Runs of blanks as one tab, none at either end of a line; quoted fields stay as they are."""
    if not quoted:
        text = re.sub(rb"[ \t]+", b"\t", data)
        for end in (b"\n", b"\r"):
            text = text.replace(end + b"\t", end).replace(b"\t" + end, end)
        return text.strip(b"\t")
    field = rb"(?<![^ \t\r\n])" + rb"Q(?:[^Q]|QQ)*Q".replace(b"Q", re.escape(quote))

    def replace(match: re.Match[bytes]) -> bytes:
        if match[0][:1] not in b" \t":
            return match[0]
        start, end = match.span()
        at_edge = start == 0 or data[start - 1] in b"\r\n" or end == len(data) or data[end] in b"\r\n"
        return b"" if at_edge else b"\t"

    return re.sub(field + rb"|[ \t]+", replace, data, flags=re.DOTALL)
