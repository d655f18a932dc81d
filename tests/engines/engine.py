"""What the tests of engines share: where the engines are, commands and their processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tests.jobs.small_job import JOB

ROOT = Path(__file__).resolve().parents[2]
ENGINES = Path(os.environ.get("HEADRACE_ENGINES", ROOT / ".engines"))
PRISM = ENGINES / "prism"
WORKER = Path(sys.executable).with_name("headrace-worker")
GRADE = "tests.jobs.small_job:grade"
SLOW = {GRADE: "tests.engines.functions:slow"}
CHATTY = {GRADE: "tests.engines.functions:chatty"}
assert GRADE in JOB
# Rules that need all records together, and rules that learn from the train split before the job's own pipeline.
LATE = {
    "by: module}": "by: module, exact: groups, cap: {by: label, most: 30}}",
    "index:": "duplicates: {checks: [{near: {feature: image}}, {exact: [image]}]}\nindex:",
}
LEARNT = {
    "features:\n": "  - {cast: {probability: float64}}\n  - {outliers: probability, iqr: 0.1, action: clip}\n"
    "  - {weights: weight, by: label}\nfeatures:\n  weight: {type: float32}\n",
}


def prism(*flags: str) -> list[str]:
    """Options for Prism, which must be there."""
    assert PRISM.exists(), f"{PRISM} is missing: run scripts/engines"
    return ["--runner=PrismRunner", f"--prism_location={PRISM}", *flags]


def start(
    data: Path, out: Path, flags: Sequence[str], *, cwd: Path = ROOT, prefix: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """`headrace run` as a process with all that it prints in a pipe."""
    # A shell starts what it runs in the background deaf to SIGINT, and CI may be run so.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{hearing}; import sys; from beam_jobs.cli import entry; sys.exit(entry())"
    arguments = ["run", str(data / "job.yaml"), f"--var=data={data}", f"--out={out}", *flags]
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", command, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output(process: subprocess.Popen[str], *, code: int, timeout: float = 120) -> str:
    """All that a process prints until it ends with `code`; none of Beam's tracebacks may be in it."""
    try:
        printed = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    print(printed)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    return printed


def await_first_run(process: subprocess.Popen[str], out: Path) -> list[psutil.Process]:
    """Waits until the first partition is done; gives the processes that the job has started by then."""
    await_(lambda: process.poll() is not None or any(out.glob("cells/.headrace/runs/*.run")))
    assert process.poll() is None, process.communicate()[0]
    return psutil.Process(process.pid).children(recursive=True)


def one(processes: Sequence[psutil.Process], what: str) -> psutil.Process:
    """The process whose command holds `what`."""
    (found,) = (process for process in processes if what in " ".join(process.cmdline()))
    return found


def await_(condition: Callable[[], bool], seconds: float = 180) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process of ours."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
