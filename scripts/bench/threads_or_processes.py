#!/usr/bin/env python3
"""Which of Beam's local modes suits preparing images: seconds and peak memory with 1, 2 and 4 workers.

Examples:
  python scripts/bench/threads_or_processes.py
  python scripts/bench/threads_or_processes.py --job images_decode.yaml --workers 2
"""

from __future__ import annotations

import common

MODES = ("in_memory", "multi_threading", "multi_processing")


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument(
        "--job", default="images_keep.yaml", help="in scripts/bench/jobs (default: images_keep.yaml)"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    args = parser.parse_args()
    data = common.ensure(args.work / "images", "images", 13_688, args.work / "images")
    common.warm(data)
    output = args.work / "out" / "modes"
    base = [
        common.headrace(),
        "run",
        common.JOBS / args.job,
        "--var",
        f"data={data.resolve()}",
        "--out",
        output.resolve(),
    ]
    default = [common.Contender("default", base, output=output)]
    chosen = [
        common.Contender(
            f"{mode} x {workers}",
            [*base, f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"],
            output=output,
        )
        for mode in args.modes
        for workers in (args.workers if mode != "in_memory" else [1])
    ]
    runs = common.alternate(default + chosen, args.rounds, interval=0.05)
    common.report(args, runs, [])


if __name__ == "__main__":
    main()
