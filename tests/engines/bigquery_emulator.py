"""BigQuery's REST and Storage Read APIs on loopback: `bqemulator`, without extensions that it would download.

They are for geography, Parquet in buckets and the like, of which nothing is used here.
"""

from __future__ import annotations

import sys

from bqemulator.cli import main
from bqemulator.storage.engine import DuckDBEngine

for name in ("_load_spatial", "_load_format_extensions"):
    setattr(DuckDBEngine, name, lambda _engine: None)

if __name__ == "__main__":
    sys.exit(main())
