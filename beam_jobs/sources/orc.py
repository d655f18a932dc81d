"""Rows of ORC files, of which only the columns that are asked for are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from beam_jobs.sources._columnar.chunks import Chunk, Columnar, Layout, Part
from beam_jobs.sources._columnar.data_files import DataFile
from beam_jobs.sources._columnar.orc_reader import OrcReader, open_orc
from beam_jobs.sources._columnar.plain import Leaf

_NUMBER_BYTES = 8
_looking = threading.Semaphore(2)  # files at a time: each is a process


class Orc(Columnar):
    """Rows of ORC files in partitions of stripes, each of which is held whole."""

    suffixes = (".orc",)
    chunk_name = "stripe"

    def layout(self, file: DataFile, version: Any) -> Layout:
        """The file's schema, and how many rows each stripe has, for which one column of it is read."""
        with _looking, self.reading(file), file.open() as raw, open_orc(raw) as orc:
            leaves = self.wanted(orc.schema, file)
            stripes = range(orc.stripes if version else 0)
            counts = [orc.count(number, _fields(leaves, orc)[:1]) for number in stripes]
        if version is None:
            return Layout(leaves, [])
        digest = file.digest(version)
        share = version[0] / max(1, sum(counts))
        chunks = [Chunk(rows, int(rows * max(share, _NUMBER_BYTES * len(leaves))), digest) for rows in counts]
        return Layout(leaves, chunks)

    def chunks(self, file: DataFile, part: Part) -> Iterator[pa.RecordBatch]:
        """The part's stripes."""
        with file.open() as raw, open_orc(raw, (file, part.digest)) as orc:
            fields = _fields(self.wanted(orc.schema, file), orc)
            left = part.rows
            for number in range(part.start, part.end):
                for records in orc.read(number, fields, part.skip, left):
                    left -= records.num_rows
                    yield records


def _fields(leaves: dict[str, Leaf], orc: OrcReader) -> list[str]:
    """The columns that the leaves are made of, or the first where there are none."""
    return list(dict.fromkeys(leaf.path[0] for leaf in leaves.values())) or [orc.schema.names[0]]
