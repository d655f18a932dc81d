#!/usr/bin/env python3
"""What a partition, a file, a record, a shard and a reference cost, and what large data sets would take by that.

Unit costs are differences of small real jobs that differ in one number: processor seconds (on a busy machine the
steadiest), seconds, reads (system calls) and bytes on disk, the least of --rounds. The worked cases multiply them;
what no machine here can measure (latency, prices) is an option. SCALE.md discusses the result.

Examples:
  python scripts/bench/scale.py
  python scripts/bench/scale.py --rounds 1 --read-ms 1 --core-price 0.03
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import common
from cases import Cost, expected_references, print_cases, print_costs, solved

from beam_jobs import load_job, run
from beam_jobs.gather import Deal
from beam_jobs.listing import write_partitions
from beam_jobs.planning import plan_job
from beam_jobs.previous import list_partitions
from beam_jobs.runners import parse_options, run_pipeline
from schemas import read_index

# Each pair: a number that is varied, everything else kept. All runs are small enough to be read at once, and all
# listings larger than what a process remembers of them, 64 partitions.
ROWS, PARTITIONS, SHARDS = (60_000, 200_000), (120, 480), (4, 64)
FILES, FILES_EACH = (28_000, 60_000), (400, 20)
BLOBS, BLOB_BYTES = 400, (20_000, 220_000)
VALUES = (5_000, 205_000)

TABLE = """
name: table
version: 1.0.0
vars: {{data: unset}}
sources: {{rows: {{kind: csv, path: "${{data}}", key: key, partition_bytes: {partition_bytes}}}}}
features: {{a: {{type: int64}}, b: {{type: float32}}, text: {{type: text}}}}
write: {{shards: {shards}}}
"""
FOLDER = """
name: folder
version: 1.0.0
vars: {{data: unset}}
sources: {{files: {{kind: image_folder, path: "${{data}}", include: ["**/*.bin"], partition_files: {partition_files}}}}}
features: {{raw: {{type: bytes, from: image}}}}
write: {{shards: 4}}
"""


def measured(work: Callable[[], Any]) -> Cost:
    """What a call takes."""
    os.sync()
    start, cpu, reads = time.perf_counter(), time.process_time(), _reads()
    work()
    return Cost((time.process_time() - cpu) * 1e6, (time.perf_counter() - start) * 1e6, _reads() - reads)


def _reads() -> int:
    return int(_proc("io")["syscr"])


def _proc(name: str) -> dict[str, str]:
    lines = Path(f"/proc/self/{name}").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


class Bench:
    """Small jobs in a folder of their own, each thing measured `rounds` times."""

    def __init__(self, work: Path, rounds: int) -> None:
        self.work, self.rounds = work, rounds
        self.found: dict[str, Cost] = {}

    def least(self, once: Callable[[], Cost]) -> Cost:
        """The least of all rounds."""
        return Cost.least(once() for _ in range(self.rounds))

    def job(self, text: str, data: Path, **numbers: int) -> Path:
        """The file of a job."""
        file = self.work / "job.yaml"
        file.write_text(text.format(**numbers).replace("unset", str(data)))
        return file

    def run(self, file: Path, *, again: bool = False) -> tuple[Cost, Any]:
        """What a whole job takes, or running it again where it is up to date; bytes of its work directory."""
        kept: list[Any] = []

        def once() -> Cost:
            out = self.work / "out"
            shutil.rmtree(out, ignore_errors=True)
            cost = measured(lambda: kept.append(run(load_job(file), out)))
            if again:
                return measured(lambda: kept.append(run(load_job(file), out)))
            size = sum(path.stat().st_size for path in out.glob("*/.headrace/**/*") if path.is_file())
            return cost.holding(size)

        return self.least(once), kept[-1]

    def tables(self) -> None:
        """Rows, runs, shards, references: five jobs for four numbers and what every job costs."""
        data = {rows: write_table(self.work / f"{rows}.csv", rows) for rows in ROWS}
        jobs = [(ROWS[0], partitions, shards) for partitions in PARTITIONS for shards in SHARDS]
        numbers, whole, indexes, manifests = [], [], [], []
        for rows, partitions, shards in [*jobs, (ROWS[1], PARTITIONS[0], SHARDS[0])]:
            size = -(-data[rows].stat().st_size // partitions)
            cost, result = self.run(self.job(TABLE, data[rows], partition_bytes=size, shards=shards))
            runs = result.partitions
            references = expected_references(runs, shards, rows)
            common.note(f"{rows:,} rows, {runs} runs, {shards} shards, {references:,.0f} references: {result.seconds:.1f} s")  # noqa: E501  # fmt: skip
            numbers.append((1, rows, runs, shards, references))
            whole.append(cost)
            paths = [Path(result.path) / shard.index.path for shard in result.manifest.splits["train"].shards]
            read = self.least(lambda paths=paths: measured(lambda: [read_index(path) for path in paths]))  # type: ignore[misc]
            indexes.append(read.holding(sum(path.stat().st_size for path in paths)))
            manifests.append(Cost(bytes=(Path(result.path) / "manifest.json").stat().st_size))
        job, row, run_, shard, reference = solved(numbers, whole)
        _, index_row, _, index, _ = solved(numbers, indexes)
        self.found |= {
            "job": job.holding(0),
            "row of a table": row,
            "run": run_,
            "shard": shard.holding(solved(numbers, manifests)[3].bytes),
            "reference": reference.holding(0),
            "index, to read": index,
            "record of an index, to read": index_row,
        }

    def folders(self) -> None:
        """Files listed, partitions planned, bytes copied; memory of the driver for the first, else of a whole job."""
        numbers, costs, plans = [], [], []
        for files, each in ((FILES[0], FILES_EACH[0]), (FILES[1], FILES_EACH[0]), (FILES[1], FILES_EACH[1])):
            data = write_files(self.work / f"files{files}", files, 20)
            file = self.job(FOLDER, data, partition_files=each)
            cost, result = self.run(file, again=True)
            peak = min(self.probe("job", file) for _ in range(self.rounds))
            common.note(f"{files:,} files, {result.partitions} partitions: {peak / 1e6:.0f} MB")
            numbers.append((1, files, result.partitions))
            costs.append(cost.holding(peak))
            plans.append(Cost(bytes=min(self.probe("plan", file) for _ in range(self.rounds))))
        _, listed, self.found["partition planned"] = solved(numbers, costs)
        self.found["file listed"] = listed.holding(solved(numbers, plans)[1].bytes)
        blobs = {}
        for size in BLOB_BYTES:
            data = write_files(self.work / f"blobs{size}", BLOBS, size)
            blobs[size], result = self.run(self.job(FOLDER, data, partition_files=50))
            common.note(f"{BLOBS} files of {size:,} bytes: {result.seconds:.1f} s")
        megabytes = [(1, BLOBS * size / 1e6) for size in BLOB_BYTES]
        self.found["MB of files"] = solved(megabytes, [blobs[size] for size in BLOB_BYTES])[1]

    def grouping(self) -> None:
        """Beam's own cost."""
        costs = []
        for values in VALUES:
            peak = min(self.probe("group", values) for _ in range(self.rounds))
            costs.append(self.least(lambda n=values: measured(lambda: group(n))).holding(peak))  # type: ignore[misc]
        value = solved([(1, values) for values in VALUES], costs)[1]
        self.found["value grouped, Beam alone"] = value

    def probe(self, *arguments: object) -> int:
        """Peak memory of a fresh process that does one thing."""
        shutil.rmtree(self.work / "probe", ignore_errors=True)
        command = [sys.executable, __file__, "--probe", *map(str, arguments), str(self.work / "probe")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-4000:]}")
        return int(done.stdout.split()[-1])


def write_table(path: Path, rows: int) -> Path:
    """A table of about 40 bytes a row."""
    lines = (f"{row:08d},{row % 977},{row % 89}.5,text number {row % 1009:04d}\n" for row in range(rows))
    path.write_text("key,a,b,text\n" + "".join(lines))
    return path


def write_files(folder: Path, files: int, size: int) -> Path:
    """Files of `size` bytes below a folder."""
    if not folder.exists():
        for number in range(files):
            path = folder / str(number % 100) / f"{number:06d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(number.to_bytes(4, "big") * (size // 4))
    return folder


def group(values: int) -> None:
    """A pipeline that groups so many values the size of references, by 64 keys."""

    def build(pipeline: beam.Pipeline) -> None:
        elements = pipeline | Deal(list(range(64)))
        pairs = elements | beam.FlatMap(
            lambda key, n: ((f"{key:05d}", bytes(60)) for _ in range(n)), values // 64
        )
        _ = pairs | beam.GroupByKey() | beam.Map(lambda keyed: len(list(keyed[1])))

    run_pipeline(build, parse_options([]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each job; the least counts (default: 3)")
    parser.add_argument("--read-ms", type=float, default=30.0, help="a read's latency, assumed (default: 30)")
    parser.add_argument("--in-flight", type=int, default=1, help="reads of a core at a time (today: 1)")
    parser.add_argument("--faulty", type=float, default=0.01, help="of the runs with dead letters, assumed")
    parser.add_argument("--core-mb", type=float, default=100.0, help="MB/s of a core's network, assumed")
    parser.add_argument("--core-price", type=float, default=0.05, help="dollars an hour, assumed")
    parser.add_argument("--get-price", type=float, default=0.0004, help="dollars for 1,000, assumed")
    parser.add_argument("--put-price", type=float, default=0.005, help="dollars for 1,000, assumed")
    parser.add_argument("--cores", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--costs", type=Path, help="JSON of an earlier run, in place of measuring")
    parser.add_argument(
        "--json", action="store_true", help="print the costs as one JSON object, and no cases"
    )
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        kind, what, out = args.probe
        if kind == "job":
            run(load_job(what), out)
        elif kind == "plan":
            plan, partitions = plan_job(load_job(what), out)
            write_partitions(plan.workspace.partitions, list_partitions(plan, partitions))
        else:
            group(int(what))
        # Not ru_maxrss, which begins with that of the process that started this one.
        print(int(_proc("status")["VmHWM"].split()[0]) * 1024)
        return
    if args.costs:
        found = {name: Cost(*values) for name, values in json.loads(args.costs.read_text()).items()}
    else:
        with tempfile.TemporaryDirectory(prefix="headrace-scale-") as work:
            bench = Bench(Path(work), args.rounds)
            bench.run(
                bench.job(TABLE, write_table(Path(work) / "warm.csv", 100), partition_bytes=1000, shards=1)
            )
            bench.tables()
            bench.folders()
            bench.grouping()
            found = bench.found
    if args.json:
        print(json.dumps({name: cost.values for name, cost in found.items()}, indent=1))
        return
    print_costs(found)
    print_cases(found, args)
    print(f"load average over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
