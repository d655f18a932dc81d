#!/usr/bin/env python3
"""Preparing JPEGs: Headrace against TFDS's two builders and a bare loop.

Two rows of the table in the README: images kept as they are, and every image decoded in full to check it.
Every contender reads the same files (in the page cache), runs in its own process, times its work without
imports, and takes its turn in every round. Outputs are deleted, and the disk synced, outside the timed part.

Examples:
  python scripts/bench/prepare_images.py
  python scripts/bench/prepare_images.py --rounds 5 --only headrace_decode bare_decode --json
"""

from __future__ import annotations

import sys
from pathlib import Path

import common

NAMES = ("headrace_keep", "bare_images", "tfds_generator", "tfds_beam", "headrace_decode", "bare_decode")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=13_688, help="how many to make where there are none")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=" | ".join(NAMES)
    )
    args = parser.parse_args()
    data = common.ensure(args.work / "images", "images", args.images, args.work / "images")
    files, size = common.warm(data)
    common.note(f"{files:,} images, {size / 1e6:.1f} MB")
    runs = common.alternate([contender(name, data, args.work) for name in args.only], args.rounds)
    wrong = {run.contender: run.records for run in runs if run.records != files}
    table = common.medians(runs)
    goals = [
        *common.goal(
            table, "kept as is: times as fast as TFDS BeamBasedBuilder", "tfds_beam", "headrace_keep", 6
        ),
        *common.goal(
            table,
            "kept as is: times as fast as TFDS GeneratorBasedBuilder",
            "tfds_generator",
            "headrace_keep",
            1,
        ),
        *common.goal(
            table, "kept as is: times the bare loop", "headrace_keep", "bare_images", 2.5, at_least=False
        ),
        *common.goal(
            table, "decoded: speed over the bare two-thread loop", "bare_decode", "headrace_decode", 0.85
        ),
    ]
    common.report(args, runs, goals, files=files, bytes=size, wrong_counts=wrong)
    if wrong:
        sys.exit(f"records lost: {wrong}, of {files}")


def contender(name: str, data: Path, work: Path) -> common.Contender:
    """A contender of contenders.py."""
    output = work / "out" / name
    return common.Contender(
        name,
        [sys.executable, common.HERE / "contenders.py", name, data.resolve(), output.resolve()],
        output=output,
    )


if __name__ == "__main__":
    main()
