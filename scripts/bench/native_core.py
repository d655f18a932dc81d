#!/usr/bin/env python3
"""The loader with its native core and without, over the same prepared data sets, in turn: the batches are the same.

Examples:
  python scripts/bench/native_core.py out/photos/1.0.0 out/trips/1.0.0
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from loader import load, native
from loader.loader import Loader

IMAGE: dict[str, Any] = {"features": "image", "image_size": 224}
CASES: dict[str, dict[str, Any]] = {
    "raw": {"features": "label"},
    "center": {**IMAGE, "resize": "center"},
    "random": {**IMAGE, "augment": True, "normalize": "imagenet"},
    "table": {"batch_size": 1024},
}


def epoch(loader: Loader, size: int) -> tuple[float, float]:
    """Examples a second, and microseconds of processor time an example."""
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    for _ in loader:
        count += size
    return count / (time.perf_counter() - wall), (time.process_time() - cpu) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", help="a prepared data set of JPEGs with a label")
    parser.add_argument("table", help="a prepared table")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = {"core": native.require(), "without": None}
    for case, options in CASES.items():
        options = {"batch_size": 64, **options}  # noqa: PLW2901
        runs: dict[str, list[tuple[float, float]]] = {way: [] for way in cores}
        loaders: dict[str, Loader] = {}
        for turn in range(args.rounds + 1):
            for way, core in cores.items():
                native.core = core
                if way not in loaders:
                    loaders[way] = load(args.table if case == "table" else args.images, **options)
                found = epoch(loaders[way], options["batch_size"])
                if turn:  # the first is not counted
                    runs[way].append(found)
        speed, cpu = (
            {w: statistics.median(r[k] for r in found) for w, found in runs.items()} for k in (0, 1)
        )
        print(
            f"{case:<8} {speed['core']:>9,.0f} examples/s, {cpu['core']:6.2f} µs of processor; without the core "
            f"{speed['without']:>9,.0f}, {cpu['without']:6.2f}: {speed['core'] / speed['without']:.2f} x"
        )


if __name__ == "__main__":
    main()
