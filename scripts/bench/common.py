"""What the benchmarks share: run a contender in its own process, watch its memory, print ratios."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
JOBS = HERE / "jobs"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class Run:
    """One run of one contender."""

    contender: str
    seconds: float  # the work itself, imports left out, as the process timed it
    cpu_seconds: (
        float | None
    )  # user and system time of the work, all threads: what a busy machine changes least
    wall_seconds: float  # the whole process
    rss_mb: float  # peak of the sum over the process tree, in 10^6 bytes
    pss_mb: float | None  # the same with shared pages counted once, sampled more rarely
    records: int | None
    process_mb: float | None = None  # peak RSS of the largest single process, such as a worker


class Contender:
    """A command that prints a JSON object with `seconds` and `records` as its last line."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, output: Path, scratch: Path | None = None
    ):
        self.name, self.output, self.scratch = name, output, scratch
        self.command = [str(part) for part in command]

    def run(self, *, interval: float = 0.1, pss: bool = False, starters: Sequence[int] = ()) -> Run:
        """Clear the old output, run, and watch: the command and its children, or the children of `starters`."""
        for leftover in (self.output, self.scratch):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)
        self.output.mkdir(parents=True)
        os.sync()  # so that nobody pays for what an earlier contender wrote
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            start = time.perf_counter()
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | _QUIET,
                cwd=ROOT,
            )
            watch = MemoryWatch(
                *(starters or [process.pid]), interval=interval, pss=pss, themselves=not starters
            )
            status = process.wait()
            wall = time.perf_counter() - start
            watch.stop()
            out.seek(0)
            err.seek(0)
            lines = out.read().strip().splitlines()
            if status != 0:
                sys.exit(f"{self.name} ended with {status}: {' '.join(self.command)}\n{err.read()[-4000:]}")
        told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        return Run(
            contender=self.name,
            seconds=round(told.get("seconds", wall), 3),
            cpu_seconds=told.get("cpu_seconds"),
            wall_seconds=round(wall, 3),
            rss_mb=round(watch.peak_rss / 1e6, 1),
            pss_mb=round(watch.peak_pss / 1e6, 1) if pss else None,
            records=told.get("records"),
            process_mb=round(watch.peak_process / 1e6, 1),
        )


class MemoryWatch:
    """Peak memory of processes and all their descendants, or of these alone, sampled from /proc in a thread."""

    def __init__(self, *pids: int, interval: float = 0.02, pss: bool = False, themselves: bool = True):
        self.peak_rss = self.peak_pss = self.peak_process = 0
        self._roots, self._interval, self._pss = [psutil.Process(pid) for pid in pids], interval, pss
        self._themselves = themselves
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more samples."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pids, next_look, next_pss = list[int](), 0.0, 0.0
        while not self._done.is_set():
            now = time.monotonic()
            if now >= next_look:  # walking /proc is dear, reading one file of it is not
                pids, next_look = self._tree(pids), now + max(0.2, self._interval)
            sizes = [_resident(pid) for pid in pids]
            self.peak_rss = max(self.peak_rss, sum(sizes))
            self.peak_process = max([self.peak_process, *sizes])
            if self._pss and now >= next_pss:
                self.peak_pss = max(self.peak_pss, sum(_proportional(pid) for pid in pids))
                next_pss = now + 0.5
            self._done.wait(self._interval)

    def _tree(self, before: list[int]) -> list[int]:
        try:
            own = [root.pid for root in self._roots] if self._themselves else []
            return own + [child.pid for root in self._roots for child in root.children(recursive=True)]
        except psutil.Error:
            return before


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), 0)
    except OSError:
        return 0


def alternate(contenders: Iterable[Contender], rounds: int, *, interval: float = 0.1) -> list[Run]:
    """Every contender once a round, in turn, so that a noisy minute hits all of them."""
    runs, contenders = [], list(contenders)
    for turn in range(rounds):
        for contender in contenders:
            run = contender.run(interval=interval)
            runs.append(run)
            note(
                f"round {turn + 1}/{rounds}  {run.contender:<24} {run.seconds:8.2f} s   "
                f"CPU {run.cpu_seconds or 0:6.2f} s   "
                f"process {run.wall_seconds:7.2f} s   {run.rss_mb:7.0f} MB   records {run.records}"
            )
    return runs


def medians(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Per contender: median seconds, process seconds and memory; every record count seen."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run.contender for run in runs):
        own = [run for run in runs if run.contender == name]
        found[name] = {
            "seconds": statistics.median(run.seconds for run in own),
            "best_seconds": min(run.seconds for run in own),
            "cpu_seconds": statistics.median(run.cpu_seconds or 0 for run in own),
            "wall_seconds": statistics.median(run.wall_seconds for run in own),
            "rss_mb": statistics.median(run.rss_mb for run in own),
            "records": sorted({run.records for run in own if run.records is not None}),
        }
    return found


@dataclass(frozen=True)
class Goal:
    """A line of the must-show table: a measured number against its bound."""

    what: str
    value: float
    bound: float
    at_least: bool
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        mark = "ok  " if self.met else "MISS"
        found = f"{mark} {self.what:<58} {self.value:9.2f} {self.unit:<3}"
        return f"{found} (goal {sign} {self.bound:g} {self.unit})".replace(" )", ")")


def report(args: argparse.Namespace, runs: list[Run], goals: list[Goal], **more: Any) -> None:
    """Print the medians and the goals: for people, or one JSON object."""
    table = medians(runs)
    if args.json:
        told = {
            "medians": table,
            "goals": [asdict(goal) | {"met": goal.met} for goal in goals],
            "runs": [asdict(run) for run in runs],
            "load_average": os.getloadavg(),
            **more,
        }
        print(json.dumps(told, indent=1))
        return
    print(f"\n{'medians':<26}{'seconds':>10}{'best':>9}{'CPU s':>9}{'process s':>11}{'peak MB':>9}  records")
    for name, row in table.items():
        counts = ", ".join(f"{n:,}" for n in row["records"])
        print(
            f"{name:<26}{row['seconds']:>10.2f}{row['best_seconds']:>9.2f}{row['cpu_seconds']:>9.2f}"
            f"{row['wall_seconds']:>11.2f}{row['rss_mb']:>9.0f}  {counts}"
        )
    for goal in goals:
        print(goal)
    print(f"load average over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def goal(
    table: dict[str, dict[str, Any]], what: str, over: str, under: str, bound: float, *, at_least: bool = True
) -> list[Goal]:
    """`seconds(over) / seconds(under)` against `bound`, where both ran."""
    if over not in table or under not in table:
        return []
    return [Goal(what, round(table[over]["seconds"] / table[under]["seconds"], 3), bound, at_least)]


def note(line: str) -> None:
    """Progress, which must not mix with --json."""
    print(line, file=sys.stderr, flush=True)


def warm(directory: Path) -> tuple[int, int]:
    """Read every file once, so that all contenders find it in the page cache; (files, bytes)."""
    count = size = 0
    for path in sorted(directory.rglob("*")) if directory.is_dir() else [directory]:
        if path.is_file():
            size += len(path.read_bytes())
            count += 1
    return count, size


def ensure(path: Path, *command: str | int | Path) -> Path:
    """`path`, made by make_data.py with `command` if it is not there."""
    if not path.exists():
        note(f"making {path}")
        subprocess.run([sys.executable, str(HERE / "make_data.py"), *map(str, command)], check=True, cwd=ROOT)
    return path


def headrace() -> Path:
    """The console command of this Python's environment."""
    return Path(sys.executable).with_name("headrace")


def parser(doc: str | None, *, rounds: int = 3) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--work", type=Path, default=ROOT / "data/bench", help="data and outputs (default: data/bench)"
    )
    made.add_argument(
        "--rounds", type=int, default=rounds, help=f"alternating runs of each (default: {rounds})"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def timed(work: Callable[[], int]) -> None:
    """Run `work`, which returns the number of records it wrote, and print what a Contender prints."""
    start, cpu = time.perf_counter(), _cpu()
    records = work()
    seconds, cpu = time.perf_counter() - start, _cpu() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": round(cpu, 3), "records": records}))


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
