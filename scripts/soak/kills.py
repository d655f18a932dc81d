#!/usr/bin/env python3
"""Kill a job with SIGKILL at random moments, again and again, and run each again to its end.

Every moment is drawn uniformly from the time that the job takes, measured first. Half of the kills hit a first version,
half a second one that is built beside it. A reader in a process of its own polls the output all the while. It ends with
an error at the first half-visible state, other byte, or run or shard that was finished and is written again.

Examples:
  python scripts/soak/kills.py                                                       100 kills, threads: 20 minutes
  python scripts/soak/kills.py --kills 30 -- --direct_running_mode=multi_processing
  python scripts/soak/kills.py --seed 7 --records 800 --json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.jobs.kills import FIRST, SECOND, Tally, kill_round, make_bench


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--kills", type=int, default=100, help="default: 100")
    parser.add_argument("--records", type=int, default=1600, help="of the job (default: 1600)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="random if absent")
    parser.add_argument("--json", action="store_true", help="print the tally as JSON only")
    parser.add_argument("options", nargs="*", help="after --: options for headrace run")
    args = parser.parse_args()
    chance, tally, started = random.Random(args.seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-kills-") as folder:
        bench = make_bench(Path(folder), args.records, args.options)
        if not args.json:
            print(
                f"seed {args.seed}; partitions {bench.partitions}, shards {bench.shards}, seconds {bench.seconds}"
            )
        while tally.kills.total() < args.kills:
            version = (FIRST, SECOND)[tally.kills.total() % 2]
            phase = kill_round(bench, version, chance, tally)
            if not args.json:
                print(f"{tally.kills.total():4} {version} {phase}", flush=True)
    report = {"seed": args.seed, "seconds": round(time.monotonic() - started), **tally.to_json()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
