#!/usr/bin/env python3
"""How long until something happens: `headrace --help`, and `headrace run` of ten records.

Also says which heavy packages each imported: TensorFlow must be in neither, Beam not in --help.

Example:
  python scripts/bench/startup.py --rounds 20
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys

import common

HEAVY = ("apache_beam", "tensorflow", "pyarrow", "numpy", "pydantic")


def imported(command: list[str]) -> list[str]:
    """Which of HEAVY `command` imports, by Python's own -X importtime."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        capture_output=True, text=True, check=True, cwd=common.ROOT, stdin=subprocess.DEVNULL,
    ).stderr  # fmt: skip
    names = {line.rsplit("|", 1)[-1].strip() for line in told.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in names]


def main() -> None:
    args = common.parser(__doc__, rounds=10).parse_args()
    data, output = args.work / "images-10", args.work / "out" / "startup"
    common.ensure(data, "images", 10, data)
    program = str(common.headrace())
    help_run = common.Contender("headrace --help", [program, "--help"], output=output)
    ten = [program, "run", str(common.JOBS / "images_keep.yaml"), "--var", f"data={data.resolve()}"]
    ten += ["--out", str(output.resolve())]
    ten_run = common.Contender("headrace run, 10 records", ten, output=output)
    help_run.run()  # so that no one pays for compiling .pyc files
    runs = [help_run.run() for _ in range(args.rounds)]
    runs += [ten_run.run() for _ in range(max(3, args.rounds // 3))]
    imports = {"headrace --help": imported([program, "--help"])}
    shutil.rmtree(output, ignore_errors=True)
    imports["headrace run, 10 records"] = imported(ten)

    def median(name: str) -> float:
        return round(statistics.median(run.wall_seconds for run in runs if run.contender == name), 3)

    goals = [
        common.Goal("headrace --help", median("headrace --help"), 0.5, at_least=False, unit="s"),
        common.Goal(
            "headrace run of 10 records", median("headrace run, 10 records"), 8, at_least=False, unit="s"
        ),
        common.Goal(
            "of these importing TensorFlow",
            sum("tensorflow" in names for names in imports.values()),
            0,
            at_least=False,
            unit="",
        ),
    ]
    common.report(args, runs, goals, imports=imports)
    if not args.json:
        print("imported:", json.dumps(imports))


if __name__ == "__main__":
    main()
