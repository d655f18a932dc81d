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

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from beam_jobs.build import RunSummary, complete_run
from beam_jobs.duplicates.decide import decide_duplicates
from beam_jobs.gather import Gather
from beam_jobs.place_splits import decide_caps, decide_fractions
from beam_jobs.placed import RULES, code_of, write_placement
from beam_jobs.placing import Decision, Placing, Runs
from beam_jobs.plan import JobPlan
from beam_jobs.union import OVER_LIMIT, find_bound
from beam_jobs.wire import for_runners
from schemas.hashing import ranks

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
_DECIDERS: tuple[Decider, ...] = (decide_limits, decide_duplicates, decide_fractions, decide_caps)


@for_runners
def decide(summaries: Sequence[RunSummary], plan: JobPlan) -> list[Decision]:
    """What all rules make of all records; empty where no record goes elsewhere than its own row said."""
    summaries = sorted(summaries, key=lambda summary: summary.ordinal)
    decisions: list[Decision] = []
    for decider in _DECIDERS:
        decision = decider(plan, Runs(plan, summaries, decisions))
        if decision is not None:
            decisions = [*decisions, decision]
    return decisions


@for_runners
def place_run(summary: RunSummary, plan: JobPlan, decisions: Sequence[Decision]) -> RunSummary:
    """Writes where a run's records go; gives its summary with that in the counts.

    What the version before left out of a run that is taken over, and this one does not, is read again.
    """
    placing = Placing.of(plan, summary, decisions)
    if summary.committed:
        summary = complete_run(summary, plan, placing.final)
    if not decisions:
        return summary
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
