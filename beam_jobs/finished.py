"""Runs that an earlier stage of the same job has finished."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from beam_jobs.build import RunSummary
from beam_jobs.plan import JobPlan
from beam_jobs.runs import Run, open_run
from schemas import HeadraceError

Stamp = tuple[int, ...]

_KEPT = 256  # 16 MiB at most
_opened: dict[str, tuple[Stamp, Run]] = {}  # by the name of a local file, and what changes when that does


def open_runs(plan: JobPlan, summaries: Sequence[RunSummary]) -> Iterator[Run]:
    """The runs of all summaries, one at a time.

    Raises:
      HeadraceError: one has vanished since it was written.
    """
    for summary in summaries:
        yield open_finished(plan, summary.run)


def open_finished(plan: JobPlan, name: str) -> Run:
    """The run of that file name, which an earlier stage has written.

    Every shard asks for all of them again, so those of a small job are opened once.
    """
    path = plan.workspace.runs / name
    local = path.store.local(path.path)
    stamp = None if local is None else _stamp(local)
    before = None if local is None else _opened.get(local)
    if before is not None and before[0] == stamp:
        return replace(before[1], path=path)
    run = open_run(path)
    if run is None:
        raise HeadraceError(
            "A finished run has vanished from the work directory, or was damaged.",
            where=str(path),
            hint="Run the same command again. Every worker must see the same --out directory.",
        )
    if local is not None and stamp is not None:
        if len(_opened) >= _KEPT:
            _opened.clear()
        _opened[local] = stamp, run
    return run


def _stamp(name: str) -> Stamp | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        status = os.stat(name)  # noqa: PTH116
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
