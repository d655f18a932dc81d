"""The proof that no group lies in two splits: all records looked at, by a hash of their group, before shards exist."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from beam_jobs.build import RunSummary
from beam_jobs.placing import Placing, place_as_written
from beam_jobs.plan import JobPlan
from beam_jobs.runs import partition_of
from beam_jobs.spill import Spill
from beam_jobs.splits import leak_fact
from schemas import HeadraceError
from schemas.manifest import LeakProof

_EXAMPLES = 2
_PAIR = np.dtype([("group", "<u8"), ("split", "<i2")])  # a group that has records in a split

Groups = npt.NDArray[np.uint64]


def prove_groups(plan: JobPlan, summaries: Sequence[RunSummary]) -> dict[str, LeakProof]:
    """How many values each of the job's group columns has, none of them in two splits.

    Raises:
      HeadraceError: some are; it counts them and says where the records of a few are.
    """
    return {column: _prove(plan, summaries, column) for column in plan.spec.split.groups}


def _prove(plan: JobPlan, summaries: Sequence[RunSummary], column: str) -> LeakProof:
    groups, found = 0, [np.zeros(0, np.uint64)]
    expected = sum(records for summary in summaries for records, _ in summary.splits)
    with Spill(_PAIR, expected) as spilled:
        for summary in summaries:
            pairs = _pairs(place_as_written(plan, summary), column)
            spilled.add(pairs, pairs["group"])
        for part in spilled.ranges():
            pairs = np.unique(part)
            values, splits = np.unique(pairs["group"], return_counts=True)
            groups += len(values)
            found.append(values[splits > 1])
    straddling = np.concatenate(found)
    if len(straddling):
        raise HeadraceError(
            f"Values of {column!r} that have records in two splits: {len(straddling):,} of {groups:,}. "
            "The splits would leak, so nothing was committed.",
            where="split.by" if column == plan.spec.split.by else "split.leaks",
            value="; ".join(_example(plan, summaries, column, group) for group in straddling[:_EXAMPLES]),
            allowed="each value in one split",
            hint="Split by that column (`by:`), or mend the column, the lists or the times.",
        )
    return LeakProof(groups=groups)


def _pairs(placing: Placing, column: str) -> npt.NDArray[np.void]:
    """The groups of a run's written records, each once with every split that it has records in."""
    values = placing.fact(leak_fact(column))
    chosen = placing.written & (values != 0)
    pairs = np.zeros(int(chosen.sum()), _PAIR)
    pairs["group"], pairs["split"] = values[chosen], placing.final[chosen]
    return np.unique(pairs)


def _example(plan: JobPlan, summaries: Sequence[RunSummary], column: str, group: np.uint64) -> str:
    """Where a record of a group is, in each of two splits."""
    found: dict[str, str] = {}
    for summary in summaries:
        placing = place_as_written(plan, summary)
        here = np.flatnonzero((placing.fact(leak_fact(column)) == group) & placing.written)
        for place in here.tolist():
            name = plan.split_names[int(placing.final[place])]
            if name not in found:
                partition = partition_of(placing.run)
                origin = plan.source(summary.source).origin(partition, int(placing.index["row"][place]))
                found[name] = f"{origin} is in {name}"
        if len(found) > 1:
            break
    return ", ".join(found[name] for name in plan.split_names if name in found)
