#!/usr/bin/env python3
"""Peak memory of the whole process tree while preparing images: does it grow with the data?

The sum of RSS over `headrace run` and all its children, sampled every 20 ms; PSS, which counts pages that
processes share once, every half second.

Examples:
  python scripts/bench/memory.py                        0.5, 2 and 8 GB: needs 25 GB of disk
  python scripts/bench/memory.py --sizes 500MB 1GB --links
  python scripts/bench/memory.py --sizes 2GB -- --runner=PrismRunner --environment_type=PROCESS
  python scripts/bench/memory.py --sizes 2GB --flink   the workers of a cluster of two task managers
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import common

from schemas.units import format_bytes, parse_bytes


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--sizes", nargs="+", default=["500MB", "2GB", "8GB"], help="default: 500MB 2GB 8GB")
    parser.add_argument("--links", action="store_true", help="hard links in place of copies: needs less disk")
    parser.add_argument(
        "--job", default="images_sized.yaml", help="in scripts/bench/jobs (default: images_sized.yaml)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the blown-up data for the next run")
    parser.add_argument("--flink", action="store_true", help="on the tests' cluster; its workers are watched")
    parser.add_argument("options", nargs="*", help="after --: options for headrace run")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        starters = _start_flink(args, stack) if args.flink else []
        _measure(parser, args, starters)


def _start_flink(args: argparse.Namespace, stack: contextlib.ExitStack) -> list[int]:
    """Starts a cluster, adds the options for it and gives the processes of its task managers."""
    sys.path.insert(0, str(common.ROOT))
    from tests.engines.flink_cluster import JOB_SERVER, FlinkCluster

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    cluster = stack.enter_context(FlinkCluster(folder, show_logs=False))
    args.options += [
        "--runner=FlinkRunner",
        f"--flink_master={cluster.master}",
        f"--flink_job_server_jar={JOB_SERVER}",
    ]
    return [manager.pid for manager in cluster.managers]


def _measure(parser: argparse.ArgumentParser, args: argparse.Namespace, starters: list[int]) -> None:
    source = common.ensure(args.work / "images", "images", 13_688, args.work / "images")
    runs: list[common.Run] = []
    peaks: dict[str, list[float]] = {}
    for size in args.sizes:
        wanted = parse_bytes(size)
        if not isinstance(wanted, int):
            parser.error(f"--sizes {size}: expected a size such as 2GB")
        data, output = args.work / f"images-{size}", args.work / "out" / "memory"
        links = ["--links"] if args.links else []
        common.ensure(data, "multiply", source, data, "--size", size, *links)
        command = [common.headrace(), "run", common.JOBS / args.job, "--var", f"data={data.resolve()}"]
        command += ["--out", output.resolve(), *args.options]
        peaks[size] = []
        for _ in range(args.rounds):
            run = common.Contender(size, command, output=output).run(
                interval=0.02, pss=True, starters=starters
            )
            common.note(
                f"{size:>6}: RSS {run.rss_mb:.0f} MB, PSS {run.pss_mb:.0f} MB, "
                f"largest process {run.process_mb:.0f} MB, {run.wall_seconds:.1f} s"
            )
            runs.append(run)
            peaks[size].append(run.rss_mb)
        shutil.rmtree(output, ignore_errors=True)
        if not args.keep:
            shutil.rmtree(data)
    middle = {size: statistics.median(values) for size, values in peaks.items()}
    mean = statistics.mean(middle.values())
    spread = 100 * max(abs(value - mean) for value in middle.values()) / mean
    goals = [
        common.Goal(
            "peak RSS of the largest process",
            max(run.process_mb or 0 for run in runs),
            700,
            at_least=False,
            unit="MB",
        ),
        common.Goal(
            "spread around the mean over the sizes, +-", round(spread, 1), 15, at_least=False, unit="%"
        ),
    ]
    if not any(option.startswith("--runner") for option in args.options):  # else there are more than one
        goals.append(
            common.Goal("peak RSS of the process tree", max(middle.values()), 700, at_least=False, unit="MB")
        )
    common.report(args, runs, goals, peak_rss_mb=middle)
    if not args.json:
        print("peak RSS:", ", ".join(f"{s} -> {format_bytes(m * 1e6)}" for s, m in middle.items()))


if __name__ == "__main__":
    main()
