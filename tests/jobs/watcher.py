"""A reader that polls a data set's directory while jobs write there: `python -m tests.jobs.watcher OUT/NAME`.

Whatever it can see must be whole: a version with a manifest and every file of it, of the right size and SHA-256, and
nothing beside them; and once seen, a version must never change. It polls until its standard input ends, then prints
what it saw as JSON. It imports neither Beam nor anything else that a training host would not have.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas import HeadraceError, read_manifest
from schemas.manifest import all_files
from schemas.naming import MANIFEST

ROOT = Path(__file__).resolve().parents[2]
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_PAUSE_SECONDS = 0.002
_MAX_PROBLEMS = 20

Stamps = dict[str, tuple[int, int, int]]  # inode, size and time of change of every file


class Watch:
    """What the reader knows: every version it has seen, and what was wrong with any of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.polls = 0
        self.seen: dict[str, Stamps] = {}
        self.problems: list[str] = []

    def poll(self, *, in_full: bool = False) -> None:
        """Looks once; every byte is read of a version that is new, or of all of them."""
        self.polls += 1
        names = {path.name for path in self.root.iterdir()} if self.root.exists() else set()
        self._complain(
            f"{name} is no version" for name in names - {".headrace"} if not _VERSION.fullmatch(name)
        )
        self._complain(f"{name} has vanished" for name in self.seen.keys() - names)
        for name in names - {".headrace"}:
            before = self.seen.get(name)
            now = stamps(self.root / name)
            if before is None or in_full:
                self._complain(f"{name}: {problem}" for problem in problems_of(self.root / name))
            if before is not None and now != before:
                self._complain([f"{name} has changed: {sorted(set(now.items()) ^ set(before.items()))}"])
            self.seen[name] = now

    def report(self) -> dict[str, Any]:
        """What was seen, for JSON."""
        return {"polls": self.polls, "versions": sorted(self.seen), "problems": self.problems}

    def _complain(self, problems: Any) -> None:
        self.problems += list(problems)[: _MAX_PROBLEMS - len(self.problems)]


def stamps(version: Path) -> Stamps:
    """Inode, size and time of change of every file of a version."""
    found = {}
    for path in version.rglob("*"):
        if path.is_file():
            state = path.stat()
            found[str(path.relative_to(version))] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def problems_of(version: Path) -> list[str]:
    """What a reader would stumble over in a version that it can see."""
    try:
        manifest = read_manifest(version)
    except HeadraceError as error:
        return [str(error)]
    problems = []
    entries = {entry.path: entry for entry in all_files(manifest)}
    for path, entry in entries.items():
        try:
            data = (version / path).read_bytes()
        except OSError as error:
            problems.append(str(error))
            continue
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            problems.append(f"{path}: {len(data)} bytes where {entry.bytes} are listed, or another SHA-256")
    there = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
    problems += [f"{path} is not listed" for path in there - entries.keys() - {MANIFEST}]
    return problems


class Watcher:
    """The reader as a process of its own, for as long as the block runs; `report` is there afterwards."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Watcher:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.watcher", str(self._root)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "watching\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output = self._process.communicate(timeout=60)[0]
        assert self._process.returncode == 0
        self.report = json.loads(output)


def main() -> None:
    """Polls until standard input ends."""
    watch = Watch(Path(sys.argv[1]))
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("watching", flush=True)
    while not ended.is_set():
        watch.poll()
        time.sleep(_PAUSE_SECONDS)
    watch.poll(in_full=True)
    print(json.dumps(watch.report()))


if __name__ == "__main__":
    main()
