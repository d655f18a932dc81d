from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from .columnar import ColumnarSuite, RemoteSuite


def save(table: pa.Table, file: Path, **options: Any) -> None:
    pq.write_table(table, file, compression="none", write_statistics=False, use_dictionary=False, **options)


class TestParquet(ColumnarSuite):
    kind = "parquet"
    suffix = ".parquet"

    def save(self, table: pa.Table, file: Path) -> None:
        save(table, file)


class TestRemoteParquet(RemoteSuite, TestParquet):
    """The same behind fsspec."""


class TestRowGroups(TestParquet):
    """Several row groups a file, and keys made of row numbers."""

    options: ClassVar[dict[str, Any]] = {"partition_bytes": 500}

    def save(self, table: pa.Table, file: Path) -> None:
        save(table, file, row_group_size=3)
