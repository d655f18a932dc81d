#!/usr/bin/env python3
"""The loader on a table of 19 columns against three ways of reading the same shards, in rows a second.

Each round reads with every contender in turn, so that a noisy minute hits all of them; medians and the medians of
the rounds' ratios are printed. The loader shuffles over all rows; the others read them as they are stored.

  loader       load(directory, batch_size=…)
  packed       the same on the table prepared with `pack: true`
  bare         TFRecordDataset(files).batch(…).map(parse_example)
  bare packed  the same on the packed table, which gives two vectors and no columns
  per record   TFRecordDataset(files).map(parse_single_example).batch(…)
  tfds         tfds.builder_from_directory(directory).as_dataset(split="train").batch(…)

The table is made and prepared, plain and packed, where --work has none yet.

Examples:
  python scripts/bench/loader_table.py
  python scripts/bench/loader_table.py --batch 256 --rounds 9 --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
from common import JOBS, Goal, ensure, parser

from beam_jobs import load_job, run
from loader import load
from schemas import read_manifest
from schemas.features import Feature
from schemas.packing import stored_features

# Against the loader: how many times as fast it must be.
GOALS = {"bare": 0.9, "per record": 5.0, "tfds": 8.0}


def prepared(work: Path, job: str, rows: int) -> Path:
    """The directory of a prepared table."""
    data = ensure(work / "table.csv", "table", rows, work / "table.csv")
    return Path(run(load_job(JOBS / job, {"data": str(data)}), work / "out" / "loader_table").path)


def parsing(features: Mapping[str, Feature]) -> dict[str, tf.io.FixedLenFeature]:
    """What a person would write by hand."""
    kinds = {"float32": tf.float32, "text": tf.string}
    return {
        name: tf.io.FixedLenFeature(getattr(feature, "shape", ()), kinds.get(feature.type, tf.int64))
        for name, feature in features.items()
    }


def contenders(plain: Path, packed: Path, batch: int) -> dict[str, tf.data.Dataset]:
    """Every way of reading, by name."""
    import tensorflow_datasets as tfds

    def by_hand(directory: Path, *, batched: bool) -> tf.data.Dataset:
        manifest = read_manifest(directory)
        spec = parsing(stored_features(manifest.features, manifest.packed))
        records = tf.data.TFRecordDataset([str(directory / s.path) for s in manifest.splits["train"].shards])
        if batched:
            return records.batch(batch).map(lambda r: tf.io.parse_example(r, spec))
        return records.map(lambda r: tf.io.parse_single_example(r, spec)).batch(batch)

    return {
        "loader": load(plain, batch_size=batch),
        "packed": load(packed, batch_size=batch),
        "bare": by_hand(plain, batched=True),
        "bare packed": by_hand(packed, batched=True),
        "per record": by_hand(plain, batched=False),
        "tfds": tfds.builder_from_directory(plain).as_dataset(split="train").batch(batch),
    }


def read(dataset: tf.data.Dataset, most: int) -> tuple[float, float]:
    """Rows a second, and microseconds of processor time a row, over an epoch or `most` rows."""
    rows, start, cpu = 0, time.perf_counter(), time.process_time()
    for batch in dataset:
        rows += int(tf.nest.flatten(batch)[0].shape[0])
        if rows >= most:
            break
    return rows / (time.perf_counter() - start), (time.process_time() - cpu) / rows * 1e6


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Medians over the rounds, after a first one that is not counted."""
    plain = prepared(args.work, "table.yaml", args.rows)
    packed = prepared(args.work, "table_packed.yaml", args.rows)
    ways = contenders(plain, packed, args.batch)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):
        for name, dataset in ways.items():
            slow = name in ("per record", "tfds")
            found = read(dataset, args.slow_rows if slow else args.rows)
            if turn:
                runs[name].append(found)
    # Round by round, as both had the same noise.
    ratios = {
        name: statistics.median(ours[0] / other[0] for ours, other in zip(runs["loader"], own, strict=True))
        for name, own in runs.items()
        if name != "loader"
    }
    return {
        "rows_per_second": {name: round(statistics.median(r[0] for r in own)) for name, own in runs.items()},
        "cpu_us_per_row": {
            name: round(statistics.median(r[1] for r in own), 2) for name, own in runs.items()
        },
        "loader_times_as_fast_as": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "bytes_per_row": {name: _mean_bytes(path) for name, path in (("loader", plain), ("packed", packed))},
        "load_average": os.getloadavg(),
    }


def _mean_bytes(directory: Path) -> int:
    train = read_manifest(directory).splits["train"]
    return train.bytes // train.records


def main() -> None:
    options = parser(__doc__, rounds=5)
    options.add_argument("--rows", type=int, default=300_000, help="how many to make where there is no table")
    options.add_argument("--batch", type=int, default=1024, help="rows of a batch (default: 1024)")
    options.add_argument(
        "--slow-rows", type=int, default=50_000, help="how many the two slowest read (default: 50000)"
    )
    args = options.parse_args()
    found = measure(args)
    if args.json:
        print(json.dumps(found))
        return
    speeds, cpu = found["rows_per_second"], found["cpu_us_per_row"]
    ratios = found["loader_times_as_fast_as"]
    for name in speeds:  # type: ignore[attr-defined]
        print(f"{name:<14}{speeds[name]:>10,} rows/s{cpu[name]:>8.2f} µs of processor a row")  # type: ignore[index]
    for name, bound in GOALS.items():
        print(Goal(f"loader: times as fast as {name}", ratios[name], bound, at_least=True))  # type: ignore[index]
    print(f"packed: {1 / ratios['packed']:.2f} x the plain table, {found['bytes_per_row']} bytes a row")  # type: ignore[index]


if __name__ == "__main__":
    main()
