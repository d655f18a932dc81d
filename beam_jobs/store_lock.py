"""One job at a time on one data set: a lock file, or a lock object that shows by its beat that its holder lives.

On this machine the operating system drops the lock when its holder dies. An object store does nothing of the kind, so
the holder writes its object anew every 15 s. Who finds a lock asks whether its process is dead, if it ran on this
machine, and else looks on for 4 minutes by its own clock: no clock of another machine, no time in the object counts.
Each step is a conditional write that only one of any number of jobs can win. An ended job leaves the object, free.

The lock is lost when another job has taken it from a holder that stood still for minutes; workers may even outlive
their dead holder. Every request of theirs that changes something asks for the lock's token right before. Publishing
writes the lock anew first, so that who looks on has to begin again.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from schemas import HeadraceError

WORK = ".headrace"  # the directory of everything that is no version
LOCK = f"{WORK}/lock"
MAX_LOCK_BYTES = 1 << 16
ABSENT = ""  # the tag of an object that is not there
_log = logging.getLogger("headrace.lock")


@dataclass(frozen=True)
class Rhythm:
    """Seconds: from beat to beat, without a beat until a holder counts as dead, from look to look."""

    beat: float = 15
    stale: float = 240
    look: float = 3


class Swaps(Protocol):
    """An object store with conditional writes."""

    def where(self, path: str) -> str:
        """The object's name, for people."""
        ...

    def get(self, path: str) -> tuple[bytes, str] | None:
        """The object and the tag of its state; None where there is none."""
        ...

    def swap(self, path: str, data: bytes, tag: str) -> str | None:
        """Writes an object whose state has that tag, or is `ABSENT`; gives its new tag, None if that is not so."""
        ...


@contextmanager
def held(store: Swaps, token: str, rhythm: Rhythm) -> Iterator[None]:
    """Holds the lock object while the block runs.

    Raises:
      HeadraceError: another process holds it; the error says which.
    """
    heart = _Heart(store, token, rhythm, _acquire(store, token, rhythm))
    heart.start()
    try:
        yield
    finally:
        heart.stop()


def renew(store: Swaps, token: str) -> None:
    """One more beat, by whoever is to publish.

    Raises:
      HeadraceError: the lock is lost.
    """
    while True:
        found = store.get(LOCK)
        if found is None or token_of(found[0]) != token:
            raise lost(store.where(""))
        holder = _parsed(found[0])
        again = json.dumps({**holder, "beat": holder["beat"] + 1}).encode()
        if store.swap(LOCK, again, found[1]) is not None:
            return


def token_of(content: bytes) -> str | None:
    """The token in a lock."""
    token = _parsed(content).get("token")
    return token if isinstance(token, str) else None


def lost(where: str) -> HeadraceError:
    """The error for a job whose lock another one has taken."""
    return HeadraceError(
        "This job has lost its lock on the output: another one took it, as this one gave no sign of life.",
        where=where,
        hint="Nothing of it was committed. Run the same command again once the other job has ended.",
    )


def _acquire(store: Swaps, token: str, rhythm: Rhythm) -> str:
    """Takes the lock; gives its tag."""
    mine, since = _content(token, 0), 0.0
    seen: bytes | None = None
    while True:
        found = store.get(LOCK)
        content, tag = found or (b"", ABSENT)
        holder = _parsed(content)
        alive = _is_alive(holder)
        stale = content == seen and time.monotonic() - since >= rhythm.stale
        if found is None or holder.get("free") is True or alive is False or stale:
            if found is not None and holder.get("free") is not True:
                _log.warning("Taking the lock of %s, which is dead.", _name(holder))
            new = store.swap(LOCK, mine, tag)
            if new is not None:
                return new
        elif alive or (seen is not None and content != seen):
            raise _busy(store.where(""), holder)
        elif content != seen:
            _log.warning(
                "%s holds the lock; up to %.0f s will show whether it lives.", _name(holder), rhythm.stale
            )
            seen, since = content, time.monotonic()
        else:
            time.sleep(rhythm.look)


class _Heart(threading.Thread):
    """Writes the lock anew every few seconds, until it is stopped or the lock is lost."""

    def __init__(self, store: Swaps, token: str, rhythm: Rhythm, tag: str) -> None:
        super().__init__(name="headrace-lock", daemon=True)
        self._store, self._token, self._rhythm, self._tag = store, token, rhythm, tag
        self._ended, self._beat = threading.Event(), 0

    def run(self) -> None:
        """Beats."""
        while not self._ended.wait(self._rhythm.beat):
            try:
                self._beat += 1
                if not self._swap(_content(self._token, self._beat)):
                    _log.error("%s", lost(self._store.where("")))
                    return
            except HeadraceError as error:
                _log.warning("The lock could not be kept up: %s", error)

    def stop(self) -> None:
        """Leaves the lock to the next one."""
        self._ended.set()
        self.join()
        try:
            self._swap(json.dumps({"free": True}).encode())
        except HeadraceError as error:  # it will be found without a beat
            _log.warning("The lock could not be given back: %s", error)

    def _swap(self, content: bytes) -> bool:
        """Writes the lock if it is ours still. Who publishes writes it too, so its tag may be another."""
        while True:
            tag = self._store.swap(LOCK, content, self._tag)
            if tag is not None:
                self._tag = tag
                return True
            found = self._store.get(LOCK)
            if found is None or token_of(found[0]) != self._token:
                return False
            self._tag = found[1]


def _content(token: str, beat: int) -> bytes:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "process": _process(os.getpid())}
    return json.dumps({**holder, "token": token, "beat": beat}).encode()


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool | None:
    """Whether the holder's process lives; None if that cannot be known here."""
    machine, _, _ = str(holder.get("process")).rpartition("/")
    if not isinstance(holder.get("pid"), int) or machine != _machine():
        return None
    return _process(holder["pid"]) == holder["process"]


def _process(pid: int) -> str:
    """A name of the process that no other has: its id may be used again, and is in other containers."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return f"{_machine()}/ended"
    return (
        f"{_machine()}/{'ended' if state in 'ZX' else fields[18]}"  # when it started, in ticks since the boot
    )


def _machine() -> str:
    """This boot of this machine, and the container in it whose process ids these are."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"unknown-{os.urandom(8).hex()}"


def _name(holder: dict[str, Any]) -> str:
    if isinstance(holder.get("pid"), int) and isinstance(holder.get("host"), str):
        return f"process {holder['pid']} on {holder['host']}"
    return "another process"


def _busy(where: str, holder: dict[str, Any]) -> HeadraceError:
    return HeadraceError(
        "Another job is writing to this output.",
        where=where,
        value=_name(holder),
        hint="Wait for it to end, or give another --out.",
    )
