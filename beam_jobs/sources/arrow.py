"""Rows of Arrow files: the IPC file format, of which Feather is another name, and IPC streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from beam_jobs.sources._columnar.chunks import Chunk, Columnar, Layout, Part, rows_between
from beam_jobs.sources._columnar.data_files import DataFile
from beam_jobs.sources._columnar.plain import Leaf, as_binary

_FILE, _FEATHER_1 = b"ARROW1", b"FEA1"
_NUMBER_BYTES = 8


class Arrow(Columnar):
    """Rows of Arrow files in partitions of record batches, each of which is held whole.

    A stream does not say where its batches lie: it is one chunk, and parts of it are found by reading over the rest.
    """

    suffixes = (".arrow", ".feather", ".ipc", ".arrows")
    chunk_name = "record batch"

    def layout(self, file: DataFile, version: Any) -> Layout:
        """The file's schema, and how many rows each batch has, for which one column of it is read."""
        with self.reading(file), file.open_arrow() as source:
            leaves = self.wanted(_schema(source), file)
        if version is None:
            return Layout(leaves, [])
        with self.reading(file), file.open_arrow() as source:
            counts = [batch.num_rows for batch in _batches(source, _fields(leaves)[:1])]
            if not _is_file(source):
                counts = [sum(counts)]
        digest = file.digest(version)
        # What a batch takes in memory is known once it is there; dictionaries and compression make it more.
        share = version[0] / max(1, sum(counts))
        chunks = [Chunk(rows, int(rows * max(share, _NUMBER_BYTES * len(leaves))), digest) for rows in counts]
        return Layout(leaves, chunks)

    def chunks(self, file: DataFile, part: Part) -> Iterator[pa.RecordBatch]:
        """The part's record batches, checked: pyarrow believes what a file says of itself."""
        with file.open_arrow() as source:
            leaves = self.wanted(_schema(source), file)
        with file.open_arrow() as source:
            numbers = range(part.start, part.end) if _is_file(source) else None
            batches = _batches(source, _fields(leaves), numbers)
            yield from map(_checked, rows_between(batches, part.skip, part.rows))


def _fields(leaves: dict[str, Leaf]) -> list[str]:
    return list(dict.fromkeys(leaf.path[0] for leaf in leaves.values()))


def _is_file(source: pa.NativeFile) -> bool:
    source.seek(0)
    magic = source.read(len(_FILE))
    source.seek(0)
    if magic.startswith(_FEATHER_1):
        raise pa.ArrowInvalid("it is Feather of version 1; write it anew with a newer pyarrow")
    return bool(magic == _FILE)


def _schema(source: pa.NativeFile) -> pa.Schema:
    if _is_file(source):
        return pa.ipc.open_file(source).schema
    return pa.ipc.open_stream(source).schema


def _batches(
    source: pa.NativeFile, fields: list[str], numbers: range | None = None
) -> Iterator[pa.RecordBatch]:
    """Record batches of a file, all or those of the numbers, with these fields, or the first where there are none."""
    schema = _schema(source)
    places = [schema.get_field_index(name) for name in fields] or [0]
    options = pa.ipc.IpcReadOptions(included_fields=places, use_threads=False)
    if _is_file(source):
        reader = pa.ipc.open_file(source, options=options)
        for number in range(reader.num_record_batches) if numbers is None else numbers:
            yield reader.get_batch(number)
    else:
        yield from pa.ipc.open_stream(source, options=options)


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, once its offsets and the like are known to be sound; texts may still be no UTF-8."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        for column in batch.columns:
            texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            (as_binary(column) if texts else column).validate(full=True)
    return batch
