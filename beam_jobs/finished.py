"""Runs that an earlier stage of the same job has finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from beam_jobs.build import RunSummary
from beam_jobs.plan import JobPlan
from beam_jobs.runs import Run, open_run
from schemas import HeadraceError


def open_runs(plan: JobPlan, summaries: Sequence[RunSummary]) -> Iterator[Run]:
    """The runs of all summaries, one at a time.

    Raises:
      HeadraceError: one has vanished since it was written.
    """
    for summary in summaries:
        yield open_finished(plan, summary.run)


def open_finished(plan: JobPlan, name: str) -> Run:
    """The run of that file name, which an earlier stage has written."""
    run = open_run(plan.workspace.runs / name)
    if run is None:
        raise HeadraceError(
            "A finished run has vanished from the work directory, or was damaged.",
            where=str(plan.workspace.runs / name),
            hint="Run the same command again. Every worker must see the same --out directory.",
        )
    return run
