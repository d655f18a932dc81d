"""What a unit costs, and what large data sets would take by that; see scale.py."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Cost:
    """Of one unit: processor microseconds, microseconds, reads, bytes of memory or disk."""

    cpu: float = 0.0
    wall: float = 0.0
    reads: float = 0.0
    bytes: float = 0.0

    @property
    def values(self) -> tuple[float, ...]:
        """All four."""
        return self.cpu, self.wall, self.reads, self.bytes

    def holding(self, size: float) -> Cost:
        """The same with so many bytes."""
        return replace(self, bytes=size)

    @staticmethod
    def least(costs: Iterable[Cost]) -> Cost:
        """The least of each."""
        return Cost(*(min(column) for column in zip(*(cost.values for cost in costs), strict=True)))


def solved(numbers: Sequence[Sequence[float]], costs: Sequence[Cost]) -> list[Cost]:
    """The cost of each unit, from as many jobs as there are units, `numbers` of them in each."""
    columns = np.linalg.solve(np.array(numbers, float), np.array([cost.values for cost in costs]))
    return [Cost(*row) for row in columns.tolist()]


def expected_references(runs: float, shards: float, records: float) -> float:
    """Pairs of run and shard with a record in common, since hashes are uniform: at most one a record."""
    each = records / runs
    return runs * shards * -math.expm1(each * math.log1p(-1 / shards)) if shards > 1 else runs


def print_costs(found: dict[str, Cost]) -> None:
    """The measured table."""
    print(f"\n{'each':<36}{'CPU µs':>10}{'µs':>10}{'reads':>8}{'bytes':>9}")
    for name, cost in found.items():
        print(f"{name:<36}{cost.cpu:>10.1f}{cost.wall:>10.1f}{cost.reads:>8.2f}{cost.bytes:>9.0f}")


@dataclass(frozen=True)
class Case:
    """A data set: bytes, records, bytes of a partition and of a shard; whether each record is a file."""

    name: str
    bytes: float
    records: float
    partition: float
    shard: float
    files: bool


MIB = float(1 << 20)
CASES = (
    Case("1 TB, images of 100 kB", 1e12, 1e7, 29 * MIB, 64 * MIB, True),
    Case("  in 256 MiB and 512 MiB", 1e12, 1e7, 256 * MIB, 512 * MIB, True),
    Case("100 TB, images of 100 kB", 1e14, 1e9, 29 * MIB, 64 * MIB, True),
    Case("  in 4 GiB and 4 GiB", 1e14, 1e9, 4096 * MIB, 4096 * MIB, True),
    Case("1 B rows of 200 bytes", 2e11, 1e9, 4 * MIB, 64 * MIB, False),
    Case("  in 256 MiB and 256 MiB", 2e11, 1e9, 256 * MIB, 256 * MIB, False),
)
WINDOW = 16 * MIB  # of a shard merged at a time: its part of a run takes a read of its own
# A smaller run is one read; the measured jobs' are. Of a larger one, the index is a read of its own.
HELD, INDEX_ROW = 64 << 10, 32
ASKED = 1  # for its size, each time a run is opened: a request of a bucket too, but no read
COMMIT_READS = 3  # of each run with dead letters, one run after the other: its size, its footer, and them
CROSSINGS = 4  # of each byte: source to worker, to its run, back, to its shard


@dataclass(frozen=True)
class Estimate:
    """What a case would take: counts, seconds, bytes.

    Attributes:
      runs, shards, references, reads: how many.
      cpu, waited, moved: seconds of all workers together that compute, wait for reads, move bytes.
      driver: seconds that no number of workers shortens.
      planned, grouped: bytes that the driver holds of partitions, and the embedded runner of references.
    """

    runs: float
    shards: int
    references: float
    reads: float
    cpu: float
    waited: float
    moved: float
    driver: float
    planned: float
    grouped: float


def estimate(case: Case, found: dict[str, Cost], args: argparse.Namespace) -> Estimate:
    """The measured costs times the case's numbers."""
    runs, shards = case.bytes / case.partition, 2 ** math.ceil(math.log2(case.bytes / case.shard))
    references, files = expected_references(runs, shards, case.records), case.files * case.records
    # A reference of the measured jobs lies in one window.
    windows = expected_references(1, max(1.0, case.bytes / shards / WINDOW), case.records / references)
    larger = float(case.records / runs * INDEX_ROW > HELD)
    each = found["reference"].reads + ASKED + larger + windows - 1
    reads = references * each + runs * found["run"].reads + files
    records = (case.bytes / 1e6, "MB of files") if case.files else (case.records, "row of a table")
    work = ((runs, "run"), (shards, "shard"), (references, "reference"), records)
    plan = ((runs, "partition planned"), (files, "file listed"))
    return Estimate(
        runs,
        shards,
        references,
        reads,
        cpu=sum(count * found[name].cpu for count, name in work) / 1e6,
        waited=reads * args.read_ms / 1e3 / args.in_flight,
        moved=CROSSINGS * case.bytes / (args.core_mb * 1e6),
        driver=sum(count * found[name].cpu for count, name in plan) / 1e6
        + runs * args.faulty * COMMIT_READS * args.read_ms / 1e3,
        planned=sum(count * max(0.0, found[name].bytes) for count, name in plan),
        grouped=references * found["value grouped, Beam alone"].bytes,
    )


def print_cases(found: dict[str, Cost], args: argparse.Namespace) -> None:
    """What each case would take."""
    cores = [f"{count:,} cores" for count in args.cores]
    rows = [["case", "runs", "shards", "references", "reads", "computing", "waiting", "moving", "driver", *cores,
             "cores' price", "requests' price", "driver's memory", "embedded: grouping"]]  # fmt: skip
    for case in CASES:
        e = estimate(case, found, args)
        total = e.cpu + e.waited + e.moved
        requests = (e.reads * args.get_price + (e.runs + 2 * e.shards) * args.put_price) / 1e3
        rows.append([case.name, short(e.runs), short(e.shards), short(e.references), short(e.reads),
                     *map(duration, (e.cpu, e.waited, e.moved, e.driver)),
                     *(duration(total / count + e.driver) for count in args.cores),
                     f"${total / 3600 * args.core_price:,.0f}", f"${requests:,.0f}",
                     f"{e.planned / 1e9:.1f} GB", f"{e.grouped / 1e9:.1f} GB"])  # fmt: skip
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print(
        f"""Computing, waiting and moving are of all cores together; the driver's work no number of them shortens.
A read waits {args.read_ms:g} ms, {args.in_flight} of a core at a time; {args.faulty:.0%} of the runs have \
dead letters; every byte moves {CROSSINGS} times, at \
{args.core_mb:g} MB/s a core.
A core is ${args.core_price:g} an hour, 1,000 reads ${args.get_price:g}, 1,000 writes ${args.put_price:g}."""
    )


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < most * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:,.0f} d"


def short(number: float) -> str:
    """A number in thousands, millions, billions."""
    for unit in ("", " k", " M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} G"
