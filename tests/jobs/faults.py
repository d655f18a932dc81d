"""Jobs of which a call fails, or whose clock jumps: `faults.c`, compiled and preloaded into them.

A process that has imported everything is forked for each job (`python -m tests.jobs.faults`), which saves seconds.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.jobs import fault_jobs
from tests.jobs.small_job import digests

NAME, FIRST, SECOND = "cells", "0.9.0", "1.0.0"
ROOT = Path(__file__).resolve().parents[2]
ONCE, FROM_THEN_ON, HALF, DIE, JUMP = range(5)  # as in faults.c
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO")}
YEARS = 10 * 365 * 86400
_STATE = struct.Struct("<8q1024s")
_JOB_SECONDS = 120


@dataclass(frozen=True)
class Fault:
    """What is to go wrong.

    Attributes:
      site: the name of the call that fails, such as `write cells/.headrace/lock`; none if empty.
      number: which of the calls of that name, from 1.
      error: the name of its errno.
      how: only that call, all from then on, half of that write without an error, SIGKILL in place of the call, or
        nothing but the clock.
      seconds: what the clock is wrong by from that call on.
      clock: seed of a clock that jumps all the time; 0 for none.
    """

    site: str = ""
    number: int = 1
    error: str = "ENOSPC"
    how: int = ONCE
    seconds: int = 0
    clock: int = 0

    @property
    def kind(self) -> str:
        """What goes wrong, wherever it is."""
        if self.how == JUMP:
            return "clock forward" if self.seconds > 0 else "clock back"
        names = {FROM_THEN_ON: f"{self.error} from then on", HALF: "half a write", DIE: "killed"}
        return names.get(self.how, self.error)

    def __str__(self) -> str:
        return f"{self.kind}: {self.site} #{self.number}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
      code: its exit code.
      output, errors: what it printed.
      calls: every counted call, such as `write cells/.headrace/lock`; names without what is random in them.
      failed: those that failed.
      of_workers: those of other processes than the first.
    """

    code: int
    output: str
    errors: str
    calls: list[str]
    failed: list[str]
    of_workers: set[str]


class ForkServer:
    """Runs jobs, each forked from a process that has imported everything; a context manager.

    Args:
      folder: for what the jobs print.
      imports: the modules.
      environment: of the jobs, beside our own.
    """

    def __init__(self, folder: Path, imports: Sequence[str], environment: Mapping[str, str]) -> None:
        self._printed = folder / "stdout", folder / "stderr"
        self._imports = imports
        # Else argparse looks for translations, TensorFlow tells of what is no news, and Python keeps beside AutoGraph's
        # temporary files what it has compiled of them.
        quiet = {"LC_ALL": "C", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"}
        self._environment = {**os.environ, **quiet, **environment}

    def __enter__(self) -> ForkServer:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.faults", *self._imports],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(self, data: Path, out: str, options: Sequence[str] = ()) -> tuple[int, str, str]:
        """The job of `data`: its exit code, and what it printed."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        arguments = ["run", str(data / "job.yaml"), f"--var=data={data}", f"--out={out}"]
        request = [[*arguments, "--json", "--quiet", *options], *map(str, self._printed)]
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        output, errors = (path.read_text() for path in self._printed)
        return code, output, errors


class Faults:
    """Runs a job that writes to `out` and `temporary` below a folder, with faults; a context manager."""

    def __init__(self, folder: Path, job: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.temporary = folder / "out", folder / "temporary"
        self.temporary.mkdir()
        shim, self._state, self._log = (folder / name for name in ("faults.so", "state", "log"))
        command = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([*command, "-o", shim, source, "-ldl"], check=True)
        environment = {
            "TMPDIR": str(self.temporary),
            "LD_PRELOAD": str(shim),
            "HEADRACE_FAULT_FILE": str(self._state),
            "HEADRACE_FAULT_BELOW": str(self.out),
            "HEADRACE_FAULT_TEMP": str(self.temporary),
            "HEADRACE_FAULT_LOG": str(self._log),
        }
        self._server = ForkServer(folder, fault_jobs.JOBS[job].imports, environment)

    def __enter__(self) -> Faults:
        self._set(Fault())
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def run(self, fault: Fault, data: Path, options: Sequence[str] = ()) -> Outcome:
        """The job of `data`, with the fault."""
        self._set(fault)
        self._log.write_bytes(b"")
        code, output, errors = self._server.run(data, str(self.out), options)
        lines = [line.split(" ", 2) for line in self._log.read_text().splitlines()]
        lines.sort(key=lambda line: int(line[0]))
        calls = [call.removeprefix("!") for *_, call in lines]
        failed = [call[1:] for *_, call in lines if call.startswith("!")]
        of_workers = {
            call for call, (_, process, _) in zip(calls, lines, strict=True) if process != lines[0][1]
        }
        return Outcome(code, output, errors, calls, failed, of_workers)

    def _set(self, fault: Fault) -> None:
        at = fault.number if fault.site else 0
        numbers = (0, 0, at, ERRORS[fault.error], fault.how, 0, fault.clock, fault.seconds)
        state = _STATE.pack(*numbers, fault.site.encode())
        with open(self._state, "r+b" if self._state.exists() else "wb") as file:
            file.write(state)


@dataclass(frozen=True)
class Bench:
    """Two versions, the first of which is committed before anything fails.

    Attributes:
      faults: what runs the jobs.
      data: where the job of the second version lies.
      before: an output that holds the first version.
      first, second: every file of each version.
      left: the files of the output when both are there.
      calls: every call of the second job, in their order.
      options: that it is run with.
    """

    faults: Faults
    data: Path
    before: Path
    first: dict[str, bytes]
    second: dict[str, bytes]
    left: set[str]
    calls: list[str]
    options: Sequence[str] = ()

    def restart(self) -> None:
        """Only the first version again."""
        for folder in (self.faults.out, self.faults.temporary):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before, self.faults.out)
        self.faults.temporary.mkdir()

    def sites(self) -> Counter[str]:
        """The distinct calls, and how many there are of each."""
        return Counter(self.calls)

    def complete(self) -> list[Fault]:
        """Every distinct call with every kind of fault, and every call with one at least."""
        found = []
        for site, count in self.sites().items():
            kinds = [Fault(site, error=error, how=how) for error in ERRORS for how in (ONCE, FROM_THEN_ON)]
            kinds += [Fault(site, how=HALF)] if "write" in site.split()[0] else []
            kinds += [Fault(site, how=DIE)]
            kinds += [Fault(site, how=JUMP, seconds=seconds) for seconds in (YEARS, -YEARS)]
            # Each kind at another of the calls, and those that are left one kind each.
            found += [
                replace(kinds[n % len(kinds)], number=1 + n % count) for n in range(max(count, len(kinds)))
            ]
        return found

    def draw(self, chance: random.Random) -> Iterator[Fault]:
        """The complete set, in any order."""
        found = self.complete()
        chance.shuffle(found)
        yield from found


@contextmanager
def bench(folder: Path, job: str = "new", *, in_workers: bool = False) -> Iterator[Bench]:
    """Makes the data, the jobs and the first version below `folder`, and counts the calls of the second.

    Args:
      folder: an empty one.
      job: a name of `fault_jobs.JOBS`.
      in_workers: whether stages are run by a process of their own; then only the calls of that are counted.
    """
    before, prepared = folder / "before", fault_jobs.JOBS[job]
    options = ["--direct_running_mode=multi_processing", "--direct_num_workers=1"] if in_workers else []
    with Faults(folder / "lane0", job) as faults:
        data = prepared.make_first(folder, prepared.records, FIRST)
        done = faults.run(Fault(), data)
        assert done.code == 0, done.output + done.errors
        shutil.copytree(faults.out, before)
        data = prepared.make_second(folder, prepared.records, SECOND)
        done = faults.run(Fault(), data, options)
        assert done.code == 0, done.output + done.errors
        out = faults.out / NAME
        first, second = digests(out / FIRST), digests(out / SECOND)
        calls = [call for call in done.calls if call in done.of_workers] if in_workers else done.calls
        yield Bench(faults, data, before, first, second, _names(faults.out), calls, options)


def _names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def check_fault(bench: Bench, fault: Fault) -> str:
    """Runs the second version's job with the fault and then without; gives what failed, and how the job ended.

    Raises:
      AssertionError: anything but a clear error, or a job that is done in spite of it; or what should stand does not.
    """
    bench.restart()
    out, temporary = bench.faults.out / NAME, bench.faults.temporary
    done = bench.faults.run(fault, bench.data, bench.options)
    said = f"{fault} {done.failed[:1]} → {done.code}\n{done.output}{done.errors}"
    assert done.failed, f"not reached: {said}"
    if fault.how == DIE and done.code == 1:
        assert bench.options, said
        assert "A worker process died" in done.output, said
    elif fault.how == DIE:
        assert done.code == -signal.SIGKILL, said
    elif done.code:
        assert done.code == 1, said
        assert done.errors.strip() == "", said
        error = json.loads(done.output)["error"]
        assert error["what"].startswith("Cannot write: "), said
        where = Path(error["where"])
        assert where.is_relative_to(bench.faults.out) or where.is_relative_to(temporary), said
        assert error["hint"], said
        assert fault.how not in (HALF, JUMP), said
    assert digests(out / FIRST) == bench.first, said
    if done.code == 0 or (out / SECOND).exists():
        assert digests(out / SECOND) == bench.second, said
    if fault.how not in (FROM_THEN_ON, DIE):  # else nothing can be removed either
        assert not list(out.rglob("*.tmp")), said
        # What is refused to be removed stays, and AutoGraph removes its own only where nothing fails.
        stays = done.failed in (["unlink temporary"], ["rmdir temporary"])
        names = [path.name for path in temporary.iterdir() if not path.name.startswith("__autograph_")]
        assert stays or not names, f"{said}\nleft {names}"
    again = bench.faults.run(Fault(), bench.data)
    assert again.code == 0, said + again.output + again.errors
    assert digests(out / SECOND) == bench.second, said
    assert digests(out / FIRST) == bench.first, said
    left = _names(bench.faults.out)
    assert left == bench.left, f"{said}\nleft {sorted(left - bench.left)}, gone {sorted(bench.left - left)}"
    return f"{fault} {done.failed[0] if done.failed else 'nothing'} → {done.code}"


def main() -> None:
    """Forks a job for each line of standard input, and prints its exit code; the arguments are what it imports."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from beam_jobs.cli import entry

    gc.freeze()
    for line in sys.stdin:
        arguments, *printed = json.loads(line)
        child = os.fork()
        if not child:
            signal.alarm(_JOB_SECONDS)
            for number, path in enumerate(printed, 1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["headrace", *arguments]
            try:
                entry()
                atexit._run_exitfuncs()  # as a process does that is not forked
                code = 0
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
