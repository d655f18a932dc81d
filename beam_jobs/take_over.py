"""What a changed partition takes over of the version before: records that would come out as they did."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt

from beam_jobs.lookup import Table
from beam_jobs.making import Making
from beam_jobs.outcomes import UNUSABLE, WRITTEN, Outcomes, digests_at
from beam_jobs.placed import read_placement
from beam_jobs.plan import JobPlan
from beam_jobs.previous import is_among, repeated_hashes
from beam_jobs.runs import (
    INDEX_DTYPE,
    KeptRecords,
    Run,
    has_records,
    open_run,
    partition_of,
    read_facts,
    read_index,
    read_indexed,
    read_section,
)
from beam_jobs.sources.base import Partition, Selective

Rows = npt.NDArray[np.int64]


def is_finished(plan: JobPlan, run: Run, *, check: bool) -> bool:
    """Whether all records of a run that an earlier, unfinished job left can be read; see `has_records`."""
    previous = None if plan.previous is None else plan.previous.version
    return run.keeps_from in (None, previous) and has_records(run, check=check)


def is_taken_over(plan: JobPlan, run: Run) -> bool:
    """Whether the version before, which was made of the run, holds all records of it."""
    return not bool(is_left_out(plan, run).any() or is_repeated(plan, run).any())


def take_over(making: Making, source: Selective, partition: Partition, similar: Sequence[str]) -> list[int]:
    """Adds to a run what can be taken over; gives the rows that must be read.

    Args:
      making: the run.
      source: that of its partition.
      partition: that it is made of.
      similar: runs of the version before that may hold some of them.
    """
    plan = making.plan
    identities = source.identities(partition)
    rows = dict(zip(identities, range(len(identities)), strict=True))
    fresh = np.ones(len(rows), np.bool_)
    parts = []
    for name in similar:
        run = open_run(plan.workspace.runs / name, check=True)
        if run is None or not (data := read_section(run, "outcomes")):
            continue  # damaged or gone: read again
        old = Outcomes.decode(data)
        identities = source.identities(partition_of(run))
        found = np.fromiter(map(rows.get, identities, repeat(-1)), np.int64, len(identities))
        was = np.flatnonzero(found >= 0)
        now = found[was]
        index = read_index(run)
        place = np.full(len(old.codes), -1, np.int64)  # of each row in the index
        place[index["row"]] = np.arange(len(index))
        good = old.codes[was] != UNUSABLE
        for join in plan.spec.join:
            good &= _finds_the_same(making.table(join.table), old, join.table, was)
        written = old.codes[was] == WRITTEN
        missing = is_left_out(plan, run) | is_repeated(plan, run)
        good[written] &= ~missing[place[was[written]]]
        was, now = was[good], now[good]
        fresh[now] = False
        written = old.codes[was] == WRITTEN
        _note(making, old, was, now, index["hash"][place[was[written]]])
        parts.append(_records(plan, run, index, place[was[written]], now[written]))
    making.content.kept = _together(plan, parts)
    making.ledger.read += int((~fresh).sum())
    return np.flatnonzero(fresh).tolist()


def _finds_the_same(table: Table, old: Outcomes, name: str, was: Rows) -> npt.NDArray[np.bool_]:
    """Whether the rows of a table are today what records found when they looked for them, bool (n,)."""
    keys = [old.keys[name][row] for row in was.tolist()]
    found = digests_at(table, table.look_up(keys).firsts)
    same = [digest == old.digests[name][row] for digest, row in zip(found, was.tolist(), strict=True)]
    return np.array(same, np.bool_)


def _note(making: Making, old: Outcomes, was: Rows, now: Rows, hashes: npt.NDArray[np.void]) -> None:
    """Notes what dropped rows that are taken over, and which rows of tables they use; `hashes` are of those written."""
    assert making.outcomes is not None
    codes = old.codes[was]
    for code, rule in enumerate(old.rules, 1):
        if (codes == code).any():
            making.ledger.dropped[rule].append(now[codes == code])
    for rule, repaired in old.repaired.items():
        if repaired[was].any():
            making.ledger.repaired[rule].append(now[repaired[was]])
    for join in making.plan.spec.join:
        name = join.table
        keys = [old.keys[name][row] for row in was.tolist()]
        making.outcomes.looked(name, now, keys, [old.digests[name][row] for row in was.tolist()])
        places = making.table(name).look_up(keys).firsts
        making.matched[name].append(places)
        making.note_written(name, places[codes == WRITTEN], hashes)


def _records(plan: JobPlan, run: Run, index: npt.NDArray[np.void], places: Rows, rows: Rows) -> KeptRecords:
    """The records at `places` of a run's index, which are `rows` of the partition now."""
    assert plan.previous is not None
    kept = np.zeros(len(places), INDEX_DTYPE)
    kept["hash"], kept["length"], kept["row"] = index["hash"][places], index["length"][places], rows
    splits = np.repeat(np.arange(len(run.splits)), [records for records, _ in run.splits])[places]
    indexed = read_indexed(run, plan.index_row, 0, len(index))[places] if plan.index_row.names else None
    facts = read_facts(run, plan.fact_row, 0, len(index))[places] if plan.facts else None
    return KeptRecords(plan.previous.version, kept, splits, indexed, facts)


def _together(plan: JobPlan, parts: list[KeptRecords]) -> KeptRecords | None:
    if not parts:
        return None
    indexed = [part.indexed for part in parts if part.indexed is not None]
    facts = [part.facts for part in parts if part.facts is not None]
    return KeptRecords(
        parts[0].version,
        np.concatenate([part.index for part in parts], dtype=INDEX_DTYPE),
        np.concatenate([part.splits for part in parts]),
        np.concatenate(indexed, dtype=plan.index_row) if indexed else None,
        np.concatenate(facts, dtype=plan.fact_row) if facts else None,
    )


def is_repeated(plan: JobPlan, run: Run) -> npt.NDArray[np.bool_]:
    """Which records of a run have a repeated key, of which the version before holds one record only, bool (n,)."""
    assert plan.previous is not None
    return is_among(
        read_index(run)["hash"], repeated_hashes(plan.workspace.of(plan.previous.version).repeated)
    )


def is_left_out(plan: JobPlan, run: Run) -> npt.NDArray[np.bool_]:
    """Which records of a run the version before, which was made of it, has left out by a late rule, bool (n,)."""
    assert plan.previous is not None
    count = sum(records for records, _ in run.splits)
    if not plan.previous.placed:
        return np.zeros(count, np.bool_)
    final = read_placement(plan.workspace.of(plan.previous.version).placements / run.path.name)
    if final is None or len(final) != count:
        return np.ones(count, np.bool_)  # nobody knows
    return np.asarray(final < 0)
