"""BigQuery's REST and Storage Read APIs on loopback: `bqemulator`, without extensions that it would download.

They are for geography, Parquet in buckets and the like, of which nothing is used here. Its responses are kept small:
they would hold a tenth of the table, up to 65,536 rows, and what a client holds would grow with them.
"""

from __future__ import annotations

import sys

import pyarrow as pa
from bqemulator.cli import main
from bqemulator.grpc_api import read_servicer
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.streaming.read_session import get_stream_data

ROWS = 10_000  # of a response


def _in_small_parts(session: str, stream: str) -> pa.Table | None:
    table = get_stream_data(session, stream)
    if table is None:
        return None
    return pa.Table.from_batches(table.to_batches(max_chunksize=ROWS), table.schema)


for name in ("_load_spatial", "_load_format_extensions"):
    setattr(DuckDBEngine, name, lambda _engine: None)
read_servicer.get_stream_data = _in_small_parts

if __name__ == "__main__":
    sys.exit(main())
