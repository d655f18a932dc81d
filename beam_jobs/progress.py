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

from beam_jobs.store_path import StorePath

_POLL_SECONDS = 0.25
_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class Watched:
    """The files by which work is seen.

    Attributes:
      verb: what becomes of a partition, as in "prepared".
      directory: where a file appears for each that is done.
      names: of those files.
      shards: where a file appears for each finished shard, if the work ends with shards.
    """

    verb: str
    directory: StorePath
    names: Set[str]
    shards: StorePath | None = None

    def look(self) -> State:
        """How far the work is."""
        done = len(self.names & set(self.directory.names()))
        shards = [] if self.shards is None else self.shards.names()
        return State(self.verb, done, len(self.names), sum(name.endswith(".json") for name in shards))


@dataclass(frozen=True)
class State:
    """How far work is: finished partitions of all, finished shards."""

    verb: str
    done: int
    partitions: int
    shards: int

    def line(self) -> str:
        """The state as a line of a log."""
        if self.done < self.partitions or not self.shards:
            return f"{self.verb} {self.done} of {self.partitions} partitions"
        return f"{self.verb} all {self.partitions} partitions, wrote {self.shards} shards"


@contextmanager
def shown(watched: Watched, stream: TextIO | None = None) -> Iterator[None]:
    """Shows progress on `stream` (standard error) while the block runs: a bar on a terminal, lines elsewhere."""
    stream = stream or sys.stderr
    done = threading.Event()
    show = _bar if stream.isatty() else _lines
    thread = threading.Thread(target=show, args=(watched, stream, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _bar(watched: Watched, stream: TextIO, done: threading.Event) -> None:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        working = progress.add_task(watched.verb.capitalize(), total=len(watched.names), unit="partitions")
        writing = progress.add_task("Written", total=None, unit="shards", visible=False)
        # Elsewhere, each look is a few requests.
        while not done.wait(_LINE_SECONDS if watched.directory.store.durable else _POLL_SECONDS):
            state = watched.look()
            progress.update(working, completed=state.done)
            progress.update(writing, completed=state.shards, visible=state.shards > 0)


def _lines(watched: Watched, stream: TextIO, done: threading.Event) -> None:
    started, last, shown_line = time.monotonic(), time.monotonic(), ""
    while not done.wait(_POLL_SECONDS):
        if time.monotonic() - last < _LINE_SECONDS:
            continue
        last = time.monotonic()
        line = watched.look().line()
        if line != shown_line:
            print(f"[{last - started:5.0f} s] {line}", file=stream, flush=True)
            shown_line = line
