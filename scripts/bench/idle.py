#!/usr/bin/env python3
"""How long training waits for data, with a simulated accelerator that takes a fixed time for each batch.

Images are cropped at random, resized to 224 x 224 and mirrored; tables are read whole. The step is a sleep, as an
accelerator leaves the processors free. It is 50 ms, or where these processors cannot feed that, the shortest that
they sustain: half as long again as a batch took to make in a first run. Waits are timed here, around `next`, by the
clock of the one who waits.

Examples:
  python scripts/bench/idle.py out/photos/1.0.0 out/trips/1.0.0
  python scripts/bench/idle.py out/photos/1.0.0 --step-ms 50 --batch-size 32 --seconds 60 --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from loader import load
from loader.loader import Loader
from schemas import read_manifest

SPARE = 1.5  # a step must be this much longer than a batch takes to make, or noise alone makes it wait
WARM = 10  # batches before it counts


def make(directory: str, batch_size: int) -> tuple[Loader, str]:
    images = any(feature.type == "image" for feature in read_manifest(directory).features.values())
    more: dict[str, Any] = {"image_size": 224, "augment": True} if images else {}
    what = "random crop to 224, mirrored" if images else "all columns"
    return load(directory, "train", batch_size=batch_size, repeat=True, **more), what


def train(loader: Loader, step: float, seconds: float) -> dict[str, Any]:
    """Steps for some seconds; what was waited for meanwhile."""
    batches = iter(loader)
    for _ in range(WARM):
        next(batches)
        time.sleep(step)
    waits, cpu, start = [], time.process_time(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
        time.sleep(step)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    steps, waited = len(waits), sum(waits)
    return {
        "steps": steps,
        "waited_seconds": round(waited, 4),
        "total_seconds": round(wall, 4),
        "waited_share": waited / wall,
        "p50_ms": 1000 * statistics.median(waits),
        "p90_ms": 1000 * sorted(waits)[int(0.9 * steps)],
        "max_ms": 1000 * max(waits),
        "processors_used": cpu / wall,
        "examples_per_second": steps * (loader.batch_size or 1) / wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="prepared data sets with a split train")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: 64)")
    parser.add_argument("--step-ms", type=float, default=50.0, help="at least (default: 50)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each data set (default: 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    found = {}
    for directory in args.directories:
        loader, what = make(directory, args.batch_size)
        flat_out = train(loader, 0.0, args.seconds / 4)["examples_per_second"]
        step = max(args.step_ms / 1000, SPARE * args.batch_size / flat_out)
        result = train(loader, step, args.seconds)
        found[directory] = {"step_ms": 1000 * step, "flat_out_examples_per_second": flat_out, **result}
        if args.json:
            continue
        print(f"{directory}: {what}, batches of {args.batch_size}")
        print(f"  flat out   {flat_out:,.0f} examples/s")
        short = "" if step * 1000 <= args.step_ms else f" (these processors cannot feed {args.step_ms:g} ms)"
        print(f"  step       {1000 * step:.1f} ms{short}, {result['steps']} steps")
        print(
            f"  waited     {result['waited_seconds']:.3f} s of {result['total_seconds']:.1f} s: "
            f"{result['waited_share']:.2%} of the time; a step p50 {result['p50_ms']:.2f} ms, "
            f"p90 {result['p90_ms']:.2f} ms, at most {result['max_ms']:.1f} ms"
        )
        print(f"  processors {result['processors_used']:.2f} of {len(os.sched_getaffinity(0))} used")
    if args.json:
        print(json.dumps({"load_average": os.getloadavg(), "data_sets": found}, indent=1))
    else:
        print(f"load average over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
