from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.orc

from .columnar import ColumnarSuite, RemoteSuite


class TestOrc(ColumnarSuite):
    kind = "orc"
    suffix = ".orc"

    def save(self, table: pa.Table, file: Path) -> None:
        pa.orc.write_table(table, file)


class TestRemoteOrc(RemoteSuite, TestOrc):
    """The same behind fsspec."""
