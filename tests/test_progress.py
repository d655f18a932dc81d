"""Progress is what files say, on a terminal and in a log."""

from __future__ import annotations

import io
import os
import pty
import time
from pathlib import Path

import pytest

from beam_jobs import progress
from beam_jobs.local_store import LocalStore
from beam_jobs.progress import Watched, shown
from beam_jobs.store_path import StorePath


def watched(root: Path, *, with_shards: bool) -> Watched:
    for folder in ("runs", "notes"):
        (root / folder).mkdir()
    store = LocalStore(root)
    names = {"a.run", "b.run", "c.run"}
    shards = StorePath(store, "notes") if with_shards else None
    return Watched("prepared", StorePath(store, "runs"), names, shards)


def test_what_is_done_is_counted(tmp_path: Path) -> None:
    work = watched(tmp_path, with_shards=True)
    assert work.look().line() == "prepared 0 of 3 partitions"
    for name in ("a.run", "other.run", "b.run", ".c.run.1-2.tmp"):
        (tmp_path / "runs" / name).touch()
    assert work.look().line() == "prepared 2 of 3 partitions"
    (tmp_path / "runs" / "c.run").touch()
    assert work.look().line() == "prepared 3 of 3 partitions"
    (tmp_path / "notes" / "train-0.json").touch()
    assert work.look().line() == "prepared all 3 partitions, wrote 1 shards"


def test_a_log_gets_a_line_for_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.01)
    work, log = watched(tmp_path, with_shards=False), io.StringIO()
    with shown(work, log):
        for number, name in enumerate(sorted(work.names)):
            (tmp_path / "runs" / name).touch()
            _wait_for(log, f"prepared {number + 1} of 3 partitions")
    lines = [line.partition("] ")[2] for line in log.getvalue().splitlines()]
    assert lines[-1] == "prepared 3 of 3 partitions"
    assert len(lines) == len(set(lines)) <= 4


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    ours, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        work = watched(tmp_path, with_shards=False)
        (tmp_path / "runs" / "a.run").touch()
        with shown(work, stream):
            seen = b""
            while b"1/3" not in seen:
                seen += os.read(ours, 4096)
    assert b"Prepared" in seen
    assert b"partitions" in seen
    os.close(ours)


def _wait_for(log: io.StringIO, line: str) -> None:
    until = time.monotonic() + 60
    while line not in log.getvalue():
        assert time.monotonic() < until, log.getvalue()
        time.sleep(0.005)
