"""Running a job: plan, lock, pipeline, and a summary that a person wants to read."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.commit import write_letters
from beam_jobs.data_schema.gate import told_anomalies
from beam_jobs.listing import Listed, write_partitions
from beam_jobs.lookup import close_tables
from beam_jobs.materialize import materialize
from beam_jobs.memory import objects_set_aside
from beam_jobs.pipeline import build_pipeline
from beam_jobs.plan import JobPlan
from beam_jobs.planning import Job, import_from_here, list_entries, plan_job
from beam_jobs.previous import find_previous, list_partitions, read_note
from beam_jobs.progress import Watched, shown
from beam_jobs.runners import check_output, parse_options, run_pipeline
from beam_jobs.runs import open_run
from beam_jobs.settle import BUDGET_FIELD, read_letters
from beam_jobs.split_lists import write_lists
from beam_jobs.survey.run import survey
from beam_jobs.sweep import strip, sweep
from beam_jobs.transform.plan import plan_transform
from beam_jobs.wire import end_attempt
from beam_jobs.workspace import Workspace
from schemas import HeadraceError, Manifest, read_manifest
from schemas.anomalies import Anomaly, anomalies_json
from schemas.errors import shorten
from schemas.naming import DUPLICATES
from schemas.units import format_bytes

_SHOWN_ANOMALIES = 5


@dataclass(frozen=True)
class Result:
    """What a job came to.

    Attributes:
      path: directory of the committed version; a URL where it lies in an object store.
      manifest: its manifest.
      up_to_date: whether it was there already, made from the same inputs, so that nothing was done.
      other_code: whether an earlier state of Headrace made it.
      seconds: time taken.
      partitions, partitions_reused: how many there are, and how many an earlier, unfinished job had done.
      previous: the version of which unchanged records were taken over, if any.
      taken_over: its partitions, records and shards that were.
      shuffled: into how many files each table was shuffled that is too large to be held by every worker.
      anomalies: where its statistics are not what the job's schema expects, drift from the version before included.
    """

    path: Path | str
    manifest: Manifest
    up_to_date: bool
    other_code: bool
    seconds: float
    partitions: int
    partitions_reused: int
    previous: str | None = None
    taken_over: Mapping[str, int] = field(default_factory=dict)
    shuffled: Mapping[str, int] = field(default_factory=dict)
    anomalies: Sequence[Anomaly] = ()

    def to_json(self) -> dict[str, Any]:
        """The result for scripts."""
        return {
            "path": str(self.path),
            "up_to_date": self.up_to_date,
            "seconds": round(self.seconds, 3),
            "partitions": self.partitions,
            "partitions_reused": self.partitions_reused,
            "previous": self.previous,
            "taken_over": dict(self.taken_over),
            "shuffled": dict(self.shuffled),
            "fingerprint": self.manifest.fingerprint,
            "splits": {
                name: {"records": split.records, "bytes": split.bytes, "shards": len(split.shards)}
                for name, split in self.manifest.splits.items()
            },
            "books": {name: books.model_dump() for name, books in self.manifest.books.items()},
            "dead_letters": self.manifest.dead_letters,
            "anomalies": anomalies_json(self.anomalies),
        }


@objects_set_aside()
def run(
    job: Job,
    out: str | Path = "out",
    options: Sequence[str] = (),
    *,
    from_scratch: bool = False,
    show_progress: bool = False,
) -> Result:
    """Prepares the data set version that `job` describes, in `<out>/<name>/<version>`.

    A version that exists and was made from the same inputs is left as it is; a job that was stopped goes on where
    it stood. Where an earlier version was made by the same job, what has not changed since is taken over from it:
    the bytes are those of a build from scratch.

    Args:
      job: what to prepare; see `load_job`.
      out: the directory of all data sets: a path, or a URL of an object store, gs://… or s3://…
      options: Beam's command-line options, such as `["--direct_num_workers=4"]`.
      from_scratch: take nothing over from an earlier version.
      show_progress: whether to show progress on standard error.

    Raises:
      HeadraceError: anything a user can mend.
    """
    started = time.monotonic()
    import_from_here()
    beam_options = parse_options(options)
    check_output(beam_options, out)
    plan, partitions = plan_job(job, out)
    with plan.workspace.root.store.exclusive() as store:
        plan = plan.held(store)
        workspace = plan.workspace
        if workspace.is_committed:
            manifest, other_code = _existing(plan)
            if workspace.shard_notes.names():
                sweep(workspace)  # its job was killed after the commit
            seconds = time.monotonic() - started
            return Result(
                _place(workspace), manifest, True, other_code, seconds, len(partitions), 0,
                anomalies=told_anomalies(workspace),
            )  # fmt: skip
        plan = plan_transform(plan)
        strip(workspace)
        store.prepare(workspace.version)
        store.tidy()
        runs: dict[str, bool] = {}  # whether a committed version holds its records
        watched = Watched("prepared", workspace.runs, runs.keys(), workspace.shard_notes)
        try:
            if plan.lists is not None:
                write_lists(plan.lists, *list_entries(job))
            plan = survey(plan, partitions, beam_options, show_progress=show_progress)
            if not from_scratch:
                plan = dataclasses.replace(plan, previous=find_previous(plan))
            refs = write_partitions(workspace.partitions, _noting(list_partitions(plan, partitions), runs))
            there = set(workspace.runs.names())
            finished = sum(not committed and run in there for run, committed in runs.items())
            with shown(watched) if show_progress else nullcontext():
                materialize(plan, beam_options)
                run_pipeline(
                    lambda pipeline: build_pipeline(pipeline, plan, refs), beam_options, store.lock_file
                )
        except HeadraceError as error:
            if error.where != BUDGET_FIELD:
                raise
            raise _with_letters(error, plan, runs) from error
        except KeyboardInterrupt:
            state = watched.look()
            raise HeadraceError(
                f"Stopped. {state.done} of {len(partitions)} partitions are finished and kept.",
                where=str(workspace.work),
                hint="Run the same command again to go on from here.",
            ) from None
        finally:
            end_attempt(plan.attempt)  # while we hold the lock
            close_tables()
        manifest = read_manifest(str(workspace.dataset))
        note = read_note(workspace.inputs)
        anomalies = told_anomalies(workspace)
        sweep(workspace)
    return Result(
        _place(workspace),
        manifest,
        False,
        False,
        time.monotonic() - started,
        len(partitions),
        finished,
        None if plan.previous is None else plan.previous.version,
        {} if note is None else note.taken_over or {},
        {name: files.buckets for name, files in plan.tables.items() if files.shuffled},
        anomalies,
    )


def _place(workspace: Workspace) -> Path | str:
    """The version's directory: a path on this machine, else a URL."""
    where = str(workspace.dataset)
    return where if "://" in where else Path(where)


def _existing(plan: JobPlan) -> tuple[Manifest, bool]:
    """The manifest of the version that exists, if it was made from the same inputs; whether by other code."""
    manifest = read_manifest(str(plan.workspace.dataset))
    note = read_note(plan.workspace.inputs)
    hint = "Give the job a new `version:`, or remove the directory to prepare it again."
    if note is None:
        changed = "what it was made from is not known here"
    else:
        if note.inputs == plan.inputs:
            return manifest, note.code != plan.code
        expected = "" if plan.expectations is None else plan.expectations.fingerprint
        if manifest.spec_fingerprint != plan.spec.fingerprint:
            changed = "its job changed since"
        elif note.expected != expected:
            changed = "its schema, or the version that it is compared with, changed since"
            hint = f"{hint[:-1]}; or compare it as it is with `headrace schema check`."
        else:
            changed = "its sources or functions changed since"
    raise HeadraceError(
        f"Version {plan.spec.version} exists already, and {changed}. It was left as it is.",
        where=str(plan.workspace.dataset),
        hint=hint,
    )


def _noting(listed: Iterable[Listed], runs: dict[str, bool]) -> Iterator[Listed]:
    for each in listed:
        runs[each.run] = each.committed
        yield each


def _with_letters(error: HeadraceError, plan: JobPlan, names: Iterable[str]) -> HeadraceError:
    """The error with the commonest reasons in it, and all dead letters in a file to look at."""
    runs = (open_run(plan.workspace.runs / name) for name in names)
    tables = [read_letters(run) for run in runs if run is not None]
    write_letters(plan.workspace.dead_letters, iter(tables))
    table = pa.concat_tables(tables) if tables else None
    examples = []
    if table is not None:
        for rule, count in Counter(table["rule"].to_pylist()).most_common(3):
            row = table.filter(pc.equal(table["rule"], rule)).slice(0, 1).to_pylist()[0]
            examples.append(f"\n  {count:,} {rule}, such as {row['origin']}: {shorten(row['reason'], 120)}")
    return HeadraceError(
        error.what + "".join(examples),
        where=error.where,
        allowed=error.allowed,
        hint=f"{error.hint} All of them are in {plan.workspace.dead_letters}.",
    )


def anomaly_lines(anomalies: Sequence[Anomaly]) -> list[str]:
    """The first anomalies, a line each."""
    lines = [
        f"  {'schema' if place == 0 else '':<12} {each.kind} {each.where}: {each.found}; allowed {each.allowed}"
        for place, each in enumerate(anomalies[:_SHOWN_ANOMALIES])
    ]
    more = len(anomalies) - _SHOWN_ANOMALIES
    if more > 0:
        lines.append(f"  {'':<12} and {more:,} more: headrace schema check DIR --schema FILE lists all")
    return lines


def summary_lines(result: Result) -> list[str]:
    """The result as a person wants to read it."""
    manifest = result.manifest
    if result.up_to_date:
        head = f"{manifest.name} {manifest.version} is up to date: nothing was read or written again."
        if result.other_code:
            head += (
                "\nAnother state of Headrace prepared it; give the job a new `version:` to prepare it anew."
            )
    else:
        head = f"Prepared {manifest.name} {manifest.version} in {result.seconds:.1f} s."
    lines = [head, ""]
    for name, books in manifest.books.items():
        parts = [
            f"{books.read:,} read",
            f"{books.written:,} written",
            f"{books.dead_lettered:,} dead-lettered",
        ]
        parts += [f"{count:,} dropped ({rule})" for rule, count in books.dropped.items()]
        parts += [f"{books.duplicates:,} duplicates"] if books.duplicates else []
        parts += [f"{count:,} repaired ({rule})" for rule, count in books.repaired.items()]
        parts += [f"{books.added:,} added by joins"] if books.added else []
        parts += [f"shuffled by key into {result.shuffled[name]} files"] if name in result.shuffled else []
        lines.append(f"  {name:<12} {', '.join(parts)}")
    for name, split in manifest.splits.items():
        shards = f"{len(split.shards):,} shard{'s' if len(split.shards) != 1 else ''}"
        lines.append(f"  {name:<12} {split.records:,} records in {shards}, {format_bytes(split.bytes)}")
    if result.taken_over.get("records"):
        all_shards = sum(len(split.shards) for split in manifest.splits.values())
        lines.append(
            f"  {'taken over':<12} from {result.previous}: {result.taken_over['records']:,} records unread, "
            f"{result.taken_over['shards']:,} of {all_shards:,} shards unwritten"
        )
    if not result.up_to_date and result.partitions_reused:
        lines.append(
            f"  {'resumed':<12} {result.partitions_reused:,} of {result.partitions:,} partitions were finished before"
        )
    if (found := manifest.duplicates) is not None:
        lines.append(
            f"  {'duplicates':<12} {found.clusters:,} clusters in {found.records:,} records, "
            f"{found.left_out:,} left out, {found.pairs_across_splits:,} pairs in two splits: see {DUPLICATES}"
        )
    if manifest.dead_letters:
        letters = ", ".join(f"{count:,} {rule}" for rule, count in manifest.dead_letters.items())
        lines.append(f"  {'see':<12} dead_letters/dead_letters.parquet: {letters}")
    lines += anomaly_lines(result.anomalies)
    lines += ["", f"  {'data set':<12} {result.path}"]
    return lines
