#!/usr/bin/env python3
"""A tf-transform job, analysed and written: Headrace against the flow of TFX's examples, with the same function.

TFX's flow: rows as dicts, tft_beam.AnalyzeAndTransformDataset, WriteToTFRecord, on Beam's FnApiRunner with as many
threads as processors. Needs the environment of `scripts/install --transform`.

Examples:
  .venv-transform/bin/python scripts/bench/transform.py
  .venv-transform/bin/python scripts/bench/transform.py --rows 300000 --rounds 1 --json
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import common

NAMES = ("headrace", "tfx")


def main() -> None:
    parser = common.parser(__doc__, rounds=1)
    parser.add_argument("--rows", type=int, default=100_000, help="of the table (default: 100000)")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=" | ".join(NAMES)
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    table = args.work / f"table-{args.rows}.csv"
    parquet = table.with_suffix(".parquet")
    if not parquet.exists():
        common.ensure(table, "table", args.rows, table)
        common.ensure(parquet, "parquet", table, parquet)
        table.unlink()
    common.warm(parquet)
    os.environ["PYTHONPATH"] = f"{common.HERE}:{common.ROOT}"  # where the function is
    runs = common.alternate([_contender(name, parquet, args.work) for name in args.only], args.rounds)
    wrong = {run.contender: run.records for run in runs if run.records != args.rows}
    medians = common.medians(runs)
    goals = common.goal(medians, "times as fast as TFX's flow", "tfx", "headrace", 3)
    if len(medians) == 2:  # what a busy machine changes least
        times = medians["tfx"]["cpu_seconds"] / medians["headrace"]["cpu_seconds"]
        goals.append(common.Goal("the same in processor time", round(times, 2), 3, at_least=True))
    common.report(args, runs, goals)
    if wrong:
        sys.exit(f"wrong numbers of records: {wrong}")


def _contender(name: str, data: Path, work: Path) -> common.Contender:
    output = work / "out" / f"transform-{name}"
    command: list[str | Path] = [
        sys.executable,
        common.HERE / "contender_transform.py",
        name,
        data.resolve(),
        output.resolve(),
    ]
    return common.Contender(name, command, output=output)


if __name__ == "__main__":
    main()
