#!/usr/bin/env python3
"""Let every call that a job makes to change its output fail, with every error, or kill it there, and run it again.

The calls are write, open for writing, rename, unlink, mkdir, truncate and fsync, whoever makes them; the errors are
no space, no quota, read-only, no permission and I/O error, that once or from then on, and writes that are cut short.
It ends with an error at the first traceback, changed version, or re-run that gives other bytes.

Examples:
  python scripts/soak/faults.py                    1,500 faults: two hours
  python scripts/soak/faults.py --kills            only SIGKILL, at every call: ten minutes
  python scripts/soak/faults.py --faults 200 --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.jobs.faults import DIE, bench, check_fault


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--faults", type=int, help="how many, drawn at random; all if absent")
    parser.add_argument("--records", type=int, default=40, help="of the job (default: 40)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="random if absent")
    parser.add_argument("--kills", action="store_true", help="only kill it, at every call")
    args = parser.parse_args()
    ended: Counter[str] = Counter()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-faults-") as folder,
        bench(Path(folder), args.records) as made,
    ):
        print(f"seed {args.seed}; {len(made.calls)} calls, {len(made.sites())} of them distinct")
        drawn = (fault for fault in made.draw(random.Random(args.seed)) if not args.kills or fault.how == DIE)
        for number, fault in enumerate(islice(drawn, args.faults), 1):
            what = check_fault(made, fault)
            ended[f"exit code {what.rpartition(' ')[2]}"] += 1
            print(f"{number:5} {what}", flush=True)
    print(json.dumps({"seed": args.seed, "seconds": round(time.monotonic() - started), **ended}))


if __name__ == "__main__":
    main()
