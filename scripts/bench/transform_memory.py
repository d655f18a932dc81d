#!/usr/bin/env python3
"""Peak memory of the largest process of a tf-transform job with a large vocabulary: does it grow with the data?

A table of 20 columns (a key, a word, 18 numbers) is made in Parquet; the job numbers the word and scales the
numbers. Needs the environment of `scripts/install --transform`.

Examples:
  .venv-transform/bin/python scripts/bench/transform_memory.py          1 M words; 1, 3 and 10 M rows: 3 GB of disk
  .venv-transform/bin/python scripts/bench/transform_memory.py --rows 200000 400000 --words 100000
"""

from __future__ import annotations

import statistics
from pathlib import Path

import common
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_CHUNK = 250_000
_NUMBERS = 18
_JOB = """
name: words
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: parquet, path: "${data}", key: id}}
features:
  word: {type: text}
FEATURES
write: {shard_size: 64MB}
transform:
  features:
    word: {type: vocabulary, oov_buckets: 1}
STEPS
"""


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--rows", nargs="+", type=int, default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--words", type=int, default=1_000_000, help="different ones (default: 1000000)")
    parser.add_argument("--keep", action="store_true", help="keep the data for the next run")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    job = args.work / "transform_memory.yaml"
    names = [f"n{number:02d}" for number in range(_NUMBERS)]
    features = "\n".join(f"  {name}: {{type: float32}}" for name in names)
    steps = "\n".join(f"    {name}: {{type: z_score}}" for name in names)
    job.write_text(_JOB.replace("FEATURES", features).replace("STEPS", steps), "utf-8")
    runs: list[common.Run] = []
    peaks: dict[int, float] = {}
    for rows in args.rows:
        data = _make(args.work / f"words-{rows}-{args.words}.parquet", rows, args.words)
        output = args.work / "out" / "transform-memory"
        command = [
            common.headrace(),
            "run",
            job,
            "--var",
            f"data={data.resolve()}",
            "--out",
            output.resolve(),
        ]
        for _ in range(args.rounds):
            run = common.Contender(f"{rows} rows", command, output=output).run(interval=0.05)
            common.note(f"{rows:>10,} rows: {run.process_mb:.0f} MB, {run.wall_seconds:.0f} s")
            runs.append(run)
            peaks[rows] = max(peaks.get(rows, 0.0), run.process_mb or 0.0)
        if not args.keep:
            data.unlink()
    mean = statistics.mean(peaks.values())
    spread = 100 * max(abs(value - mean) for value in peaks.values()) / mean
    goals = [
        common.Goal("peak RSS of the largest process", max(peaks.values()), 1500, at_least=False, unit="MB"),
        common.Goal("spread around the mean, +-", round(spread, 1), 15, at_least=False, unit="%"),
    ]
    common.report(args, runs, goals, peak_rss_mb=peaks)


def _make(file: Path, rows: int, words: int) -> Path:
    if file.exists():
        return file
    random = np.random.default_rng(0)
    types = {"id": pa.int64(), "word": pa.string()} | {f"n{n:02d}": pa.float32() for n in range(_NUMBERS)}
    schema = pa.schema(types)
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            # Every word once, in the beginning; then by chance.
            places = np.arange(start, start + count)
            places = np.where(places < words, places, random.integers(0, words, count))
            columns = [
                pa.array(np.arange(start, start + count)),
                pa.array([f"word {p:07d}" for p in places.tolist()]),
            ]
            columns += [pa.array(random.normal(size=count).astype(np.float32)) for _ in range(_NUMBERS)]
            writer.write_table(pa.table(columns, schema=schema))
    return file


if __name__ == "__main__":
    main()
