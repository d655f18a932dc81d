#!/usr/bin/env python3
"""Let every request that a job makes to an object store fail once, and run the job again.

The way in which a request fails goes round with its number: 500, 503, a connection that breaks before, after or in the
answer, 403; with --gone, all from that request on are refused. Each must end in a clear error, or be survived; the
version before stays as it is, none is half there, and the job run again gives the bytes that it gives without a fault.

Examples:
  python scripts/soak/buckets.py gcs              every request: half an hour
  python scripts/soak/buckets.py s3 --gone --step 10
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers import emulator
from tests.store.one_request import WAYS, BadRequest, bench, check_request


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("kind", choices=["gcs", "s3"])
    parser.add_argument("--gone", action="store_true", help="refuse all requests from the one on")
    parser.add_argument("--first", type=int, default=1, help="the first that fails (default: 1)")
    parser.add_argument("--step", type=int, default=1, help="of the requests only every so many")
    args = parser.parse_args()
    ended: Counter[str] = Counter()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-requests-") as folder,
        emulator(args.kind) as port,
        bench(Path(folder), args.kind, port) as made,
    ):
        print(f"{args.kind}: {made.requests} requests", flush=True)
        for number in range(args.first, made.requests + 1, args.step):
            way = "403" if args.gone else WAYS[number % len(WAYS)]
            bad = BadRequest(number, way, args.gone)
            try:
                what = check_request(made, bad)
                ended["clear error" if what.endswith("1") else "done all the same"] += 1
            except Exception as error:  # anything that is wrong is told, and the others are done
                what = f"FAILED {type(error).__name__} {error}"
                ended["failed"] += 1
            print(f"{number:5} {what}", flush=True)
    print(json.dumps({"seconds": round(time.monotonic() - started), **ended}))
    sys.exit(bool(ended["failed"]))


if __name__ == "__main__":
    main()
