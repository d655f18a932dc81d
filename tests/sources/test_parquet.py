from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.sources._columnar.chunks import Part
from beam_jobs.sources.parquet import Parquet

from .columnar import ColumnarSuite, RemoteSuite, every_byte_flipped, open_columnar


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


def test_every_byte_of_a_footer(tmp_path: Path) -> None:
    """Some of them end the process if pyarrow is asked for what the footer says: see `_parquet_reader.read_footer`."""
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": ["x", None]}), file, store_schema=False)
    length = int.from_bytes(file.read_bytes()[-8:-4], "little")
    start = file.stat().st_size - length - 8
    said = every_byte_flipped(file, lambda: open_columnar("parquet", file), start)
    assert "A file cannot be read as parquet." in said


def test_only_large_texts_are_read_as_dictionaries(tmp_path: Path) -> None:
    table = pa.table(
        {
            "short": [f"text {i}" for i in range(50)],
            "long": ["x" * (1 << 20)] * 50,
            "unknown": [None] * 40 + ["x" * (1 << 20)] * 10,  # the dictionary comes with the first value
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=["short", "long", "unknown"])
    source = open_columnar("parquet", tmp_path)
    assert isinstance(source, Parquet)
    (file, *_), *_ = source._layouts(whole=True)
    part = Part(*source.partitions()[0].payload["part"])
    batch = next(source.chunks(file, part))
    assert [pa.types.is_dictionary(column.type) for column in batch.columns] == [False, True, True]
