from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fastavro
import pyarrow as pa

from .columnar import ColumnarSuite, RemoteSuite

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "text", "type": "bytes"},
        {"name": "number", "type": ["null", "int"]},
        {"name": "words", "type": {"type": "array", "items": "long"}},
    ],
}


def save(table: pa.Table, file: Path, **options: Any) -> None:
    """The table with its texts written as the bytes they are, under a schema that says they are texts."""
    texts = table["text"].combine_chunks()
    texts = texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts
    records = table.set_column(1, "text", texts.view(pa.binary())).to_pylist()
    with file.open("wb") as out:
        fastavro.writer(out, SCHEMA, records, sync_marker=bytes(range(16)), **options)
    written = file.read_bytes()
    file.write_bytes(written.replace(b'"name": "text", "type": "bytes"', b'"name":"text", "type": "string"'))


class TestAvro(ColumnarSuite):
    kind = "avro"
    suffix = ".avro"

    def save(self, table: pa.Table, file: Path) -> None:
        save(table, file)


class TestRemoteAvro(RemoteSuite, TestAvro):
    """The same behind fsspec."""


class TestBlocks(TestAvro):
    """Several blocks a file, and keys of two columns."""

    options: ClassVar[dict[str, Any]] = {"key": ["id", "number"], "partition_bytes": 600}

    def save(self, table: pa.Table, file: Path) -> None:
        save(table, file, sync_interval=100)
