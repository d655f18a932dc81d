"""Placement: where records go that only all of them together can tell. Between building runs and settling.

Runs hold every record, sorted by the split that its own row gave it. Rules that look at all of them, such as a limit,
are decided in one place; a decision is small, and each run is then placed by itself: a number for each record in a file
beside it, which assembling follows. A job without such rules has no such files.

A rule is a decider, a line in `_DECIDERS`. It sees what the rules before it have left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from beam_jobs.build import RunSummary
from beam_jobs.gather import Gather
from beam_jobs.placed import RULES, Final, code_of, write_placement
from beam_jobs.plan import JobPlan
from beam_jobs.runs import Run, read_index
from beam_jobs.settle import open_finished
from beam_jobs.union import OVER_LIMIT, find_bound
from beam_jobs.wire import for_runners
from schemas.hashing import ranks

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


class Decision(Protocol):
    """What a rule makes of all records. It goes to every worker: small, or the name of a file in the work directory."""

    def apply(self, placing: Placing) -> None:
        """Places the records of one run: a function of the decision and the run alone."""


Runs = Callable[[], Iterator[Placing]]
Decider = Callable[[JobPlan, Runs], Decision | None]


@dataclass(frozen=True)
class Limits:
    """Of sources with more records than their limit.

    Attributes:
      bounds: the largest rank that is written, by source.
    """

    bounds: Mapping[str, int]

    def apply(self, placing: Placing) -> None:
        """Leaves out what is above its source's bound."""
        bound = self.bounds.get(placing.summary.source)
        if bound is not None:
            placing.leave_out(ranks(placing.index["hash"]) > np.uint64(bound), OVER_LIMIT)


def decide_limits(plan: JobPlan, runs: Runs) -> Limits | None:
    """The bounds of the sources that have more records than their limit, if there are any."""

    def found(source: str) -> Iterator[npt.NDArray[np.uint64]]:
        return (ranks(each.index["hash"][each.written]) for each in runs() if each.summary.source == source)

    bounds = {}
    for member in plan.spec.members:
        if member.limit is not None and sum(map(len, found(member.source))) > member.limit:
            bounds[member.source] = find_bound(member.limit, found(member.source), found(member.source))
    return Limits(bounds) if bounds else None


# In this order; `JobSpec.placed_late` says whether a job has any of them.
_DECIDERS: tuple[Decider, ...] = (decide_limits,)


@for_runners
def decide(summaries: Sequence[RunSummary], plan: JobPlan) -> list[Decision]:
    """What all rules make of all records; empty where no record goes elsewhere than its own row said."""
    summaries = sorted(summaries, key=lambda summary: summary.ordinal)
    decisions: list[Decision] = []

    def runs() -> Iterator[Placing]:
        return (Placing.of(plan, summary, decisions) for summary in summaries)

    for decider in _DECIDERS:
        decision = decider(plan, runs)
        if decision is not None:
            decisions = [*decisions, decision]
    return decisions


@for_runners
def place_run(summary: RunSummary, plan: JobPlan, decisions: Sequence[Decision]) -> RunSummary:
    """Writes where a run's records go; gives its summary with that in the counts."""
    if not decisions:
        return summary
    placing = Placing.of(plan, summary, decisions)
    lengths = placing.index["length"]
    left = Counter({rule: int((placing.final == code_of(rule)).sum()) for rule in RULES})
    splits = [placing.final == split for split in range(len(plan.split_names))]
    return replace(
        summary,
        dropped=dict(sorted((Counter(summary.dropped) + left).items())),
        splits=[(int(here.sum()), int(lengths[here].sum())) for here in splits],
        placed=write_placement(plan.workspace.placements / summary.run, placing.final),
    )


@dataclass(eq=False)
class PlaceRuns(beam.PTransform):
    """Summaries of runs to the same with their records placed; nothing at all for a job without such rules."""

    plan: JobPlan

    def expand(self, summaries: beam.PCollection[RunSummary]) -> beam.PCollection[RunSummary]:
        """RunSummary → RunSummary."""
        if not self.plan.spec.placed_late:
            return summaries
        decisions = summaries | "Gather" >> Gather() | "Decide" >> beam.Map(decide, self.plan)
        return summaries | "Place run" >> beam.Map(place_run, self.plan, beam.pvalue.AsSingleton(decisions))
