"""One run whose records are being placed: what the rules of `beam_jobs.placement` see and change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from beam_jobs.build import RunSummary
from beam_jobs.finished import open_finished
from beam_jobs.placed import Final, code_of, read_places
from beam_jobs.plan import JobPlan
from beam_jobs.runs import Run, read_facts, read_index

Chosen = npt.NDArray[Any]  # of a run's records: bool (n,), or int64 places


@dataclass(frozen=True)
class Placing:
    """A run whose records are being placed.

    Attributes:
      plan: of the job.
      summary: of the run.
      run: itself.
      final: int16 (n,), where each record goes so far: the number of a split, or negative.
    """

    plan: JobPlan
    summary: RunSummary
    run: Run
    final: Final

    @staticmethod
    def of(plan: JobPlan, summary: RunSummary, decisions: Sequence[Decision]) -> Placing:
        """A run's records as the decisions have left them."""
        run = open_finished(plan, summary.run)
        counts = [records for records, _ in run.splits]
        placing = Placing(plan, summary, run, np.repeat(np.arange(len(counts), dtype=np.int16), counts))
        for decision in decisions:
            decision.apply(placing)
        return placing

    @cached_property
    def index(self) -> npt.NDArray[np.void]:
        """The run's index, `INDEX_DTYPE` (n,)."""
        return read_index(self.run)

    def fact(self, name: str) -> npt.NDArray[Any]:
        """What is noted of the records beside them, n values; see `beam_jobs.facts`. Other facts are not read."""
        row = np.dtype([(name, self.plan.fact_row[name])])
        values: npt.NDArray[Any] = read_facts(self.run, row, 0, len(self.final))[name]
        return values

    @property
    def written(self) -> npt.NDArray[np.bool_]:
        """Which records are not left out so far, bool (n,)."""
        return np.asarray(self.final >= 0)

    def leave_out(self, chosen: Chosen, rule: str) -> None:
        """Leaves records out by one of `RULES`, which the books count; those left out before stay with theirs."""
        self.final[chosen] = np.where(self.final[chosen] < 0, self.final[chosen], code_of(rule))

    def move(self, chosen: Chosen, splits: npt.NDArray[np.integer[Any]]) -> None:
        """Moves records to the splits of these numbers; those left out before stay so."""
        self.final[chosen] = np.where(self.final[chosen] < 0, self.final[chosen], splits)


def place_as_written(plan: JobPlan, summary: RunSummary) -> Placing:
    """A run's records as they were placed in the end."""
    placing = Placing.of(plan, summary, [])
    if not summary.placed:
        return placing
    path = plan.workspace.placements / summary.run
    return replace(placing, final=read_places(path, 0, len(placing.final)))


class Decision(Protocol):
    """What a rule makes of all records. It goes to every worker: small, or the name of a file in the work directory."""

    def apply(self, placing: Placing) -> None:
        """Places the records of one run: a function of the decision and the run alone."""


@dataclass(frozen=True)
class Runs:
    """All runs of a job, in the order of their sources: called, it goes through them from the beginning.

    Attributes:
      plan: of the job.
      summaries: of the runs, in order.
      decisions: so far; what is seen is what they have left.
    """

    plan: JobPlan
    summaries: Sequence[RunSummary]
    decisions: Sequence[Decision]

    def __call__(self) -> Iterator[Placing]:
        """The runs, one at a time."""
        return (Placing.of(self.plan, summary, self.decisions) for summary in self.summaries)

    @property
    def records(self) -> int:
        """How many they hold together."""
        return sum(records for summary in self.summaries for records, _ in summary.splits)
