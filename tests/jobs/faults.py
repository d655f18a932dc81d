"""Jobs whose N-th write fails, or whose clock jumps: `faults.c`, compiled and preloaded into them.

A process that has imported everything is forked for each job (`python -m tests.jobs.faults`), which saves seconds.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.jobs.small_job import digests, make_data, make_job

NAME, FIRST, SECOND = "cells", "0.9.0", "1.0.0"
ROOT = Path(__file__).resolve().parents[2]
ONCE, FROM_THEN_ON, HALF, DIE = range(4)  # as in faults.c
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO")}
_STATE = struct.Struct("<6q")
_JOB_SECONDS = 120


@dataclass(frozen=True)
class Fault:
    """What is to go wrong.

    Attributes:
      call: the number of the call that fails, from 1; 0 for none.
      error: the name of its errno.
      how: only that call, all from then on, half of that write without an error, or SIGKILL in place of the call.
      clock: seed of the clock's jumps; 0 for none.
    """

    call: int = 0
    error: str = "ENOSPC"
    how: int = ONCE
    clock: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
      code: its exit code.
      output, errors: what it printed.
      calls: every counted call, such as `write cells/.headrace/lock`; names without what is random in them.
      failed: those that failed.
    """

    code: int
    output: str
    errors: str
    calls: list[str]
    failed: list[str]


class Faults:
    """Runs jobs that write to `out`, with faults."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.out = out
        self._shim, self._state, self._log = (folder / name for name in ("faults.so", "state", "log"))
        self._printed = folder / "stdout", folder / "stderr"
        command = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        source = Path(__file__).with_suffix(".c")
        subprocess.run([*command, "-o", self._shim, source, "-ldl"], check=True)

    def __enter__(self) -> Faults:
        self._set(Fault())
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.faults"],
            cwd=ROOT,
            env={
                **os.environ,
                "LD_PRELOAD": str(self._shim),
                "HEADRACE_FAULT_FILE": str(self._state),
                "HEADRACE_FAULT_BELOW": str(self.out),
                "HEADRACE_FAULT_LOG": str(self._log),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(self, fault: Fault, data: Path, options: Sequence[str] = ()) -> Outcome:
        """The job of `data`, with the fault."""
        self._set(fault)
        self._log.write_bytes(b"")
        arguments = ["run", str(data / "job.yaml"), f"--var=data={data}", f"--out={self.out}"]
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = [[*arguments, "--json", "--quiet", *options], *map(str, self._printed)]
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        lines = [line.split(" ", 1) for line in self._log.read_text().splitlines()]
        calls = [self._named(call) for _, call in sorted(lines, key=lambda line: int(line[0]))]
        failed = [call[1:] for call in calls if call.startswith("!")]
        output, errors = (path.read_text() for path in self._printed)
        return Outcome(code, output, errors, [call.removeprefix("!") for call in calls], failed)

    def _named(self, call: str) -> str:
        call = re.sub(r"\b[0-9a-f]{32}\b", "*", call.replace(f"{self.out}/", ""))
        return re.sub(r"\.\d+-[0-9a-f]{8}\.tmp$", ".tmp", call)

    def _set(self, fault: Fault) -> None:
        state = _STATE.pack(0, fault.call, ERRORS[fault.error], fault.how, 0, fault.clock)
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
      calls: every call of the second job, in their order.
    """

    faults: Faults
    data: Path
    before: Path
    first: dict[str, bytes]
    second: dict[str, bytes]
    calls: list[str]

    def restart(self) -> None:
        """Only the first version again."""
        shutil.rmtree(self.faults.out)
        shutil.copytree(self.before, self.faults.out)

    def sites(self) -> dict[str, list[int]]:
        """The distinct calls, and the numbers of each."""
        found: dict[str, list[int]] = {}
        for number, call in enumerate(self.calls, 1):
            found.setdefault(call, []).append(number)
        return found

    def draw(self, chance: random.Random) -> Iterator[Fault]:
        """Every distinct call, with every error, once or from then on, cut short, and killed there; at random."""
        sites = self.sites()
        kinds = [(site, error, how) for site in sites for error in ERRORS for how in (ONCE, FROM_THEN_ON)]
        kinds += [(site, "ENOSPC", HALF) for site in sites if site.startswith(("write", "pwrite"))]
        kinds += [(site, "ENOSPC", DIE) for site in sites]
        chance.shuffle(kinds)
        for site, error, how in kinds:
            yield Fault(chance.choice(sites[site]), error, how)


@contextmanager
def bench(folder: Path, records: int) -> Iterator[Bench]:
    """Makes the data, the jobs and the first version below `folder`, and counts the calls of the second."""
    out, before = folder / "out", folder / "before"
    old, data = (make_data(folder / name, records=records, faults=True) for name in ("old", "data"))
    make_job(old, **{"version: 1.0.0": f"version: {FIRST}"})
    make_job(data)
    with Faults(folder, out) as faults:
        assert faults.run(Fault(), old).code == 0
        shutil.copytree(out, before)
        done = faults.run(Fault(), data)
        assert done.code == 0, done.output + done.errors
        first, second = digests(out / NAME / FIRST), digests(out / NAME / SECOND)
        yield Bench(faults, data, before, first, second, done.calls)


def check_fault(bench: Bench, fault: Fault) -> str:
    """Runs the second version's job with the fault and then without; gives what failed, and how the job ended.

    Raises:
      AssertionError: anything but a clear error, or a job that is done in spite of it; or what should stand does not.
    """
    bench.restart()
    out = bench.faults.out / NAME
    done = bench.faults.run(fault, bench.data)
    said = f"{fault} {done.failed[:1]} → {done.code}\n{done.output}{done.errors}"
    if fault.how == DIE:
        assert done.code == -signal.SIGKILL, said
    elif done.code:
        assert done.code == 1, said
        assert done.errors.strip() == "", said
        error = json.loads(done.output)["error"]
        assert error["what"].startswith("Cannot write: "), said
        assert Path(error["where"]).is_relative_to(bench.faults.out), said
        assert error["hint"], said
        assert fault.how != HALF, said
    assert digests(out / FIRST) == bench.first, said
    if done.code == 0 or (out / SECOND).exists():
        assert digests(out / SECOND) == bench.second, said
    if fault.how not in (FROM_THEN_ON, DIE):  # else nothing can be removed either
        assert not list(out.rglob("*.tmp")), said
    again = bench.faults.run(Fault(), bench.data)
    assert again.code == 0, said + again.output + again.errors
    assert digests(out / SECOND) == bench.second, said
    assert digests(out / FIRST) == bench.first, said
    assert not list(out.rglob("*.tmp")), said
    what = "killed at" if fault.how == DIE else fault.error
    return f"{what} {done.failed[0] if done.failed else 'nothing'} → {done.code}"


def main() -> None:
    """Forks a job for each line of standard input, and prints its exit code."""
    import beam_jobs.job  # noqa: F401  # what takes its time
    from beam_jobs.cli import entry

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
