"""Killing a job with SIGKILL at a moment of its life, running it again, and counting what was done twice.

What is finished is read from the work directory: `finished_runs` and `finished_shards` are the only places that know
how it is laid out.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.jobs.small_job import JOB, digests, make_data, make_job
from tests.jobs.watcher import Watcher

ROOT = Path(__file__).resolve().parents[2]
NAME = "cells"
FIRST, SECOND = "1.0.0", "2.0.0"
# Many small partitions and shards, so that every stage has a middle.
MANY = {
    "partition_files: 16": "partition_files: 8",
    "partition_bytes: 1000": "partition_bytes: 20000",
    "{train: 3, validation: 1, test: 2}": "{train: 80, validation: 20, test: 20}",
}
_START_SECONDS = 120
_JOB_SECONDS = 300

Stamp = tuple[int, int, int]  # inode, size, time of change: a file written again has another one


def finished_runs(out: Path) -> dict[str, Stamp]:
    """The runs that a job, whatever became of it, has finished."""
    return {path.name: _stamp(path) for path in (out / NAME / ".headrace" / "runs").glob("*.run")}


def finished_shards(out: Path, version: str) -> dict[str, Stamp]:
    """The shards of a version that a job has finished and noted so, in the stage or committed."""
    work = out / NAME / ".headrace"
    notes = [json.loads(path.read_bytes()) for path in (work / f"shards-{version}").glob("*.json")]
    names = [note["entry"]["path"] for note in notes]
    for place in (work / f"stage-{version}", out / NAME / version):
        if place.exists():
            return {name: _stamp(place / name) for name in names}
    return {}


def _stamp(path: Path) -> Stamp:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Bench:
    """What all rounds share: two versions' jobs, what they must come to, and how long the job takes.

    Attributes:
      folder: where everything lies.
      options: of the runner.
      expected: every file of each version, from a job that nobody disturbed.
      partitions, shards: how many each version has.
      seconds: how long the job of each version takes from its lock to its end.
    """

    folder: Path
    options: Sequence[str]
    expected: dict[str, dict[str, bytes]]
    partitions: dict[str, int]
    shards: dict[str, int]
    seconds: dict[str, float]

    @property
    def base(self) -> Path:
        """An output that holds the first version."""
        return self.folder / f"out-{FIRST}"


@dataclass
class Tally:
    """What all rounds came to."""

    kills: Counter[str] = field(default_factory=Counter)  # by the phase that they hit
    too_late: int = 0  # the job had ended
    runs_kept: int = 0
    shards_kept: int = 0
    polls: int = 0

    def to_json(self) -> dict[str, Any]:
        """The tally for scripts."""
        return {**vars(self), "kills": dict(sorted(self.kills.items())), "all_kills": self.kills.total()}


def make_bench(
    folder: Path, records: int, options: Sequence[str], changes: Mapping[str, str] | None = None
) -> Bench:
    """Writes the data and jobs of both versions, changed so, and runs each once."""
    expected, partitions, shards, seconds = {}, {}, {}, {}
    for version, count in ((FIRST, records), (SECOND, records + records // 10)):
        data = make_data(folder / version, records=count, faults=True)
        make_job(data, JOB, **MANY, **(changes or {}), **{f"version: {FIRST}": f"version: {version}"})
        out = folder / f"out-{version}"
        if version == SECOND:
            shutil.copytree(folder / f"out-{FIRST}", out)
        process = start(data, out, options)
        wait_for_lock(process, out)
        begun = time.monotonic()
        result = _result(process)
        seconds[version] = time.monotonic() - begun
        expected[version] = digests(out / NAME / version)
        partitions[version] = result["partitions"]
        shards[version] = sum(split["shards"] for split in result["splits"].values())
    return Bench(folder, options, expected, partitions, shards, seconds)


def kill_round(bench: Bench, version: str, chance: random.Random, tally: Tally) -> str:
    """One job, killed at a random moment, and run again; gives the phase that the kill hit.

    Raises:
      AssertionError: the job did not complete, gave other bytes, did work twice, or showed a reader half a version.
    """
    data, out = bench.folder / version, bench.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if version == SECOND:
        shutil.copytree(bench.base, out)
    with Watcher(out / NAME) as watcher:
        # No pipe, which worker processes that outlive the job would keep open.
        process = start(data, out, bench.options, subprocess.DEVNULL)
        wait_for_lock(process, out)
        begun = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, bench.seconds[version]))
        process.kill()
        if process.wait() == 0:
            bench.seconds[version] = time.monotonic() - begun  # the machine has more time for us than it had
            tally.too_late += 1
            phase = "too late"
        else:
            phase = _check_resumed(bench, version, out, tally)
            tally.kills[phase] += 1
    seen = {FIRST, version}
    assert watcher.report["problems"] == []
    assert set(watcher.report["versions"]) == seen
    tally.polls += watcher.report["polls"]
    for name in seen:
        assert digests(out / NAME / name) == bench.expected[name], f"{name} has other bytes"
    return phase


def _check_resumed(bench: Bench, version: str, out: Path, tally: Tally) -> str:
    """Runs the job again; gives the phase in which it had been killed."""
    runs, shards = finished_runs(out), finished_shards(out, version)
    wanted = bench.partitions[version]
    old = set(finished_runs(bench.base)) if version == SECOND else set()
    committed = (out / NAME / version).exists()
    own = len(runs.keys() - old)
    if committed:
        phase = "committed"
    elif own < wanted:
        phase = "reading"
    elif len(shards) < bench.shards[version]:
        phase = "assembling"
    else:
        phase = "committing"
    result = _result(start(bench.folder / version, out, bench.options))
    assert result["up_to_date"] == committed
    if not committed:
        assert result["partitions_reused"] == own, f"{own} runs were finished"
        again = {name for name, stamp in finished_runs(out).items() if runs.get(name, stamp) != stamp}
        assert not again, f"runs made twice: {again}"
        assert runs.keys() <= finished_runs(out).keys()
        for name, stamp in shards.items():
            assert _stamp(out / NAME / version / name) == stamp, f"{name} was written twice"
        tally.runs_kept += own
        tally.shards_kept += len(shards)
    assert not list((out / NAME).rglob(".*.tmp"))
    return phase


def start(
    data: Path, out: Path, options: Sequence[str], output: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """The job of `data` as a process."""
    command = "import sys; from beam_jobs.cli import entry; sys.exit(entry())"
    arguments = ["run", str(data / "job.yaml"), f"--var=data={data}", f"--out={out}"]
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments, "--json", "--quiet", *options],
        cwd=ROOT,
        stdout=output,
        stderr=output,
        text=True,
    )


def wait_for_lock(process: subprocess.Popen[str], out: Path) -> None:
    """Until the job has begun: it holds the lock."""
    deadline = time.monotonic() + _START_SECONDS
    while _holder(out) != process.pid:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the job took no lock"
        time.sleep(0.001)


def _holder(out: Path) -> int:
    try:
        return int(json.loads((out / NAME / ".headrace" / "lock").read_bytes())["pid"])
    except (FileNotFoundError, ValueError):
        return 0


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=_JOB_SECONDS)
    assert process.returncode == 0, output + errors
    result: dict[str, Any] = json.loads(output)
    return result
