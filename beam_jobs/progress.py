"""Progress, seen from outside: finished runs and shards are files, whichever runner makes them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from beam_jobs.plan import JobPlan

_POLL_SECONDS = 0.25
_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class State:
    """How far a job is: finished partitions of all, finished shards."""

    runs: int
    all_runs: int
    shards: int

    def line(self) -> str:
        """The state as a line of a log."""
        if self.runs < self.all_runs or not self.shards:
            return f"prepared {self.runs} of {self.all_runs} partitions"
        return f"prepared all {self.all_runs} partitions, wrote {self.shards} shards"


@contextmanager
def shown(plan: JobPlan, run_names: Set[str], stream: TextIO | None = None) -> Iterator[None]:
    """Shows progress on `stream` (standard error) while the block runs: a bar on a terminal, lines elsewhere."""
    stream = stream or sys.stderr
    done = threading.Event()
    show = _bar if stream.isatty() else _lines
    thread = threading.Thread(target=show, args=(plan, run_names, stream, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def observe(plan: JobPlan, run_names: Set[str]) -> State:
    """The state of a job by the files in its work directory."""
    runs = len(run_names & set(plan.workspace.runs.names()))
    shards = sum(name.endswith(".json") for name in plan.workspace.shard_notes.names())
    return State(runs, len(run_names), shards)


def _bar(plan: JobPlan, run_names: Set[str], stream: TextIO, done: threading.Event) -> None:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        preparing = progress.add_task("Preparing", total=len(run_names), unit="partitions")
        writing = progress.add_task("Writing", total=None, unit="shards", visible=False)
        # Elsewhere, each look is a few requests.
        while not done.wait(_LINE_SECONDS if plan.workspace.root.store.durable else _POLL_SECONDS):
            state = observe(plan, run_names)
            progress.update(preparing, completed=state.runs)
            progress.update(writing, completed=state.shards, visible=state.shards > 0)


def _lines(plan: JobPlan, run_names: Set[str], stream: TextIO, done: threading.Event) -> None:
    started, last, shown_line = time.monotonic(), time.monotonic(), ""
    while not done.wait(_POLL_SECONDS):
        if time.monotonic() - last < _LINE_SECONDS:
            continue
        last = time.monotonic()
        line = observe(plan, run_names).line()
        if line != shown_line:
            print(f"[{last - started:5.0f} s] {line}", file=stream, flush=True)
            shown_line = line
