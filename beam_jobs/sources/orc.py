"""Rows of ORC files, of which only the columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow.orc import ORCFile

from beam_jobs.sources._columnar.chunks import Chunk, Columnar, Layout, Part, rows_between
from beam_jobs.sources._columnar.data_files import DataFile
from beam_jobs.sources._columnar.plain import Leaf

_NUMBER_BYTES = 8


class Orc(Columnar):
    """Rows of ORC files in partitions of stripes, each of which is held whole."""

    suffixes = (".orc",)
    chunk_name = "stripe"

    def layout(self, file: DataFile, version: Any) -> Layout:
        """The file's schema, and how many rows each stripe has, for which one column of it is read."""
        with self.reading(file), file.open_arrow() as source:
            orc = ORCFile(source)
            leaves = self.wanted(orc.schema, file)
            stripes = range(orc.nstripes if version else 0)
            counts = [
                orc.read_stripe(number, columns=_fields(leaves, orc)[:1]).num_rows for number in stripes
            ]
        if version is None:
            return Layout(leaves, [])
        digest = file.digest(version)
        share = version[0] / max(1, sum(counts))
        chunks = [Chunk(rows, int(rows * max(share, _NUMBER_BYTES * len(leaves))), digest) for rows in counts]
        return Layout(leaves, chunks)

    def chunks(self, file: DataFile, part: Part) -> Iterator[pa.RecordBatch]:
        """The part's stripes."""
        with file.open_arrow() as source:
            orc = ORCFile(source)
            fields = _fields(self.wanted(orc.schema, file), orc)
            stripes = (orc.read_stripe(number, columns=fields) for number in range(part.start, part.end))
            yield from rows_between(stripes, part.skip, part.rows)


def _fields(leaves: dict[str, Leaf], orc: ORCFile) -> list[str]:
    """The columns that the leaves are made of, or the first where there are none."""
    return list(dict.fromkeys(leaf.path[0] for leaf in leaves.values())) or [orc.schema.names[0]]
