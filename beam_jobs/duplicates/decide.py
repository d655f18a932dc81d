"""The rule that leaves duplicates out: decided where all runs are at hand, applied run by run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_jobs.duplicates.buckets import Numbers
from beam_jobs.duplicates.find import Compared, Members, choose, compared, find_clusters
from beam_jobs.duplicates.gathered import RECORD, Gathered, gather
from beam_jobs.duplicates.report import Findings, Named, write_report
from beam_jobs.duplicates.signatures import read_signatures, signature_facts
from beam_jobs.facts import Fact, row_of
from beam_jobs.placed import EXACT_DUPLICATE, NEAR_DUPLICATE, read_placement
from beam_jobs.placing import Placing, Runs
from beam_jobs.plan import JobPlan
from beam_jobs.previous import is_among
from beam_jobs.runs import read_facts
from beam_jobs.store_path import StorePath
from schemas import read_manifest
from schemas.duplicates import Duplicates
from schemas.hashing import KEY_HASH_DTYPE, as_sortable, fingerprint
from schemas.manifest import DuplicatesEntry
from schemas.storage import open_place

_OUT = np.dtype([("place", "<i8"), ("exact", "?")])
_LEFT = np.dtype([("run", "<i4"), ("place", "<i8"), ("cluster", "<i8")])
_DONE, _REPORT, _STAYING = "done.json", "report.parquet", "staying.bin"


@dataclass(frozen=True)
class LeftOut:
    """The decision: a file for each run with records that are left out.

    Attributes:
      directory: of those files, below the work directory.
    """

    directory: str

    def apply(self, placing: Placing) -> None:
        """Leaves out what the run's file says, if there is one."""
        try:
            data = (placing.plan.workspace.placements / self.directory / placing.summary.run).read()
        except FileNotFoundError:
            return
        out = np.frombuffer(data, _OUT)
        for exact, rule in ((True, EXACT_DUPLICATE), (False, NEAR_DUPLICATE)):
            placing.leave_out(out["place"][out["exact"] == exact], rule)


def decide_duplicates(plan: JobPlan, runs: Runs) -> LeftOut | None:
    """Finds all duplicates of a job that asks for it, and writes down which records go, and what is to be reported."""
    rule = plan.spec.duplicates
    if rule is None:
        return None
    names = [placing.summary.run for placing in runs()]
    directory = results(plan, names)
    if not (directory / _DONE).exists():
        _decide(plan, rule, runs, names, directory)
    return LeftOut(directory.name)


def results(plan: JobPlan, runs: Sequence[str]) -> StorePath:
    """Where what was found among these runs is written down."""
    return plan.workspace.placements / f"duplicates-{fingerprint(plan.code, plan.inputs, list(runs))}"


def _decide(plan: JobPlan, rule: Duplicates, runs: Runs, names: Sequence[str], directory: StorePath) -> None:
    facts = signature_facts(plan.spec, plan.features)
    checks = [compared(check, plan.features) for check in rule.checks]
    # With exact fractions no record has its split yet: then all are one tier.
    splits = [None] if plan.spec.split.ranked else list(range(len(plan.split_names)))
    own = (
        (_records(number, placing, facts, split) for number, placing in enumerate(runs())) for split in splits
    )
    gathered = gather(chain([_earlier(plan, facts)], own), facts)
    members = choose(gathered, find_clusters(gathered, checks), rule, _continued(plan, gathered))
    found = Findings(gathered, members, _why(gathered, checks, members), names)
    _write_out(found, directory)
    kept = gathered.records[members.numbers[~members.out]]
    left = np.zeros(len(kept), _LEFT)
    left["run"], left["place"], left["cluster"] = kept["run"], kept["place"], members.survivors[~members.out]
    (directory / _STAYING).write(left.tobytes(), durable=False)
    write_report(directory / _REPORT, plan, found)
    done = {
        "records": len(gathered) - gathered.earlier,
        "clusters": len(np.unique(members.survivors)),
        "left_out": int(members.out.sum()),
        "pairs_across_splits": members.across,
    }
    (directory / _DONE).write(json.dumps(done).encode(), durable=False)


def _records(
    number: int, placing: Placing, facts: Sequence[Fact], split: int | None
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void]]:
    """The records of a run, or of a split of it, that no rule has left out, and their signatures, in source order."""
    index = placing.index
    places = np.flatnonzero(placing.written if split is None else placing.final == split)
    places = places[
        np.lexsort((index["hash"]["lo"][places], index["hash"]["hi"][places], index["row"][places]))
    ]
    records = np.zeros(len(places), RECORD)
    records["run"], records["place"], records["split"] = number, places, placing.final[places]
    for name in ("row", "length", "hash"):
        records[name] = index[name][places]
    return records, read_facts(placing.run, row_of(facts), 0, len(index))[places]


def _earlier(
    plan: JobPlan, facts: Sequence[Fact]
) -> Iterator[tuple[npt.NDArray[np.void], npt.NDArray[np.void]]]:
    """The records of the versions to compare with, and their signatures."""
    for number, (directory, _) in enumerate(plan.against.values()):
        place, manifest = open_place(directory), read_manifest(directory)
        for split, entry in manifest.splits.items():
            code = plan.split_names.index(split) if split in plan.split_names else np.iinfo(np.int16).max
            for shard in entry.shards:
                hashes, rows = read_signatures(place, manifest, shard, facts)
                records = np.zeros(len(rows), RECORD)
                records["run"], records["split"] = -1 - number, code
                records["hash"] = as_sortable(hashes)
                yield records, rows


def _continued(plan: JobPlan, gathered: Gathered) -> npt.NDArray[np.bool_]:
    """Which records an earlier version of this data set has under the same key, bool of all records."""
    same = [
        -1 - number
        for number, (directory, _) in enumerate(plan.against.values())
        if (manifest := read_manifest(directory)).name == plan.spec.name
        and manifest.spec.get("seed", 0) == plan.spec.seed
    ]
    earlier = gathered.records[: gathered.earlier]
    known = np.sort(earlier["hash"][np.isin(earlier["run"], same)].astype(KEY_HASH_DTYPE))
    found = is_among(gathered.records["hash"], known.astype(KEY_HASH_DTYPE))
    return found & (np.arange(len(gathered)) >= gathered.earlier)


def _why(gathered: Gathered, checks: Sequence[Compared], members: Members) -> list[Named]:
    """By which check each member is a duplicate of its survivor, and how far from it.

    One that is like others of its cluster only has the nearest of its distances, and no check of its own.
    """
    kinds = np.full(len(members.numbers), -1, np.int64)
    nearest = np.full(len(members.numbers), np.inf)
    for place, check in enumerate(checks):
        found = np.concatenate(
            [
                np.zeros(0),
                *(
                    check.distances(gathered, members.numbers[part], members.survivors[part])
                    for part in _parts(len(members.numbers))
                ),
            ]
        )
        kinds = np.where((kinds < 0) & check.alike(found), place, kinds)
        nearest = np.where(kinds == place, found, np.where(kinds < 0, np.minimum(nearest, found), nearest))
    return [
        Named(
            checks[kind].name if kind >= 0 else "through others",
            kind >= 0 and checks[kind].check.near is None,
            far,
        )
        for kind, far in zip(kinds.tolist(), nearest.tolist(), strict=True)
    ]


def _parts(count: int, size: int = 1 << 14) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _write_out(found: Findings, directory: StorePath) -> None:
    members = found.members
    records = found.gathered.records[members.numbers[members.out]]
    exact = np.array([each.exact for each in found.named], np.bool_)[members.out]
    order = np.lexsort((records["place"], records["run"]))
    records, exact = records[order], exact[order]
    for run in np.unique(records["run"]).tolist():
        here = records["run"] == run
        out = np.zeros(int(here.sum()), _OUT)
        out["place"], out["exact"] = records["place"][here], exact[here]
        (directory / found.runs[run]).write(out.tobytes(), durable=False)


def describe_duplicates(plan: JobPlan, runs: Sequence[str]) -> tuple[DuplicatesEntry, bytes]:
    """What a manifest says of the duplicates of a job with these runs, and the file that lists them."""
    directory = results(plan, runs)
    done: dict[str, Any] = json.loads((directory / _DONE).read())
    if plan.spec.split.ranked:
        done["pairs_across_splits"] = _across_in_the_end(plan, runs, directory)
    against = {name: found for name, (_, found) in plan.against.items()}
    return DuplicatesEntry(**done, against=against), (directory / _REPORT).read()


def _across_in_the_end(plan: JobPlan, runs: Sequence[str], directory: StorePath) -> int:
    """The pairs across splits by where the records have gone in the end."""
    left = np.frombuffer((directory / _STAYING).read(), _LEFT)
    final = np.zeros(len(left), np.int64)
    for run in np.unique(left["run"]).tolist():
        placed = read_placement(plan.workspace.placements / runs[run])
        here = left["run"] == run
        final[here] = -1 if placed is None else placed[left["place"][here]]
    return pairs_across(left["cluster"][final >= 0], final[final >= 0])


def pairs_across(clusters: Numbers, splits: Numbers) -> int:
    """How many pairs of one cluster lie in different splits: all its pairs but those within a split."""
    sizes = Counter(clusters.tolist()).values()
    within = Counter(zip(clusters.tolist(), splits.tolist(), strict=True)).values()
    return sum(n * (n - 1) // 2 for n in sizes) - sum(n * (n - 1) // 2 for n in within)
