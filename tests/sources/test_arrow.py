from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.feather

from .columnar import ColumnarSuite, RemoteSuite


class TestFiles(ColumnarSuite):
    kind = "arrow"
    suffix = ".arrow"

    def save(self, table: pa.Table, file: Path) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


class TestRemoteFiles(RemoteSuite, TestFiles):
    """The same behind fsspec."""


class TestStreams(TestFiles):
    """Streams of a few batches each, and keys made of row numbers."""

    options: ClassVar[dict[str, Any]] = {"partition_bytes": 4000}

    def save(self, table: pa.Table, file: Path) -> None:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)


class TestFeather(TestFiles):
    """Feather, compressed as it is by itself."""

    suffix = ".feather"

    def save(self, table: pa.Table, file: Path) -> None:
        pyarrow.feather.write_feather(table, file, compression="lz4", chunksize=3)
