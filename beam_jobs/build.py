"""One partition, from source to sorted run: read, join, clean, validate, encode, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.batch import DEAD_LETTER_SCHEMA, OWN_PREFIX, Batch, DeadLetter, Ledger, Problem
from beam_jobs.clean import apply_rule
from beam_jobs.encode import encode_records, pack_columns
from beam_jobs.facts import make_facts
from beam_jobs.gather import Deal
from beam_jobs.indexed import to_rows
from beam_jobs.join import ask, join_table, write_part, write_table_bucket
from beam_jobs.listing import Listed, PartitionRef, read_partition
from beam_jobs.making import Making
from beam_jobs.outcomes import Outcomes, digests_at
from beam_jobs.placed import Final
from beam_jobs.plan import JobPlan
from beam_jobs.runs import Run, RunContent, open_run, write_run
from beam_jobs.sources.base import is_selective
from beam_jobs.splits import GROUP, SPLIT, assign_splits
from beam_jobs.survey.apply import needs_survey
from beam_jobs.take_over import is_finished, is_left_out, is_repeated, take_over
from beam_jobs.union import take_sample, with_prefix
from beam_jobs.validate import to_features
from beam_jobs.wire import for_runners
from schemas import HeadraceError
from schemas.hashing import as_sortable, key_hashes
from schemas.spec import Member

_LEARNT_BY = f"{OWN_PREFIX}learnt by"  # the split of a record where a cleaning rule had to know it
_JOINED = f"{OWN_PREFIX}joined:"


@dataclass(frozen=True)
class RunSummary:
    """What the driver and later stages know of a run: small, whatever the run's size.

    Attributes:
      run: file name of the run.
      source: name of its source.
      ordinal: place of its partition in the source's order.
      read, dead_lettered: records.
      added: records that joins made of one, beyond the first.
      dropped: records dropped, by rule.
      repaired: records of which a rule mended a value, by rule.
      splits: records and bytes of each split.
      kept: source records that were taken over from the version before, not read again.
      committed: whether the version before was made of this very run, and holds all records of it that are written.
      ref: where its partition is listed.
      placed: CRC of the file beside it that says where its records go, if there is one; see `beam_jobs.placement`.
    """

    run: str
    source: str
    ordinal: int
    read: int
    added: int
    dead_lettered: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    splits: list[tuple[int, int]]
    kept: int
    committed: bool
    ref: PartitionRef
    placed: str = ""


TablePlace = tuple[str, int]  # the name of a table, and the number of one of its partitions or buckets


def list_parts(plan: JobPlan) -> list[TablePlace]:
    """The partitions of all tables that are shuffled."""
    return [
        (name, number)
        for name, files in plan.tables.items()
        if files.shuffled
        for number in range(len(plan.table_partitions[name]))
    ]


def list_buckets(plan: JobPlan) -> list[TablePlace]:
    """The buckets of all tables."""
    return [(name, number) for name, files in plan.tables.items() for number in range(files.buckets)]


@for_runners
def prepare_part(place: TablePlace, plan: JobPlan) -> int:
    """Leaves a partition of a table sorted in the work directory, unless it is there already."""
    name, number = place
    files, partition = plan.tables[name], plan.table_partitions[name][number]
    if not files.part(partition).exists() and not all(file.exists() for file in files.files):
        write_part(files, plan.join(name), plan.source(name), partition)
    return number


@for_runners
def prepare_bucket(place: TablePlace, plan: JobPlan, _parts_ready: object = None) -> int:
    """Leaves a bucket of a table in the work directory, unless it is there already."""
    name, number = place
    files = plan.tables[name]
    if not files.files[number].exists():
        partitions = plan.table_partitions[name]
        write_table_bucket(files, number, plan.join(name), plan.source(name), partitions)
    return number


@for_runners
def build_run(ref: PartitionRef, plan: JobPlan, _tables_ready: object = None) -> RunSummary:
    """Leaves the run of a partition in the work directory, unless it is there already and whole."""
    listed = read_partition(plan.workspace.partitions, ref)
    path = plan.workspace.runs / listed.run
    run = open_run(path, check=True)
    committed = run is not None and listed.committed and not bool(is_repeated(plan, run).any())
    if run is None or not (committed or is_finished(plan, run, check=True)):
        run = write_run(path, _read_partition(listed, plan), len(plan.split_names))
    return _summary(ref, listed, run, committed=committed)


def complete_run(summary: RunSummary, plan: JobPlan, final: Final) -> RunSummary:
    """Builds a run after all, of which the version before holds not every record that is now to be written.

    Args:
      summary: of a run that was taken over.
      plan: of the job.
      final: int16 (n,), where each of its records goes; negative where it is left out.
    """
    path = plan.workspace.runs / summary.run
    run = open_run(path)
    if run is not None and not bool((is_left_out(plan, run) & (final >= 0)).any()):
        return summary
    listed = read_partition(plan.workspace.partitions, summary.ref)
    if run is None or not is_finished(plan, run, check=False):
        run = write_run(path, _read_partition(listed, plan), len(plan.split_names))
    return _summary(summary.ref, listed, run, committed=False)


def _summary(ref: PartitionRef, listed: Listed, run: Run, *, committed: bool) -> RunSummary:
    summary = run.summary
    return RunSummary(
        run=run.path.name,
        source=listed.partition.source,
        ordinal=listed.partition.ordinal,
        read=summary["read"],
        added=summary["added"],
        dead_lettered=summary["dead_lettered"],
        dropped=summary["dropped"],
        repaired=summary["repaired"],
        splits=run.splits,
        kept=summary["read"] if committed else summary["kept"],
        committed=committed,
        ref=ref,
    )


@dataclass(eq=False)
class BuildRuns(beam.PTransform):
    """Partitions to summaries of runs. Tables are prepared first; every run waits for all of them."""

    plan: JobPlan

    def expand(self, partitions: beam.PCollection[PartitionRef]) -> beam.PCollection[RunSummary]:
        """PartitionRef → RunSummary."""
        tables = prepare_tables(partitions.pipeline, self.plan)
        return partitions | "Build run" >> beam.Map(build_run, self.plan, *tables)


def prepare_tables(begin: beam.Pipeline, plan: JobPlan) -> list[beam.pvalue.AsSideInput]:
    """Adds what prepares all tables to a pipeline; gives what those who use the tables wait for."""
    waited_for: list[beam.pvalue.AsSideInput] = []
    if parts := list_parts(plan):
        done = begin | "Parts" >> Deal(parts) | "Prepare part" >> beam.Map(prepare_part, plan=plan)
        waited_for = [beam.pvalue.AsList(done)]
    if buckets := list_buckets(plan):
        done = (
            begin
            | "Buckets of tables" >> Deal(buckets)
            | "Prepare table" >> beam.Map(prepare_bucket, plan, *waited_for)
        )
        waited_for = [beam.pvalue.AsList(done)]
    return waited_for


def _read_partition(listed: Listed, plan: JobPlan) -> RunContent:
    partition = listed.partition
    source = plan.source(partition.source)
    tables = [join.table for join in plan.spec.join]
    exploded = any(join.many == "explode" for join in plan.spec.join)
    # Where a row is several records, what became of it is not one thing: its partition is read as a whole.
    singly = source if is_selective(source) and not exploded else None
    outcomes = None
    if singly is not None:
        assert partition.records is not None, "a source of single records counts them when it lists them"
        outcomes = Outcomes.of(partition.records, tables)
    making = Making(plan, Ledger(partition.source, lambda row: source.origin(partition, row)), outcomes)
    ledger, content = making.ledger, making.content
    kept = 0
    member = plan.member(partition.source)
    # A run of the version before that held more than that version does, as there is a limit or a repeated key.
    similar = [listed.run] if listed.committed else listed.similar
    if singly is not None and similar:
        rest = take_over(making, singly, partition, similar)
        kept = ledger.read
        batches = singly.read_rows(partition, rest)
    else:
        batches = source.read(partition)
    for found in batches:
        ledger.read += len(found.keys) + len(found.faults)
        for fault in found.faults:
            ledger.fault(fault.row, fault.rule, fault.reason, fault.raw)
        _add_batch(Batch(found.records, with_prefix(found.keys, member.prefix), found.rows), making, member)
    letters = ledger.letters
    content.sections["dead_letters"] = encode_letters(letters)
    for table in tables:
        content.sections |= making.used_rows(table)
    dropped = {rule: np.concatenate(rows) for rule, rows in sorted(ledger.dropped.items())}
    repaired = {rule: np.unique(np.concatenate(rows)) for rule, rows in sorted(ledger.repaired.items())}
    content.summary = {
        "read": ledger.read,
        "added": ledger.added,
        "dead_lettered": len(letters),
        "dropped": {rule: len(rows) for rule, rows in dropped.items()},
        "repaired": {rule: len(rows) for rule, rows in repaired.items()},
        "kept": kept,
    }
    # In a section of its own, since only duplicates need it and every shard reads the summary.
    content.sections["partition"] = json.dumps(vars(partition)).encode()
    if making.outcomes is not None:
        taken = [] if content.kept is None else [content.kept.index["row"]]
        rows = np.concatenate([*content.rows, *taken, np.zeros(0, np.int64)]).astype(np.int64)
        making.outcomes.settle(rows, dropped, repaired)
        content.sections["outcomes"] = making.outcomes.encode()
    return content


def _add_batch(batch: Batch, making: Making, member: Member) -> None:
    """Takes one batch through all stages and adds what is left of it to the run."""
    plan, ledger, content = making.plan, making.ledger, making.content
    batch = prepared(batch, making, member, len(plan.spec.clean))
    if not len(batch):
        return
    batch = _in_splits(batch, plan, ledger)
    if not len(batch):
        return
    batch, columns = to_features(batch, plan.features, ledger)
    if not len(batch):
        return
    keys = batch.keys.to_pylist()
    records, _ = encode_records(pack_columns(columns, plan.packing))
    content.records.append(records)
    hashes = as_sortable(key_hashes(keys, plan.spec.seed))
    content.hashes.append(hashes)
    own = {
        name: batch.records.column(name) for name in batch.records.schema.names if name.startswith(OWN_PREFIX)
    }
    content.splits.append(own[SPLIT].to_numpy())
    content.rows.append(batch.rows)
    if plan.index_row.names:
        content.indexed.append(to_rows(columns, plan.index_row))
    if plan.facts:
        content.facts.append(make_facts(columns, plan.facts, batch.records))
    for join in plan.spec.join:
        making.note_written(join.table, own[_JOINED + join.table].to_numpy(), hashes)


def prepared(batch: Batch, making: Making, member: Member, rules: int) -> Batch:
    """A batch of a source's records after the joins and the first `rules` cleaning rules.

    From the first rule on that needs the train split it says in which split each record is.
    """
    plan, ledger = making.plan, making.ledger
    batch = ledger.refuse(batch, "read", _missing_keys(batch))
    batch = take_sample(batch, member, plan.spec.seed, ledger)
    for join in plan.spec.join:
        table = making.table(join.table)
        asked = ask(batch, join, table)
        if making.outcomes is not None:
            found = digests_at(table, asked.firsts)
            making.outcomes.looked(join.table, batch.rows, asked.keys, found)
        if join.many == "explode" and GROUP not in batch.records.schema.names:
            batch = batch.with_column(GROUP, batch.keys)
        batch, places = join_table(batch, join, table, asked, ledger)
        batch = batch.with_column(_JOINED + join.table, pa.array(places))
        making.matched[join.table].append(places)
    for number, rule in enumerate(plan.spec.clean[: rules + 1]):
        if not len(batch):
            break  # a user's function adds its columns only where there are records
        if needs_survey(rule) and _LEARNT_BY not in batch.records.schema.names:
            batch = assign_splits(batch, plan.spec.split, plan.lists, ledger)
            batch = batch.with_column(_LEARNT_BY, batch.records[SPLIT])
            if not len(batch):
                break
        if number < rules:
            batch = apply_rule(batch, rule, ledger, plan.found[number])
    return batch


def _missing_keys(batch: Batch) -> list[Problem]:
    if not batch.keys.null_count:
        return []
    return [
        Problem(place, "missing_key", "the key has no value")
        for place in np.flatnonzero(batch.keys.is_null().to_numpy(zero_copy_only=False)).tolist()
    ]


def _in_splits(batch: Batch, plan: JobPlan, ledger: Ledger) -> Batch:
    """The records with their splits, which must be what rules that need the train split went by.

    Raises:
      HeadraceError: they are not.
    """
    after = assign_splits(batch, plan.spec.split, plan.lists, ledger)
    if _LEARNT_BY in batch.records.schema.names:
        settled = len(after) == len(batch) and after.records[SPLIT].equals(after.records[_LEARNT_BY])
        if not settled:
            raise HeadraceError(
                "A cleaning rule changes what the split depends on, behind a rule that needs to know the train split.",
                where="clean",
                hint="Put the rules that change it before those of `impute`, `outliers` and `weights`.",
            )
    return after


def encode_letters(letters: Sequence[DeadLetter]) -> bytes:
    """Dead letters as an Arrow stream."""
    return _encoded(letters) if letters else _no_letters()


@cache
def _no_letters() -> bytes:
    return _encoded([])


def _encoded(letters: Sequence[DeadLetter]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, DEAD_LETTER_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist([vars(letter) for letter in letters], DEAD_LETTER_SCHEMA))
    return bytes(sink.getvalue())
