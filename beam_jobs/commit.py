"""The commit: books balanced, dead letters and interop files written, the manifest last, one rename."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.assemble import Shard
from beam_jobs.batch import DEAD_LETTER_SCHEMA, DeadLetter
from beam_jobs.build import RunSummary
from beam_jobs.data_schema.gate import pass_gate
from beam_jobs.duplicates.decide import describe_duplicates
from beam_jobs.duplicates.shards import signature_files
from beam_jobs.finished import open_runs
from beam_jobs.gather import Gather
from beam_jobs.interop import interop_files
from beam_jobs.leaks import refuse_straddling_keys
from beam_jobs.plan import JobPlan
from beam_jobs.previous import Note, notes
from beam_jobs.settle import Settled, read_letters, table_books
from beam_jobs.statistics.kept import gather, statistics_files
from beam_jobs.store_path import StorePath
from beam_jobs.survey.apply import needs_survey, title
from beam_jobs.wire import for_runners
from schemas import Books, HeadraceError, Manifest, __version__
from schemas.manifest import FileEntry, SplitEntry, Surveyed, all_files, content_fingerprint
from schemas.naming import DEAD_LETTERS, DUPLICATES
from schemas.packing import stored_features

_MAX_BATCH_LETTERS = 10_000


@dataclass(frozen=True)
class Committed:
    """What a job did.

    Attributes:
      path: the version's directory.
      fingerprint: of its manifest.
    """

    path: str
    fingerprint: str


@for_runners
def commit(
    shards: Sequence[Shard],
    plan: JobPlan,
    settled: Settled,
    summaries: Sequence[RunSummary],
    model: Sequence[FileEntry] = (),
) -> Committed:
    """Makes the staged shards a version; `model` are the files of its transform.

    Raises:
      HeadraceError: the books do not balance, a key lies in two splits, the data are not what the job's schema
        expects, or another job has committed the version meanwhile.
    """
    shards = sorted(shards, key=lambda shard: (shard.split, shard.number))
    summaries = sorted(summaries, key=lambda summary: summary.ordinal)
    stage = plan.workspace.stage
    splits = _split_entries(plan, shards)
    books = _final_books(plan, settled, shards)
    if not plan.spec.split.by_key:
        refuse_straddling_keys(stage, splits, plan.spec.split)
    letters = write_letters(stage / DEAD_LETTERS, all_letters(plan, summaries, shards))
    others = interop_files(
        name=plan.spec.name,
        version=plan.spec.version,
        description=plan.spec.description,
        features=stored_features(plan.stored, plan.stored_packing),
        label=plan.spec.label,
        splits=splits,
    )
    if plan.spec.statistics:
        statistics = gather(plan, splits)
        others |= statistics_files(statistics) | pass_gate(plan, statistics)
    signed = [path for shard in shards for path in signature_files(plan, shard.entry.path)]
    duplicates = None
    if plan.spec.duplicates is not None:
        duplicates, others[DUPLICATES] = describe_duplicates(plan, [summary.run for summary in summaries])
    for path, data in others.items():
        (stage / path).write(data, durable=True)
    manifest = Manifest(
        headrace_version=__version__,
        name=plan.spec.name,
        version=plan.spec.version,
        description=plan.spec.description,
        fingerprint=content_fingerprint(plan.spec.fingerprint, splits, model),
        spec_fingerprint=plan.spec.fingerprint,
        spec=plan.spec.model_dump(by_alias=True, mode="json", exclude={"vars"}, exclude_unset=True),
        features=plan.stored,
        indexed=sorted(plan.stored_indexed),
        packed=plan.stored_packing,
        splits=splits,
        books=books,
        leaks=settled.proofs,
        dead_letters=letters,
        surveyed=[
            Surveyed(rule=n, name=title(rule), found=found)
            for n, (rule, found) in enumerate(zip(plan.spec.clean, plan.found, strict=True))
            if needs_survey(rule)
        ],
        duplicates=duplicates,
        files=sorted(
            [*(_file_entry(stage, path) for path in [*others, *signed, DEAD_LETTERS]), *model],
            key=lambda entry: entry.path,
        ),
    )
    _remove_strays(stage, manifest)
    taken_over = {
        "partitions": sum(summary.committed for summary in summaries),
        "records": sum(summary.kept for summary in summaries),
        "shards": sum(shard.linked for shard in shards),
    }
    # Before the version appears: one that exists always has its notes, wherever the job dies.
    _write_notes(plan, manifest, shards, taken_over, settled)
    plan.workspace.root.store.publish(plan.spec.version, manifest.to_json().encode())
    return Committed(path=str(plan.workspace.dataset), fingerprint=manifest.fingerprint)


@dataclass(eq=False)
class Commit(beam.PTransform):
    """All shards, with `Settled` and all summaries beside them, to a committed version."""

    plan: JobPlan
    settled: beam.PCollection[Settled]
    summaries: beam.PCollection[RunSummary]
    model: beam.PCollection[list[FileEntry]] | None = None

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[Committed]:
        """Shard → Committed (one)."""
        return (
            shards
            | "Gather" >> Gather()
            | "Commit"
            >> beam.Map(
                commit,
                self.plan,
                beam.pvalue.AsSingleton(self.settled),
                beam.pvalue.AsList(self.summaries),
                *([] if self.model is None else [beam.pvalue.AsSingleton(self.model)]),
            )
        )


def all_letters(
    plan: JobPlan, summaries: Sequence[RunSummary], shards: Sequence[Shard]
) -> Iterator[pa.Table]:
    """Every dead letter of the job, in the order of sources and records."""
    # Of runs without any, none is opened: one after the other, they would take longer than all else that is done here.
    for run in open_runs(plan, [summary for summary in summaries if summary.dead_lettered]):
        yield read_letters(run)
    for join in plan.spec.join:
        yield _letter_table(table_books(plan, join, summaries)[1])
    duplicates = sorted(
        (origin, key, source, first) for shard in shards for key, source, origin, first in shard.duplicates
    )
    yield _letter_table(
        [
            DeadLetter(source, origin, key, "assemble", "duplicate_key", f"has the key of {first}")
            for origin, key, source, first in duplicates
        ]
    )


def write_letters(path: StorePath, tables: Iterator[pa.Table]) -> dict[str, int]:
    """Writes dead letters to a Parquet file; gives their number by `stage.rule`."""
    counts: Counter[str] = Counter()
    with path.writing(durable=True) as file, pq.ParquetWriter(file, DEAD_LETTER_SCHEMA) as writer:
        # Row groups of even size, whatever the sizes of the runs: a table a run would bloat the file.
        for table in _regrouped(tables):
            counts.update(
                f"{row['stage']}.{row['rule']}" for row in table.select(["stage", "rule"]).to_pylist()
            )
            writer.write_table(table)
    return dict(sorted(counts.items()))


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(part.num_rows for part in held) >= _MAX_BATCH_LETTERS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _letter_table(letters: list[DeadLetter]) -> pa.Table:
    return pa.Table.from_pylist([vars(letter) for letter in letters], DEAD_LETTER_SCHEMA)


def _split_entries(plan: JobPlan, shards: Sequence[Shard]) -> dict[str, SplitEntry]:
    entries = {}
    for number, name in enumerate(plan.split_names):
        own = [shard.entry for shard in shards if shard.split == number]
        entries[name] = SplitEntry(
            records=sum(entry.records for entry in own), bytes=sum(entry.bytes for entry in own), shards=own
        )
    return entries


def _final_books(plan: JobPlan, settled: Settled, shards: Sequence[Shard]) -> dict[str, Books]:
    """The books with duplicates and what really lies in the shards, which must balance."""
    mains = plan.spec.main_names
    duplicates = Counter(source for shard in shards for _, source, _, _ in shard.duplicates)
    # What the runs hold but the shards do not is missing from the last of the sources, so its books do not balance.
    missing = sum(settled.books[name].written - duplicates[name] for name in mains) - sum(
        shard.entry.records for shard in shards
    )
    books = dict(settled.books)
    for name in mains:
        book, lost = books[name], missing if name == mains[-1] else 0
        update = {"written": book.written - duplicates[name] - lost, "duplicates": duplicates[name]}
        books[name] = book.model_copy(update=update)
    for source, book in books.items():
        if not book.balanced:
            raise HeadraceError(
                f"The books of {source!r} do not balance, so nothing is committed.",
                value=json.dumps(book.model_dump()),
                allowed="read = written + dead-lettered + dropped + duplicates",
                hint="This is a fault of Headrace or of the runner: run again, and please report it.",
            )
    return books


def _file_entry(stage: StorePath, path: str) -> FileEntry:
    data = (stage / path).read()
    return FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _remove_strays(stage: StorePath, manifest: Manifest) -> None:
    """Removes what an attempt with other options, such as another number of shards, has left in the stage."""
    listed = {entry.path for entry in all_files(manifest)}
    for path in stage.names():
        if path not in listed:
            (stage / path).delete()


def _write_notes(
    plan: JobPlan,
    manifest: Manifest,
    shards: Sequence[Shard],
    taken_over: dict[str, int],
    settled: Settled,
) -> None:
    """What a later job has to know of the version."""
    repeated = {bytes.fromhex(key) for shard in shards for key, *_ in shard.duplicates}
    if repeated:
        plan.workspace.repeated.write(b"".join(sorted(repeated)), durable=True)
    else:
        plan.workspace.repeated.delete()
    note = Note(
        inputs=plan.inputs,
        code=plan.code,
        # Transformed records are none that a later version could take over.
        records="" if plan.materializes else plan.records,
        sequence=1 + max((old.sequence for old in notes(plan.workspace).values()), default=0),
        fingerprint=manifest.fingerprint,
        taken_over=taken_over,
        placed=bool(settled.placed),
        expected="" if plan.expectations is None else plan.expectations.fingerprint,
    )
    plan.workspace.inputs.write(json.dumps(vars(note)).encode(), durable=True)
