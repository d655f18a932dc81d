"""Rows of Parquet files, of which only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.sources._columnar.chunks import Chunk, Columnar, Layout, Part
from beam_jobs.sources._columnar.data_files import DataFile
from beam_jobs.sources._columnar.parquet_reader import Wanted, read_footer, read_rows
from beam_jobs.sources._columnar.plain import Leaf
from beam_jobs.sources._columnar.sizes import BATCH_BYTES
from schemas.hashing import fingerprint

_NUMBER_BYTES = 8
_MAX_BATCH_ROWS = 1 << 16
_MAX_FETCHED_BYTES = 32 << 20  # of a remote file at once


class Parquet(Columnar):
    """Rows of Parquet files in partitions of row groups.

    A part of a large row group follows on from where another part was read to, see `_parquet_reader`.
    """

    suffixes = (".parquet", ".parq", ".pq")
    chunk_name = "row group"

    def layout(self, file: DataFile, version: Any) -> Layout:
        """The file's footer, and a hash of the columns' bytes in each row group."""
        with self.reading(file):
            metadata, schema, paths = read_footer(file)
            leaves = self.wanted(schema, file)
            places = _places(paths, leaves)
            stored = fingerprint([[name, leaf.stored] for name, leaf in leaves.items()])
            groups = [
                metadata.row_group(number) for number in range(metadata.num_row_groups if version else 0)
            ]
            chunks = [
                Chunk(
                    group.num_rows,
                    sum(_decoded(group.column(place)) for place in places),
                    fingerprint(stored, _digest(file, version, [group.column(place) for place in places])),
                )
                for group in groups
            ]
        return Layout(leaves, chunks)

    def chunks(self, file: DataFile, part: Part) -> Iterator[pa.RecordBatch]:
        """The row groups of the part, a few thousand rows at a time."""
        metadata, schema, paths = read_footer(file)
        leaves = self.wanted(schema, file)
        groups = range(part.start, part.end)
        places = _places(paths, leaves)
        size = sum(_stored(metadata.row_group(group), places) for group in groups)
        whole = not file.local and size <= _MAX_FETCHED_BYTES
        wanted = Wanted(file, file.version(), groups, _prefixes(leaves), _batch_rows(part), whole)
        first = metadata.row_group(part.start)
        texts = [paths[place] for place in places if _is_text(first.column(place))]
        yield from read_rows(wanted, texts, part)


def _stored(group: pq.RowGroupMetaData, places: list[int]) -> int:
    return sum(group.column(place).total_compressed_size for place in places)


def _batch_rows(part: Part) -> int:
    """Rows of 8 MiB: a power of two, so that all parts of a row group have the same."""
    rows = max(1, part.rows * BATCH_BYTES // max(part.bytes, 1))
    return 1 << min(_MAX_BATCH_ROWS, rows).bit_length() - 1


def _is_text(column: pq.ColumnChunkMetaData) -> bool:
    """Whether it is to be read as the numbers that it is stored as: a text stored once may be every row's."""
    return bool(column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page)


def _prefixes(leaves: dict[str, Leaf]) -> list[str]:
    return list(dict.fromkeys(".".join(leaf.path) for leaf in leaves.values()))


def _places(paths: list[str], leaves: dict[str, Leaf]) -> list[int]:
    """The numbers of the stored columns that the leaves are made of."""
    prefixes = tuple(_prefixes(leaves))
    below = tuple(prefix + "." for prefix in prefixes)
    return [place for place, path in enumerate(paths) if path in prefixes or path.startswith(below)]


def _decoded(column: pq.ColumnChunkMetaData) -> int:
    """About how many bytes a column of a row group takes in memory."""
    numbers = max(0, column.num_values) * _NUMBER_BYTES
    texts = column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
    return numbers + (max(0, column.total_uncompressed_size) if texts else 0)


def _digest(file: DataFile, version: Any, columns: list[pq.ColumnChunkMetaData]) -> str:
    """A hash of what the file holds of columns of a row group."""
    facts = [[c.path_in_schema, c.physical_type, c.compression, c.num_values] for c in columns]
    ranges = []
    for column in columns:
        start = column.data_page_offset
        if column.has_dictionary_page:
            start = min(start, column.dictionary_page_offset)
        end = start + column.total_compressed_size
        if not 0 <= start <= end <= version[0]:
            raise ValueError(f"the footer puts column {column.path_in_schema!r} at bytes {start} to {end}")
        ranges.append((start, end))
    return fingerprint(file.digest(version, ranges), facts)
