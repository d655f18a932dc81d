#!/usr/bin/env python3
"""What exact, stratified fractions cost: processor time a record, and memory, which must not grow with the records.

Records are made up, 32 bytes each as they are read of runs; each size is counted in a process of its own.

Examples:
  python scripts/bench/exact_splits.py
  python scripts/bench/exact_splits.py --records 1000000 50000000 --strata 1000 --json
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import common
import numpy as np
import numpy.typing as npt

from beam_jobs.fractions import UNIT, find_cuts

_CHUNK = 100_000
_SHARES = [0.8, 0.1, 0.1]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000, 4_000_000, 16_000_000])
    parser.add_argument("--strata", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--here", action="store_true", help="count the first size in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.records[0], args.strata)))
        return
    found = []
    for records in args.records:
        command = [
            sys.executable,
            __file__,
            "--here",
            "--records",
            str(records),
            "--strata",
            str(args.strata),
        ]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for each in found:
        print(
            f"{each['records']:>12,} records  {each['micros']:.2f} µs each  {each['mebibytes']:>4} MiB on top,"
            f" {each['away']:.2f} records from the exact fractions at most"
        )


def measure(records: int, strata: int) -> dict[str, float]:
    counts = np.zeros((strata, len(_SHARES)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    made = sum(len(part) for part in units(records, strata))
    making = time.process_time() - start
    cuts = find_cuts(units(records, strata), made, _SHARES)
    seconds = time.process_time() - start - 2 * making
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for part in units(records, strata):
        np.add.at(counts, (part["stratum"] - 1, cuts.splits(part["position"], part["stratum"])), 1)
    away = np.abs(counts - counts.sum(axis=1, keepdims=True) * np.array(_SHARES)).max()
    return {
        "records": made,
        "micros": seconds / made * 1e6,
        "mebibytes": (peak - before) // 1024,
        "away": float(away),
    }


def units(records: int, strata: int) -> Iterator[npt.NDArray[np.void]]:
    rng = np.random.default_rng(0)
    for _ in range(records // _CHUNK):
        part = np.zeros(_CHUNK, UNIT)
        for name in ("hi", "lo", "position"):
            part[name] = rng.integers(0, 2**64, _CHUNK, np.uint64, endpoint=False)
        part["stratum"] = rng.integers(1, strata + 1, _CHUNK)
        yield part


if __name__ == "__main__":
    main()
