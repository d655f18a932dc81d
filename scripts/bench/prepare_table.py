#!/usr/bin/env python3
"""Preparing a table of 19 columns, CSV or Parquet: Headrace against TFDS, Beam and bare loops, in rows a second.

The bare loops are csv.reader or pyarrow + tf.train.Example + TFRecordWriter + fsync; Beam's own are ReadFromParquet and
WriteToTFRecord.

Examples:
  python scripts/bench/prepare_table.py
  python scripts/bench/prepare_table.py --rounds 5 --json
"""

from __future__ import annotations

import sys

import common
from prepare_images import contender

NAMES = (
    "headrace_table",
    "bare_table",
    "tfds_generator_table",
    "headrace_parquet",
    "bare_parquet",
    "tfds_generator_parquet",
    "beam_parquet",
)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="how many to make where there is no table")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=" | ".join(NAMES)
    )
    args = parser.parse_args()
    data = common.ensure(args.work / "table.csv", "table", args.rows, args.work / "table.csv")
    parquet = data.with_suffix(".parquet")
    common.ensure(parquet, "parquet", data, parquet)
    common.warm(data)
    common.warm(parquet)
    with open(data, "rb") as file:
        rows = sum(1 for _ in file) - 1
    files = {name: parquet if name.endswith("parquet") else data for name in args.only}
    runs = common.alternate([contender(name, file, args.work) for name, file in files.items()], args.rounds)
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
        *common.goal(
            table, "parquet: times as fast as TFDS", "tfds_generator_parquet", "headrace_parquet", 15
        ),
        *common.goal(table, "parquet: times as fast as Beam's own", "beam_parquet", "headrace_parquet", 1),
        *common.goal(table, "csv: share of parquet's speed", "headrace_parquet", "headrace_table", 0.6),
    ]
    speeds = {name: round(rows / row["seconds"]) for name, row in table.items()}
    if "headrace_parquet" in speeds:
        speed = speeds["headrace_parquet"] / 1000
        goals.append(common.Goal("parquet: thousand rows a second", speed, 200, True, "k/s"))
    common.report(args, runs, goals, rows=rows, rows_per_second=speeds, wrong_counts=wrong)
    if not args.json:
        for name, speed in speeds.items():
            print(f"{name:<26}{speed:>10,} rows/s")
    if wrong:
        sys.exit(f"records lost: {wrong}, of {rows}")


if __name__ == "__main__":
    main()
