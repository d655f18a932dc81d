#!/usr/bin/env python3
"""Preparing a CSV of 19 columns: Headrace against TFDS's generator builder and a bare loop, in rows a second.

The bare loop is csv.reader + tf.train.Example + TFRecordWriter + fsync.

Examples:
  python scripts/bench/prepare_table.py
  python scripts/bench/prepare_table.py --rounds 5 --json
"""

from __future__ import annotations

import sys

import common
from prepare_images import contender

NAMES = ("headrace_table", "bare_table", "tfds_generator_table")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="how many to make where there is no table")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=" | ".join(NAMES)
    )
    args = parser.parse_args()
    data = common.ensure(args.work / "table.csv", "table", args.rows, args.work / "table.csv")
    common.warm(data)
    with open(data, "rb") as file:
        rows = sum(1 for _ in file) - 1
    runs = common.alternate([contender(name, data, args.work) for name in args.only], args.rounds)
    wrong = {run.contender: run.records for run in runs if run.records != rows}
    table = common.medians(runs)
    goals = [
        *common.goal(
            table,
            "table: times as fast as TFDS GeneratorBasedBuilder",
            "tfds_generator_table",
            "headrace_table",
            15,
        ),
        *common.goal(table, "table: times as fast as the bare loop", "bare_table", "headrace_table", 2),
    ]
    speeds = {name: round(rows / row["seconds"]) for name, row in table.items()}
    common.report(args, runs, goals, rows=rows, rows_per_second=speeds, wrong_counts=wrong)
    if not args.json:
        for name, speed in speeds.items():
            print(f"{name:<26}{speed:>10,} rows/s")
    if wrong:
        sys.exit(f"records lost: {wrong}, of {rows}")


if __name__ == "__main__":
    main()
