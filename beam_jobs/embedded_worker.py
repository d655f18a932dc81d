"""A worker process of the embedded runner that ends with its job, and is not forgotten while it lives.

Beam's own would finish what it has begun after its job was killed, and write into what the next job is working on.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import signal
import sys
from pathlib import Path

from beam_jobs.lock import shared
from beam_jobs.wire import WithoutKnownErrors

MODULE = "beam_jobs.embedded_worker"
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def command(lock: Path | None) -> str:
    """The shell command that starts a worker of this process, whose job holds `lock`, if any."""
    # `exec`, since a shell between the two would outlive the job in the worker's place.
    return "exec " + shlex.join(
        [sys.executable, "-m", MODULE, str(os.getpid()), *([] if lock is None else [str(lock)])]
    )


def main() -> None:
    """Runs Beam's worker until the job is done, or is no more."""
    job, locks = int(sys.argv[1]), [Path(lock) for lock in sys.argv[2:]]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The signal takes a moment, and longer where a write hangs; until then no other job may begin.
    held = [shared(lock) for lock in locks]
    if None in held or os.getppid() != job:
        sys.exit("The job of this worker has ended.")
    # The job tells what goes wrong; Beam would print several tracebacks of it, and by its import all that it logs.
    logging.getLogger().addHandler(logging.NullHandler())
    sys.stderr = WithoutKnownErrors(sys.stderr)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])


if __name__ == "__main__":
    main()
