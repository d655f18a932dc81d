#!/usr/bin/env python3
"""Let every call that a job makes to change a file fail, in every way, and run the job again.

The calls are write, open for writing, rename, link, unlink, mkdir, truncate and fsync, below the output and for
temporary files, whoever makes them. In place of each: no space, no quota, read-only, no permission and I/O error, that
once or from then on; half of a write; SIGKILL; a clock that is ten years off from there on, to either side. Each fault
must end in a clear error, or be survived; committed versions stay as they are, no half of a version is seen, and the
job run again gives the bytes that it gives without a fault, and leaves the same files.

The jobs of tests/jobs/fault_jobs.py write every kind of file together; of each, the calls are done that no job before
it has, and those for temporary files. All faults are told that end otherwise; then the exit code is 1. What is in the
progress file is not done again.

Examples:
  TMPDIR=/dev/shm python scripts/soak/faults.py --progress faults.jsonl     the complete set
  .venv-transform/bin/python scripts/soak/faults.py --jobs transform        after scripts/install --transform
  python scripts/soak/faults.py --jobs new --faults 200 --seed 7
  python scripts/soak/faults.py --workers --kinds ENOSPC "EACCES from then on" killed     4 seconds each
  python scripts/soak/faults.py --kinds killed                              only SIGKILL, at every call
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.jobs.fault_jobs import JOBS
from tests.jobs.faults import Bench, Fault, Faults, bench, check_fault


class Tally:
    """What has been done and how it ended; a file of it, if wanted, lets another run go on."""

    def __init__(self, file: Path | None) -> None:
        self.ended: Counter[tuple[str, str, str]] = Counter()  # job, kind, how
        self.seconds, self.all, self._lock = 0.0, 0, threading.Lock()
        self._file = None if file is None else file.open("a+")
        self._before: dict[tuple[str, str], tuple[str, str]] = {}
        if self._file is not None:
            self._file.seek(0)
            for line in map(json.loads, self._file):
                if line["ended"] != "failed":
                    self._before[line["job"], line["fault"]] = line["kind"], line["ended"]

    def has(self, job: str, fault: Fault) -> bool:
        """Whether it was done before and ended well; counts it."""
        found = self._before.get((job, str(fault)))
        if found is not None:
            self.ended[job, *found] += 1
        return found is not None

    def add(self, job: str, fault: Fault, ended: str, seconds: float, said: str) -> None:
        """Counts a fault, and prints it."""
        with self._lock:
            self.all += 1
            self.seconds += seconds
            self.ended[job, fault.kind, ended] += 1
            print(f"{self.all:5} {job} {said}", flush=True)
            if self._file is not None:
                line = {"job": job, "fault": str(fault), "kind": fault.kind, "ended": ended}
                self._file.write(json.dumps({**line, "seconds": round(seconds, 2), "said": said}) + "\n")
                self._file.flush()


def work(job: str, made: Bench, faults: queue.SimpleQueue[Fault], tally: Tally) -> None:
    """Does faults until none is left."""
    while True:
        try:
            fault = faults.get_nowait()
        except queue.Empty:
            return
        started = time.monotonic()
        try:
            said = check_fault(made, fault)
            code = int(said.rpartition(" ")[2])
            ended = "clear error" if code == 1 else "killed" if code else "done all the same"
        except Exception as error:  # anything that is wrong is told, and the others are done
            said, ended = f"FAILED {fault}: {type(error).__name__} {error}", "failed"
        tally.add(job, fault, ended, time.monotonic() - started, said)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    default = [name for name in JOBS if name != "transform"]
    parser.add_argument(
        "--jobs", nargs="+", default=default, choices=list(JOBS), help=f"default: {' '.join(default)}"
    )
    parser.add_argument(
        "--workers", action="store_true", help="only calls of workers, which are processes then"
    )
    parser.add_argument("--kinds", nargs="+", help="only these, such as ENOSPC; all if absent")
    parser.add_argument("--faults", type=int, help="how many of each job, drawn at random; all if absent")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="random if absent")
    parser.add_argument("--progress", type=Path, help="a file of what is done; done faults are left out")
    lanes = 2 * (os.cpu_count() or 1)  # a job that fails waits for Beam half of its time
    parser.add_argument("--lanes", type=int, default=lanes, help=f"jobs at a time (default: {lanes})")
    args = parser.parse_args()
    tally, seen, started = Tally(args.progress), set[str](), time.monotonic()
    for job in args.jobs:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-faults-")))
            made = stack.enter_context(bench(folder, job, in_workers=args.workers))
            drawn = made.draw(random.Random(args.seed))
            # Temporary files are all called alike, whoever makes them.
            faults = [each for each in drawn if each.site not in seen or each.site.endswith(" temporary")]
            faults = [fault for fault in faults if not args.kinds or fault.kind in args.kinds][: args.faults]
            print(
                f"{job}: seed {args.seed}; {len(made.calls)} calls, {len(made.sites())} distinct, {len(faults)} faults"
            )
            seen |= made.sites().keys()
            name = f"{job} in a worker process" if args.workers else job
            left: queue.SimpleQueue[Fault] = queue.SimpleQueue()
            for fault in faults:
                if not tally.has(name, fault):
                    left.put(fault)
            runners = [stack.enter_context(Faults(folder / f"lane{n}", job)) for n in range(1, args.lanes)]
            threads = [
                threading.Thread(target=work, args=(name, replace(made, faults=each), left, tally))
                for each in [made.faults, *runners]
            ]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt:  # those at hand come to their end: the folders are theirs
                with suppress(queue.Empty):
                    while True:
                        left.get_nowait()
                for thread in threads:
                    thread.join()
                raise
    rows: dict[str, Counter[str]] = {}
    for (job, kind, ended), count in tally.ended.items():
        rows.setdefault(f"{job}, {kind}", Counter())[ended] += count
    for name, row in sorted(rows.items()):
        print(f"{name}: {', '.join(f'{count:,} {ended}' for ended, count in sorted(row.items()))}")
    failed = sum(count for (_, _, ended), count in tally.ended.items() if ended == "failed")
    report = {
        "seed": args.seed,
        "faults": tally.ended.total(),
        "failed": failed,
        "seconds": round(time.monotonic() - started),
        "seconds_each": round(tally.seconds / max(tally.all, 1), 2),
    }
    print(json.dumps(report))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
