"""Files of Arrow streams and of Parquet: their schema, the parts that they can be cut into, and their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.sources._batches import BATCH_BYTES
from beam_jobs.sources._columnar.parquet_reader import column_paths, large_texts
from beam_jobs.sources._places.listing import File
from beam_jobs.sources._places.stored import StoredFile
from beam_jobs.sources._sets.ipc import Unit, read_message, walk_stream

# A name that is no UTF-8 is a ValueError, and so is a damaged stream.
_DAMAGED = (ValueError, pa.ArrowException, OSError, EOFError)
_MAX_ROWS = 1 << 16


def schema_of(stored: StoredFile, file: File) -> pa.Schema:
    """The columns of a file.

    Raises:
      HeadraceError: it cannot be read.
    """
    with stored.open() as opened:
        try:
            return pq.read_schema(opened) if _is_parquet(file) else pa.ipc.read_schema(opened)
        except _DAMAGED as error:
            raise stored.unreadable(error) from None


def units_of(stored: StoredFile, file: File) -> tuple[pa.Schema, list[Unit]]:
    """The columns of a file, and its record batches or row groups.

    Raises:
      HeadraceError: it cannot be read.
    """
    with stored.open() as opened:
        try:
            if not _is_parquet(file):
                return walk_stream(opened, file.size)
            with pq.ParquetFile(opened) as parquet:
                groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
                units = [Unit(i, group.total_byte_size, group.num_rows) for i, group in enumerate(groups)]
                return parquet.schema_arrow, units
        except _DAMAGED as error:
            raise stored.unreadable(error) from None


def batches_of(
    stored: StoredFile, file: File, schema: pa.Schema, units: Sequence[Unit]
) -> Iterator[pa.RecordBatch]:
    """The records of some parts of a file. Row groups come in batches of about 8 MiB, record batches as they are.

    Raises:
      HeadraceError: they cannot be read.
    """
    with stored.open() as opened:
        try:
            if not _is_parquet(file):
                for unit in units:
                    yield read_message(opened, unit, schema)
                return
            rows = BATCH_BYTES * sum(unit.rows for unit in units) // max(sum(unit.size for unit in units), 1)
            rows = min(max(rows, 1), _MAX_ROWS)
            whole = pq.ParquetFile(opened)
            how = {"metadata": whole.metadata, "pre_buffer": False}
            for unit in units:
                # A text that is stored once may be every row's: then it is read as the numbers that are stored for it.
                texts = large_texts(opened, unit.place, rows, column_paths(whole), **how)
                parquet = pq.ParquetFile(opened, read_dictionary=texts, **how)
                yield from parquet.iter_batches(rows, row_groups=[unit.place], use_threads=False)
        except _DAMAGED as error:
            raise stored.unreadable(error) from None


def _is_parquet(file: File) -> bool:
    return file.path.endswith(".parquet")
