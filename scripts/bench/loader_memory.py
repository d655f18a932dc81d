#!/usr/bin/env python3
"""Memory of the loader over several epochs: flat, and no more than what it says that it holds.

Prints the largest resident set of each epoch, above that of the process before `load`, and beside it the sum that
DESIGN.md gives for what is held on purpose, with what a loader of a single batch takes, which is TensorFlow's graph,
threads and code. What the process holds beyond both is freed memory that the C library keeps for later. Images are
cropped at random, resized to 224 x 224 and mirrored; tables are read whole.

Examples:
  python scripts/bench/loader_memory.py out/photos/1.0.0 out/trips/1.0.0
  python scripts/bench/loader_memory.py out/photos/1.0.0 --epochs 10 --json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from loader import load
from loader.images import images
from loader.loader import Loader
from loader.plan import Plan
from loader.read import KEPT_BYTES
from loader.work import divide
from schemas import read_manifest

MB = 1e6


class Peak:
    """The largest resident set since the last look, sampled every 10 ms."""

    def __init__(self) -> None:
        self._most = resident()
        threading.Thread(target=self._watch, daemon=True).start()

    def look(self) -> int:
        """Bytes; the next look begins anew."""
        most, self._most = max(self._most, resident()), 0
        return most

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, resident())
            time.sleep(0.01)


def resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make(directory: str, batch_size: int, split: str = "train") -> Loader:
    pixels = any(feature.type == "image" for feature in read_manifest(directory).features.values())
    more: dict[str, Any] = {"image_size": 224, "augment": True} if pixels else {}
    return load(directory, split, batch_size=batch_size, **more)


def held(loader: Loader, batch: int) -> dict[str, int]:
    """Bytes that the loader holds on purpose, at most: the formula of DESIGN.md. `batch` is the size of one."""
    recipe = loader._recipe
    work, plan, records = divide(recipe), recipe.order, recipe.order.count(0)
    assert isinstance(plan, Plan)
    encoded = work.chunk * recipe.mean_bytes
    columns = encoded if not images(recipe) else 0
    pixels = sum(math.prod(n or 0 for n in f.stored_shape) for f in images(recipe).values())
    return {
        # What was read of a chunk, its columns as arrays, and as the tensors made of them.
        "chunks being read": work.reads * (encoded + 2 * columns),
        # What was read with a record of a block and has not been asked for yet.
        "blocks": min(KEPT_BYTES, recipe.mean_bytes * records) if plan.block > 1 else 0,
        # No more of a stored image than is wanted, a thread each.
        "images being decoded": recipe.workers * pixels,
        "batches being filled": work.reads * batch,
        # What is ready, what the consumer has, and the one on its way there.
        "batches made ahead": (recipe.prefetch + 2) * batch,
        "index, 8 bytes a record": 8 * records,
        "order, 8 bytes a block of 2 epochs": 2 * 8 * -(-records // plan.block),
        "windows, 8 bytes a record of 4": 4 * 8 * min(records, plan.window_records) if plan.block > 1 else 0,
    }


def measure(directory: str, batch_size: int, epochs: int) -> dict[str, Any]:
    tf.reduce_sum(tf.zeros([8])).numpy()  # TensorFlow's own start
    peak = Peak()
    base = peak.look()
    small = make(directory, batch_size, f"train[:{batch_size}]")
    list(small)
    itself = resident() - base
    loader = make(directory, batch_size)
    found, batch = [], 0
    for _ in range(epochs):
        steps = 0
        for elements in loader:
            if not batch:
                flat = tf.nest.flatten(elements, expand_composites=True)
                batch = sum(
                    int(np.sum(tf.strings.length(x)))
                    if x.dtype == tf.string
                    else x.dtype.size * int(tf.size(x))
                    for x in flat
                )
            steps += 1
        found.append({"steps": steps, "peak_bytes": peak.look() - base, "end_bytes": resident() - base})
    parts = held(loader, batch)
    return {
        "base_bytes": base,
        "loader_bytes": itself,
        "batch_bytes": batch,
        "epochs": found,
        "held": parts,
        "held_bytes": sum(parts.values()),
        "growth_bytes": max(e["peak_bytes"] for e in found[1:]) - found[0]["peak_bytes"] if epochs > 1 else 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="prepared data sets with a split train")
    parser.add_argument("--batch-size", type=int, default=64, help="(default: 64)")
    parser.add_argument("--epochs", type=int, default=5, help="(default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each data set")
    args = parser.parse_args()
    if len(args.directories) > 1:
        # Each in a process of its own, as memory that one has freed is not given back.
        options = ["--batch-size", str(args.batch_size), "--epochs", str(args.epochs)]
        for directory in args.directories:
            command = [sys.executable, __file__, directory, *options, *["--json"] * args.json]
            subprocess.run(command, check=True)
        return
    found = measure(args.directories[0], args.batch_size, args.epochs)
    if args.json:
        print(json.dumps({"directory": args.directories[0], **found}))
        return
    print(f"{args.directories[0]}, batches of {args.batch_size}: {found['batch_bytes'] / MB:.1f} MB each")
    print(f"  before load {found['base_bytes'] / MB:8.1f} MB, TensorFlow's own; below is what comes on top")
    for number, epoch in enumerate(found["epochs"]):
        print(
            f"  epoch {number:<5} {epoch['peak_bytes'] / MB:8.1f} MB at most, {epoch['end_bytes'] / MB:8.1f} MB "
            f"at its end, {epoch['steps']} steps"
        )
    print(f"  growth beyond the first epoch's peak {found['growth_bytes'] / MB:+.1f} MB")
    for name, size in found["held"].items():
        if size:
            print(f"  {name:<36} {size / MB:8.1f} MB")
    print(f"  {'held on purpose, at most':<36} {found['held_bytes'] / MB:8.1f} MB")
    print(f"  {'a loader of one batch':<36} {found['loader_bytes'] / MB:8.1f} MB")


if __name__ == "__main__":
    main()
