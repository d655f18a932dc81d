"""Rows of Avro files, in partitions of blocks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from beam_jobs.sources._columnar.avro_blocks import (
    Block,
    Header,
    container,
    read_block,
    read_header,
    unpacked,
)
from beam_jobs.sources._columnar.avro_types import MIXED_UNION, AvroType, avro_fields
from beam_jobs.sources._columnar.chunks import Chunk, Columnar, Layout, Part, rows_between
from beam_jobs.sources._columnar.data_files import DataFile
from beam_jobs.sources._columnar.plain import Leaf
from schemas.errors import HeadraceError

_NUMBER_BYTES = 8
_BUFFER_BYTES = 1 << 20
_ROWS = 4096  # made Python objects of at a time


class Avro(Columnar):
    """Rows of Avro files, of which the blocks between sync marks are cut into partitions.

    Strings need not be UTF-8 to be read; those that are not are faults. Unions of a type and null are that type, and
    unions of numbers the widest of them.
    """

    suffixes = (".avro",)
    chunk_name = "block"

    def layout(self, file: DataFile, version: Any) -> Layout:
        """The file's schema, and a hash of each block; all of the file is read for that, but not unpacked."""
        with self.reading(file), file.open(_BUFFER_BYTES) as source:
            header = read_header(source)
            fields, _ = avro_fields(header.schema)
            leaves = self._leaves(fields, file)
            schema_digest = hashlib.blake2b(header.schema + header.codec.encode(), digest_size=16).digest()
            chunks = []
            while version is not None and (block := read_block(source, header)) is not None:
                digest = hashlib.blake2b(block.data, digest_size=16, key=schema_digest).hexdigest()
                size = max(len(block.data), block.records * _NUMBER_BYTES * len(leaves))
                chunks.append(Chunk(block.records, size, digest, block.offset))
        return Layout(leaves, chunks)

    def chunks(self, file: DataFile, part: Part) -> Iterator[pa.RecordBatch]:
        """The part's blocks."""
        with file.open(_BUFFER_BYTES) as source:
            header = read_header(source)
            fields, schema = avro_fields(header.schema)
            leaves = self._leaves(fields, file)
            wanted = {name: fields[name] for name in dict.fromkeys(leaf.path[0] for leaf in leaves.values())}
            if not wanted:  # rows have to be counted by some column
                wanted = dict([next(iter(fields.items()))])
            source.seek(part.offset)
            blocks = self._blocks(source, header, schema, wanted, part.end - part.start)
            yield from rows_between(blocks, part.skip, part.rows)

    def _leaves(self, fields: dict[str, AvroType], file: DataFile) -> dict[str, Leaf]:
        leaves = self.wanted(pa.schema([(name, type_.kind) for name, type_ in fields.items()]), file)
        return {
            name: leaf._replace(stored=MIXED_UNION) if leaf.type is None else leaf
            for name, leaf in leaves.items()
        }

    def _blocks(
        self, source: BinaryIO, header: Header, schema: str, fields: dict[str, AvroType], count: int
    ) -> Iterator[pa.RecordBatch]:
        for _ in range(count):
            block = read_block(source, header)
            if block is None:
                raise ValueError("the file ends before the block")
            yield from _records(block, unpacked(block, header), schema, fields)


def _records(block: Block, data: bytes, schema: str, fields: dict[str, AvroType]) -> Iterator[pa.RecordBatch]:
    """The records of a block as columns, some thousand at a time."""
    fastavro = _fastavro()
    if block.records > len(data):
        raise ValueError(
            f"the block at byte {block.offset} tells of {block.records} records in {len(data)} bytes"
        )
    try:
        records = iter(
            fastavro.reader(
                io.BytesIO(container(block.records, data, schema)), handle_unicode_errors="backslashreplace"
            )
        )
        while some := list(islice(records, _ROWS)):
            yield pa.RecordBatch.from_arrays(
                [_column(name, type_, some) for name, type_ in fields.items()], names=list(fields)
            )
    except Exception as error:  # damaged data end in all kinds of errors within fastavro
        raise ValueError(f"the block at byte {block.offset}: {str(error) or type(error).__name__}") from error


def _column(name: str, type_: AvroType, records: list[dict[str, Any]]) -> pa.Array:
    values = [record[name] for record in records]
    if type_.convert is not None:
        values = [type_.convert(value) for value in values]
    array = pa.array(values, type_.stored)
    return array if type_.stored.equals(type_.kind) else array.view(type_.kind)


def _fastavro() -> Any:
    try:
        import fastavro
    except ImportError:
        raise HeadraceError(
            "Avro files are read with fastavro, which is not installed.",
            hint="pip install 'headrace[etl,avro]'",
        ) from None
    return fastavro
