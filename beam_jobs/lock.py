"""One job at a time on one output: a lock that the operating system drops when its last holder dies.

A job takes it alone, then shares it with its worker processes, if it has any: another job can begin when all are gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beam_jobs.files import clear_errors
from schemas import HeadraceError

# What the worker processes of a job that was killed are given to end; they are killed with it.
_ORPHANS_SECONDS = 20.0
_POLL_SECONDS = 0.05


@contextmanager
def exclusive(path: Path, token: str) -> Iterator[None]:
    """Holds the lock file while the block runs; it holds `token` too.

    Raises:
      HeadraceError: another process holds it; the error says which.
    """
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(descriptor, path)
        with clear_errors(path):
            os.ftruncate(descriptor, 0)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "token": token}
            content, written = json.dumps(holder).encode(), 0
            while written < len(content):
                written += os.pwrite(descriptor, content[written:], written)
        if not _try(descriptor, fcntl.LOCK_SH):  # this lets go first: a job that comes in between may have it
            raise _held(path)
        yield
    finally:
        os.close(descriptor)


def shared(path: Path) -> int | None:
    """Holds the lock with the job that has it, until this process ends; None where a job is just about to take it.

    Whether the job that has it is the caller's own is for the caller to see, afterwards.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return descriptor if _try(descriptor, fcntl.LOCK_SH) else None


def _take(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while not _try(descriptor, fcntl.LOCK_EX):
        if not _is_dead(_holder(path)):
            raise _held(path)
        if time.monotonic() > deadline:
            raise HeadraceError(
                "Worker processes of a job that has died are still writing to this output.",
                where=str(path.parent.parent),
                value=_shown(_holder(path)),
                hint="Wait for them to end, or kill them; or give another --out.",
            )
        time.sleep(_POLL_SECONDS)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: Path) -> HeadraceError:
    return HeadraceError(
        "Another job is writing to this output.",
        where=str(path.parent.parent),
        value=_shown(_holder(path)),
        hint="Wait for it to end, or give another --out.",
    )


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(path.read_text())
        return {"pid": int(holder["pid"]), "host": str(holder["host"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _shown(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"


def _is_dead(holder: dict[str, Any] | None) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if holder is None or holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False
