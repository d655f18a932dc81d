"""Reading row groups in parts: a reader that has come to where another part begins goes on from there.

pyarrow finds a row of a row group only by reading all before it. So readers wait here, a few of them, for the parts
that follow; threads that read every other part each come by with a reader of their own.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.sources._columnar.chunks import Part
from beam_jobs.sources._columnar.data_files import DataFile
from beam_jobs.sources._columnar.sizes import BATCH_BYTES, largest_texts

# The oldest times cover 5.8 million years in 96 bits; in nanoseconds, pyarrow's own choice, most would overflow.
OPTIONS: dict[str, Any] = {"coerce_int96_timestamp_unit": "us"}
_BUFFERS_BYTES = 16 << 20  # of all columns, in place of all that a row group has of them
_MIN_BUFFER_BYTES, _MAX_BUFFER_BYTES = 16 << 10, 1 << 20
_MAX_WAITING = 4


@dataclass(frozen=True)
class Wanted:
    """What a reader reads.

    Attributes:
      file: the file.
      version: of its bytes.
      groups: the row groups.
      columns: the stored columns, those below each too.
      rows: how many at a time.
      whole: whether the groups' bytes are fetched at once, in few long requests.
    """

    file: DataFile
    version: Any
    groups: range
    columns: list[str]
    rows: int
    whole: bool


class Footer(NamedTuple):
    """What a file says of its row groups and its columns.

    Attributes:
      metadata: pyarrow's. Its own `schema` is never to be asked for: the two would hold each other, and a few MB of a
        file of many row groups would wait for the collector of cyclic garbage, once for every partition.
      schema: of the rows.
      paths: of the stored columns, such as `column.list.element`.
    """

    metadata: pq.FileMetaData
    schema: pa.Schema
    paths: list[str]


class _FooterOnly(io.RawIOBase):
    """A file that ends at once where it is read once it is shut.

    An exception would do as well, but for the kilobyte that pyarrow loses of each for every column of every row group.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.shut = False
        self.asked = False
        """Whether it was read since."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def read(self, size: int = -1) -> bytes:
        if self.shut:
            self.asked = True
            return b""
        return self._raw.read(size)


def read_footer(file: DataFile) -> Footer:
    """What a file says of its row groups and its columns.

    Asking pyarrow for a column of a row group ends the process where the footer is wrong in itself. Planning to read
    all of them comes by the same checks, but as an error; so that is done first, as far as the first byte of a page.
    """
    with file.open() as raw:
        footer = _FooterOnly(raw)
        with pa.PythonFile(footer, mode="r") as source:
            parquet = pq.ParquetFile(source, pre_buffer=True, **OPTIONS)
            found = Footer(parquet.metadata, parquet.schema_arrow, column_paths(parquet))
            footer.shut = True
            try:
                groups = list(range(found.metadata.num_row_groups))
                next(parquet.iter_batches(1, row_groups=groups, use_threads=False), None)
            except OSError:
                if not footer.asked:
                    raise
    return found


def column_paths(parquet: pq.ParquetFile) -> list[str]:
    """The stored columns, such as `column.list.element`; asking pyarrow's metadata would leave garbage."""
    return [".".join(path) for path in parquet.reader.column_paths]


class _Reader:
    """The rows of row groups from the first on, of which some were taken."""

    def __init__(self, wanted: Wanted, texts: list[str]) -> None:
        self.wanted = wanted
        self.position = 0
        self._open = ExitStack()
        source = self._open.enter_context(wanted.file.open_arrow())
        share = _BUFFERS_BYTES // max(1, len(wanted.columns))
        buffer = min(_MAX_BUFFER_BYTES, max(_MIN_BUFFER_BYTES, share))
        # Said aloud: by itself pyarrow fetches whole row groups, of any size, and keeps them while they are read.
        how = {"pre_buffer": wanted.whole} | ({} if wanted.whole else {"buffer_size": buffer})
        parquet = pq.ParquetFile(source, read_dictionary=texts, **how, **OPTIONS)
        metadata = parquet.metadata
        self.total = sum(metadata.row_group(group).num_rows for group in wanted.groups)
        # Rows without a column have to be counted by some column.
        columns = wanted.columns or column_paths(parquet)[:1]
        self._batches = parquet.iter_batches(
            wanted.rows, row_groups=list(wanted.groups), columns=columns, use_threads=False
        )
        self._rest: pa.RecordBatch | None = None

    def take(self, skip: int, rows: int) -> Iterator[pa.RecordBatch]:
        """The rows from number `skip` on, which must be ahead."""
        end = skip + rows
        while self.position < end:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            if batch is None:
                return
            low = max(0, skip - self.position)
            own = batch.slice(low, end - self.position - low)
            taken = min(batch.num_rows, end - self.position)
            self._rest = batch.slice(taken) if taken < batch.num_rows else None
            self.position += taken
            if own.num_rows:
                yield own

    def close(self) -> None:
        """Lets the file go."""
        self._open.close()


_waiting: list[_Reader] = []
_lock = threading.Lock()


def read_rows(wanted: Wanted, texts: list[str], part: Part) -> Iterator[pa.RecordBatch]:
    """The rows of a part; those of `texts` whose values are large come as dictionaries."""
    reader = _fetch(wanted, part.skip) or _Reader(wanted, _large(wanted, texts))
    finished = False
    try:
        yield from reader.take(part.skip, part.rows)
        finished = True
    finally:
        if finished and reader.position < reader.total:
            _leave(reader)
        else:
            reader.close()


def _large(wanted: Wanted, texts: list[str]) -> list[str]:
    """Those of the columns of which a batch could be large though its rows are few bytes.

    Each row may be the largest text of the column's dictionary, which comes with its first value. Where that could be
    no 8 MiB, plain texts take less time and memory: pyarrow makes one dictionary of all values of a column that has
    too many for its own. Several row groups are small together, and each has other dictionaries.
    """
    if len(wanted.groups) > 1 or not texts:
        return texts
    with wanted.file.open_arrow() as source:
        how = {"pre_buffer": False, "buffer_size": _MIN_BUFFER_BYTES, **OPTIONS}
        return large_texts(source, wanted.groups[0], wanted.rows, texts, **how)


def large_texts(source: pa.NativeFile, group: int, rows: int, texts: list[str], **how: Any) -> list[str]:
    """Those columns of a row group of which `rows` rows could be more than 8 MiB by the first dictionary of each."""
    parquet = pq.ParquetFile(source, read_dictionary=texts, **how)
    batches = parquet.iter_batches(1, row_groups=[group], columns=texts, use_threads=False)
    first = next(batches, None)
    found = [] if first is None else zip(first.schema.names, first.columns, strict=True)
    largest = dict(each for name, column in found for each in largest_texts(name, column))
    return [text for text in texts if not 0 < largest.get(text, 0) * rows <= BATCH_BYTES]


def _fetch(wanted: Wanted, skip: int) -> _Reader | None:
    """The reader that waits nearest before a row, which is then the caller's own."""
    with _lock:
        fitting = [reader for reader in _waiting if reader.wanted == wanted and reader.position <= skip]
        if not fitting:
            return None
        nearest = max(fitting, key=lambda reader: reader.position)
        _waiting.remove(nearest)
        return nearest


def _leave(reader: _Reader) -> None:
    with _lock:
        _waiting.append(reader)
        oldest = _waiting.pop(0) if len(_waiting) > _MAX_WAITING else None
    if oldest is not None:
        oldest.close()
