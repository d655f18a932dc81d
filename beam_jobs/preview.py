"""What a job would do, without doing it: `headrace run --dry-run`."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from beam_jobs.listing import Listed
from beam_jobs.outcomes import UNUSABLE, Outcomes
from beam_jobs.plan import JobPlan
from beam_jobs.planning import Job, import_from_here, plan_job
from beam_jobs.previous import find_previous, list_partitions, read_note
from beam_jobs.runners import parse_options
from beam_jobs.runs import open_run, partition_of, read_section
from beam_jobs.settle import shard_count
from beam_jobs.sources.base import is_selective
from beam_jobs.survey.run import passes
from beam_jobs.take_over import is_finished
from schemas.units import format_bytes


@dataclass(frozen=True)
class Preview:
    """What a job would do.

    Attributes:
      path: of the version.
      state: "new", "up to date" or "in the way", as another job made the version that exists.
      partitions, bytes: of the main source, and how much they hold.
      records: that they hold, where that is known beforehand.
      previous: the version from which records would be taken over.
      unchanged: partitions that are as they were then.
      finished: partitions that an unfinished job has done.
      kept: records of all other partitions that would be taken over, at most: joined tables may have changed.
      to_read: bytes of the main source that would be read.
      tables: bytes of each joined table, which is read in full.
      shuffled: into how many files each table is shuffled that is too large to be held by every worker.
      shards: of each split.
      surveys: how often the main sources are read before, for rules that learn from the train split; what can be taken
        over is known only then.
      exact: whether the numbers of shards are asked for, rather than guessed from the sizes of sources.
    """

    path: str
    state: str
    partitions: int
    bytes: int
    records: int | None
    previous: str | None
    unchanged: int
    finished: int
    kept: int
    to_read: int
    tables: dict[str, int]
    shuffled: dict[str, int]
    shards: dict[str, int]
    surveys: int
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """The preview for scripts."""
        return dataclasses.asdict(self)


def preview(
    job: Job, out: str | Path = "out", options: Sequence[str] = (), *, from_scratch: bool = False
) -> Preview:
    """Looks at sources and at what there is already; reads no record and writes nothing. Arguments as of `run`.

    Raises:
      HeadraceError: as `run`, for all that is known before a record is read.
    """
    import_from_here()
    parse_options(options)
    plan, partitions = plan_job(job, out)
    surveys = len(passes(plan.spec.clean))
    if not (from_scratch or surveys):
        plan = dataclasses.replace(plan, previous=find_previous(plan))
    unchanged = finished = kept_records = to_read = size = 0
    records: int | None = 0
    for each in list_partitions(plan, partitions):
        size += each.partition.bytes
        known = each.partition.records
        records = None if records is None or known is None else records + known
        if each.committed:
            unchanged += 1
        elif (run := open_run(plan.workspace.runs / each.run)) is not None and is_finished(
            plan, run, check=False
        ):
            finished += 1
        else:
            kept = _kept(plan, each)
            kept_records += kept
            share = 1 - kept / each.partition.records if each.partition.records else 1.0
            to_read += round(share * each.partition.bytes)
    write = plan.spec.write
    return Preview(
        path=str(plan.workspace.dataset),
        state=_state(plan),
        partitions=len(partitions),
        bytes=size,
        records=records,
        previous=None if plan.previous is None else plan.previous.version,
        unchanged=unchanged,
        finished=finished,
        kept=kept_records,
        to_read=to_read,
        tables={name: sum(p.bytes for p in found) for name, found in plan.table_partitions.items()},
        shuffled={name: files.buckets for name, files in plan.tables.items() if files.shuffled},
        shards={name: shard_count(write, name, round(share * size)) for name, share in _shares(plan).items()},
        surveys=surveys,
        exact=write.shards is not None,
    )


def _shares(plan: JobPlan) -> dict[str, float]:
    """The share of each split: where the data decide, as if all had the same."""
    split = plan.spec.split
    even = dict.fromkeys(split.names, 1 / len(split.names))
    return split.fractions if split.kind == "fractions" else even


def _state(plan: JobPlan) -> str:
    if not plan.workspace.is_committed:
        return "new"
    note = read_note(plan.workspace.inputs)
    return "up to date" if note is not None and note.inputs == plan.inputs else "in the way"


def _kept(plan: JobPlan, listed: Listed) -> int:
    """Records of a changed partition whose source is as it was."""
    source = plan.source(listed.partition.source)
    if not listed.similar or not is_selective(source):
        return 0
    usable = set[Hashable]()
    for name in listed.similar:
        run = open_run(plan.workspace.runs / name)
        if run is not None and (data := read_section(run, "outcomes")):
            old = Outcomes.decode(data)
            usable.update(compress(source.identities(partition_of(run)), old.codes != UNUSABLE))
    return sum(identity in usable for identity in source.identities(listed.partition))


def preview_lines(found: Preview, source: str) -> list[str]:
    """The preview as a person wants to read it."""
    name, version = found.path.split("/")[-2:]
    head = {
        "new": f"{name} {version} would be prepared. Nothing was read or written.",
        "up to date": f"{name} {version} is up to date: nothing would be read or written again.",
        "in the way": f"{name} {version} exists already, made from other inputs; give the job a new `version:`.",
    }[found.state]
    records = "" if found.records is None else f"{found.records:,} records in "
    rows = [
        (source, f"{records}{_count(found.partitions, 'partition')}, {format_bytes(found.bytes)}"),
        *((table, _table(found, table)) for table in found.tables),
    ]
    if found.state == "new":
        if found.previous is not None:
            parts = [f"{_count(found.unchanged, 'partition')} as a whole"] if found.unchanged else []
            parts += [f"of the others {_count(found.kept, 'record')} at most"] if found.kept else []
            rows.append(("taken over", f"from {found.previous}: {', '.join(parts) or 'nothing'}"))
        if found.finished:
            rows.append(("finished", f"{_count(found.finished, 'partition')}, by a job that was stopped"))
        if found.surveys:
            times = "once" if found.surveys == 1 else f"{found.surveys} times"
            rows.append(
                ("survey", f"the train split is read {times} before; then it is known what is taken over")
            )
        rows.append(("to read", format_bytes(found.to_read)))
        for split, shards in found.shards.items():
            text = _count(shards, "shard")
            rows.append((split, text if found.exact else f"about {text}, by the size of the source"))
    return [
        head,
        "",
        *(f"  {what:<12} {text}" for what, text in rows),
        "",
        f"  {'data set':<12} {found.path}",
    ]


def _table(found: Preview, name: str) -> str:
    """How a table is joined."""
    size = format_bytes(found.tables[name])
    if name in found.shuffled:
        return f"{size}, a table, read in full and shuffled by key into {found.shuffled[name]:,} files"
    return f"{size}, a table, read in full and held by every worker"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
