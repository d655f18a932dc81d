#!/usr/bin/env python3
"""What statistics cost: jobs with them against the same jobs without, and their memory for 10 M rows of 20 columns.

The jobs are a Parquet table of 19 columns, and images that are kept as they are or decoded in full; in turn, each in a
process of its own. The memory is that of one worker which assembles shards of such a table, one column of which holds a
million different texts: the records are encoded a shard at a time, and the statistics of all are merged at the end.

Examples:
  python scripts/bench/data_statistics.py
  python scripts/bench/data_statistics.py --only parquet --rounds 5
  python scripts/bench/data_statistics.py --only memory --rows 10000000
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import common
import numpy as np
import pyarrow as pa

NAMES = ("parquet", "images_keep", "images_decode", "memory")
_SHARD_ROWS = 1 << 17
_WORDS = 1_000_000


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        _one_job(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = common.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the table whose memory is measured")
    parser.add_argument("--images", type=int, default=13_688, help="how many to make where there are none")
    args = parser.parse_args()
    contenders = []
    for name in args.only:
        if name != "memory":
            contenders += _contenders(name, args.work, args.images)
    runs = common.alternate(contenders, args.rounds)
    table = common.medians(runs)
    goals = []
    for name in dict.fromkeys(run.contender.removesuffix(" without") for run in runs):
        for kind, unit in (("cpu_seconds", "processor time"), ("seconds", "time")):
            share = table[name][kind] / table[f"{name} without"][kind] - 1
            goals.append(common.Goal(f"{name}: {unit} on top of a job without", 100 * share, 25, False, "%"))
    if "memory" in args.only:
        goals += _memory(args.rows)
    common.report(args, runs, goals)


def _contenders(name: str, work: Path, images: int) -> list[common.Contender]:
    if name == "parquet":
        data, job = work / "table.parquet", "table_parquet.yaml"
        table = common.ensure(work / "table.csv", "table", 300_000, work / "table.csv")
        common.ensure(data, "parquet", table, data)
    else:
        data, job = work / "images", f"{name}.yaml"
        common.ensure(data, "images", images, data)
    common.warm(data)
    found = []
    for label, statistics in ((name, "true"), (f"{name} without", "false")):
        file = work / f"{name}-{statistics}.yaml"
        file.write_text((common.JOBS / job).read_text() + f"statistics: {statistics}\n")
        command: list[str | Path] = [sys.executable, __file__, "one", file, data, work / "out_statistics"]
        found.append(common.Contender(label, command, output=work / "out_statistics"))
    return found


def _one_job(job: Path, data: Path, out: Path) -> None:
    from beam_jobs import load_job, run

    def work() -> int:
        manifest = run(load_job(job, {"data": str(data)}), out).manifest
        return sum(split.records for split in manifest.splits.values())

    common.timed(work)


def _memory(rows: int) -> list[common.Goal]:
    """The statistics of a table of 20 columns, shard by shard; seconds of the statistics alone."""
    from beam_jobs.encode import encode_records
    from beam_jobs.statistics.shard import Scan, ShardStatistics
    from schemas.features import Feature, Float32Feature, Int64Feature, TextFeature

    features: dict[str, Feature] = {"word": TextFeature(type="text"), "id": TextFeature(type="text")}
    features |= {f"float_{i}": Float32Feature(type="float32") for i in range(12)}
    features |= {f"int_{i}": Int64Feature(type="int64") for i in range(6)}
    rng = np.random.default_rng(0)
    whole, seconds = ShardStatistics(features, {}), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, rows, _SHARD_ROWS):
        count = min(_SHARD_ROWS, rows - start)
        common_words = np.minimum(rng.zipf(1.2, count), _WORDS) * 7919 % _WORDS
        words = np.where(rng.random(count) < 0.5, common_words, rng.integers(0, _WORDS, count))
        columns = {
            "word": pa.array([f"word {n}" for n in words.tolist()], pa.large_string()).cast(
                pa.large_binary()
            ),
            "id": pa.array([f"row {n}" for n in range(start, start + count)], pa.large_string()).cast(
                pa.large_binary()
            ),
            **{f"float_{i}": pa.array(rng.normal(size=count).astype(np.float32)) for i in range(12)},
            **{f"int_{i}": pa.array(rng.integers(0, 10 ** (2 * i + 1), count)) for i in range(6)},
        }
        records, sizes = encode_records(columns)
        begun = time.process_time()
        scan = Scan(ShardStatistics(features, {}), sizes.astype(np.int64), "bench")
        scan.take([np.frombuffer(records.buffers()[2], np.uint8)])
        whole.merge(scan.statistics.encode())
        seconds += time.process_time() - begun
    results = whole.results()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    estimate = results["word"].distinct
    error = max(f.numbers.rank_error for f in results.values() if f.numbers is not None)
    common.note(
        f"{rows:,} rows: {seconds / rows / len(features) * 1e9:.0f} ns a value; memory before {before / 1e3:.0f} MB; "
        f"distinct words {estimate}; largest rank error {error:.5f}"
    )
    return [
        common.Goal(f"memory: {rows:,} rows, 20 columns", peak / 1e3, 1500, False, "MB"),
        common.Goal("quantiles: largest rank error", 100 * error, 0.25, False, "%"),
    ]


if __name__ == "__main__":
    main()
