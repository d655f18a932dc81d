"""One partition, from source to sorted run: read, join, clean, validate, encode, write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from beam_jobs.batch import DEAD_LETTER_SCHEMA, OWN_PREFIX, Batch, DeadLetter, Ledger, Problem
from beam_jobs.clean import apply_rule
from beam_jobs.encode import encode_records, pack_columns
from beam_jobs.gather import Deal
from beam_jobs.indexed import to_rows
from beam_jobs.join import join_table, open_table, write_table
from beam_jobs.listing import PartitionRef, read_partition
from beam_jobs.plan import JobPlan
from beam_jobs.runs import RunContent, open_run, write_run
from beam_jobs.sources.base import Partition
from beam_jobs.validate import to_features
from beam_jobs.wire import for_runners
from schemas import HeadraceError
from schemas.hashing import as_sortable, key_hashes, split_of, split_positions

_JOINED = f"{OWN_PREFIX}joined:"


@dataclass(frozen=True)
class RunSummary:
    """What the driver and later stages know of a run: small, whatever the run's size.

    Attributes:
      run: file name of the run.
      ordinal: place of its partition in the source's order.
      read, dead_lettered: records.
      dropped: records dropped, by rule.
      splits: records and bytes of each split.
      reused: whether an earlier job had left it.
    """

    run: str
    ordinal: int
    read: int
    dead_lettered: int
    dropped: dict[str, int]
    splits: list[tuple[int, int]]
    reused: bool


@for_runners
def prepare_table(name: str, plan: JobPlan) -> str:
    """Leaves the table of that name in the work directory, unless it is there already; gives its name."""
    path = plan.tables[name]
    if not path.exists():
        join = next(join for join in plan.spec.join if join.table == name)
        write_table(path, join, plan.source(name), plan.table_partitions[name])
    return name


@for_runners
def build_run(ref: PartitionRef, plan: JobPlan, _tables_ready: object = None) -> RunSummary:
    """Leaves the run of a partition in the work directory, unless it is there already and whole."""
    partition = read_partition(plan.workspace.partitions, ref)
    path = plan.run_path(partition)
    run = open_run(path, check=True)
    reused = run is not None
    if run is None:
        run = write_run(path, _read_partition(partition, plan), len(plan.split_names))
    summary = run.summary
    return RunSummary(
        run=path.name,
        ordinal=partition.ordinal,
        read=summary["read"],
        dead_lettered=summary["dead_lettered"],
        dropped=summary["dropped"],
        splits=run.splits,
        reused=reused,
    )


@dataclass(eq=False)
class BuildRuns(beam.PTransform):
    """Partitions to summaries of runs. Tables are prepared first; every run waits for all of them."""

    plan: JobPlan

    def expand(self, partitions: beam.PCollection[PartitionRef]) -> beam.PCollection[RunSummary]:
        """PartitionRef → RunSummary."""
        waited_for = []
        if self.plan.tables:
            tables = (
                partitions.pipeline
                | "Tables" >> Deal(list(self.plan.tables))
                | "Prepare table" >> beam.Map(prepare_table, plan=self.plan)
            )
            waited_for = [beam.pvalue.AsList(tables)]
        return partitions | "Build run" >> beam.Map(build_run, self.plan, *waited_for)


def _read_partition(partition: Partition, plan: JobPlan) -> RunContent:
    source = plan.source(partition.source)
    ledger = Ledger(partition.source, lambda row: source.origin(partition, row))
    content = RunContent()
    joined: dict[str, tuple[list[Any], list[Any]]] = {join.table: ([], []) for join in plan.spec.join}
    for found in source.read(partition):
        ledger.read += len(found.keys) + len(found.faults)
        ledger.letters += [
            DeadLetter(
                partition.source,
                source.origin(partition, f.row),
                "",
                "read",
                f.rule,
                f.reason,
                (f.raw or b"").decode("utf-8", "backslashreplace"),
            )
            for f in found.faults
        ]
        _add_batch(Batch(found.records, found.keys, found.rows), plan, ledger, content, joined)
    content.sections["dead_letters"] = encode_letters(ledger.letters)
    for table, (matched, written) in joined.items():
        for kind, places in (("matched", matched), ("written", written)):
            unique = np.unique(np.concatenate(places)) if places else np.zeros(0, dtype=np.int64)
            content.sections[f"{kind}:{table}"] = unique[unique >= 0].astype("<i8").tobytes()
    content.summary = {
        "read": ledger.read,
        "dead_lettered": len(ledger.letters),
        "dropped": dict(sorted(ledger.dropped.items())),
    }
    # In a section of its own, since only duplicates need it and every shard reads the summary.
    content.sections["partition"] = json.dumps(vars(partition)).encode()
    return content


def _add_batch(
    batch: Batch,
    plan: JobPlan,
    ledger: Ledger,
    content: RunContent,
    joined: dict[str, tuple[list[Any], list[Any]]],
) -> None:
    """Takes one batch through all stages and adds what is left of it to the run."""
    batch = ledger.refuse(batch, "read", _missing_keys(batch))
    for join in plan.spec.join:
        batch, places = join_table(batch, join, open_table(plan.tables[join.table], join), ledger)
        batch = batch.with_column(_JOINED + join.table, pa.array(places))
        joined[join.table][0].append(places)
    for rule in plan.spec.clean:
        if not len(batch):
            return  # a user's function adds its columns only where there are records
        batch = apply_rule(batch, rule, ledger)
    if not len(batch):
        return
    batch, columns = to_features(batch, plan.features, ledger)
    if not len(batch):
        return
    keys = batch.keys.to_pylist()
    records, _ = encode_records(pack_columns(columns, plan.packing))
    content.records.append(records)
    content.hashes.append(as_sortable(key_hashes(keys, plan.spec.seed)))
    content.splits.append(_splits(batch, keys, plan))
    content.rows.append(batch.rows)
    if plan.index_row.names:
        content.indexed.append(to_rows(columns, plan.index_row))
    for join in plan.spec.join:
        joined[join.table][1].append(batch.records.column(_JOINED + join.table).to_numpy())


def _missing_keys(batch: Batch) -> list[Problem]:
    if not batch.keys.null_count:
        return []
    return [
        Problem(place, "missing_key", "the key has no value")
        for place in np.flatnonzero(batch.keys.is_null().to_numpy(zero_copy_only=False)).tolist()
    ]


def _splits(batch: Batch, keys: list[bytes], plan: JobPlan) -> Any:
    """The number of each record's split."""
    split = plan.spec.split
    groups = keys
    if split.by is not None:
        if split.by not in batch.columns:
            raise HeadraceError(
                "The column to split by does not exist.",
                where="split.by",
                value=split.by,
                allowed=", ".join(batch.columns),
            )
        texts = batch.records.column(split.by).cast(pa.string()).to_pylist()
        # Records without a group are each a group of their own; the mark keeps them apart from real groups.
        groups = [
            b"\0" + key if text is None else text.encode() for text, key in zip(texts, keys, strict=True)
        ]
    return split_of(split_positions(groups, split.seed), list(split.fractions.values()))


def encode_letters(letters: list[DeadLetter]) -> bytes:
    """Dead letters as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, DEAD_LETTER_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist([vars(letter) for letter in letters], DEAD_LETTER_SCHEMA))
    return bytes(sink.getvalue())
