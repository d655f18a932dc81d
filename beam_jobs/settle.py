"""Between runs and shards: are the books good enough to go on, and how many shards will there be?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.batch import DeadLetter
from beam_jobs.build import RunSummary
from beam_jobs.finished import open_runs
from beam_jobs.gather import Gather
from beam_jobs.join import unused_rows
from beam_jobs.lookup import Places, Table, split_place
from beam_jobs.making import HELD_DTYPE
from beam_jobs.placed import read_places
from beam_jobs.plan import JobPlan
from beam_jobs.previous import is_among
from beam_jobs.proofs import prove_groups
from beam_jobs.runs import Run, read_index, read_section
from beam_jobs.wire import for_runners
from schemas import Books, HeadraceError
from schemas.hashing import fingerprint
from schemas.manifest import LeakProof
from schemas.spec import Join, Write

Marks = dict[int, npt.NDArray[np.bool_]]  # of the rows of each bucket of a table
BUDGET_FIELD = "write.max_dead_letters"


@dataclass(frozen=True)
class Settled:
    """What all runs together come to.

    Attributes:
      shards: number of shards of each split.
      books: of every source; `written` of the main sources still counts duplicates.
      proofs: that no value of a group column lies in two splits, by column.
      placed: what the files beside runs say of where records go, as one fingerprint; "" where there are none.
    """

    shards: list[int]
    books: dict[str, Books]
    proofs: dict[str, LeakProof]
    placed: str


@for_runners
def settle(summaries: Sequence[RunSummary], plan: JobPlan) -> Settled:
    """The shard counts and books of all runs.

    Raises:
      HeadraceError: nothing is left to write, there are too many dead letters, or a join's rule forbids its
        unmatched rows, or a group lies in two splits.
    """
    summaries = sorted(summaries, key=lambda summary: summary.ordinal)
    books = {
        name: main_books([summary for summary in summaries if summary.source == name])
        for name in plan.spec.main_names
    }
    for join in plan.spec.join:
        books[join.table], _ = table_books(plan, join, summaries)
        unmatched = books[join.table].dropped.get(_unmatched_rule(plan), 0)
        if join.unmatched_right == "error" and unmatched:
            raise HeadraceError(
                f"{unmatched} rows of {join.table} match no record.",
                where=f"join.{join.table}",
                allowed="none, since `unmatched_right: error`",
            )
    _check_budget(books, plan.spec.write.max_dead_letters)
    totals = [
        tuple(sum(summary.splits[split][part] for summary in summaries) for part in range(2))
        for split in range(len(plan.split_names))
    ]
    if not any(records for records, _ in totals):
        names = plan.spec.main_names
        raise HeadraceError(
            "No record is left to write.",
            where=", ".join(f"sources.{name}" for name in names),
            value=f"{sum(books[name].read for name in names)} read, all dropped or dead-lettered",
        )
    return Settled(
        [
            shard_count(plan.spec.write, name, size)
            for name, (_, size) in zip(plan.split_names, totals, strict=True)
        ],
        books,
        prove_groups(plan, summaries),
        _placed(summaries),
    )


@dataclass(eq=False)
class Settle(beam.PTransform):
    """Summaries of all runs to one `Settled`."""

    plan: JobPlan

    def expand(self, summaries: beam.PCollection[RunSummary]) -> beam.PCollection[Settled]:
        """RunSummary → Settled (one)."""
        return summaries | "Gather" >> Gather() | "Settle" >> beam.Map(settle, self.plan)


def shard_count(write: Write, split: str, size: int) -> int:
    """How many shards a split of `size` bytes gets: as asked, or the power of two that keeps within `shard_size`.

    A power of two, so that a data set that grows keeps its shards until it has doubled.
    """
    if isinstance(write.shards, dict):
        return write.shards[split]
    if write.shards is not None:
        return write.shards
    shards = 1
    while size > shards * write.shard_size:
        shards *= 2
    return shards


def main_books(summaries: Sequence[RunSummary]) -> Books:
    """The books of a main source as the runs have them; duplicates are known later."""
    dropped: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    for summary in summaries:
        dropped.update(summary.dropped)
        repaired.update(summary.repaired)
    return Books(
        read=sum(summary.read for summary in summaries),
        added=sum(summary.added for summary in summaries),
        written=sum(records for summary in summaries for records, _ in summary.splits),
        dead_lettered=sum(summary.dead_lettered for summary in summaries),
        dropped=dict(sorted(dropped.items())),
        repaired=dict(sorted(repaired.items())),
    )


def table_books(plan: JobPlan, join: Join, summaries: Sequence[RunSummary]) -> tuple[Books, list[DeadLetter]]:
    """The books of a joined table, and its dead letters.

    A row is written if a written record holds it. One that only lost records asked for is dropped with them.
    """
    table = plan.tables[join.table].open()
    read, duplicates, letters = table.books
    matched, written = used_rows(plan, join, table, summaries)
    letters = list(letters)
    unmatched = sum(int((~marks).sum()) for marks in matched.values())
    lost = sum(int((marks & ~written[number]).sum()) for number, marks in matched.items())
    dropped = {"its records were not written": lost} if lost else {}
    if unmatched and join.unmatched_right == "dead_letter":
        source, partitions = plan.source(join.table), plan.table_partitions[join.table]
        letters += unused_rows(table, matched, join, source, partitions)
    elif unmatched:
        dropped[_unmatched_rule(plan)] = unmatched
    books = Books(
        read=read,
        written=sum(int(marks.sum()) for marks in written.values()),
        dead_lettered=len(letters) - duplicates,
        dropped=dropped,
        duplicates=duplicates,
    )
    return books, letters


def _unmatched_rule(plan: JobPlan) -> str:
    return f"unmatched in {', '.join(plan.spec.main_names)}"


def used_rows(
    plan: JobPlan,
    join: Join,
    table: Table,
    summaries: Sequence[RunSummary],
) -> tuple[Marks, Marks]:
    """Which rows of the table any record asked for, and which a written record holds."""
    matched, written = (
        {number: np.zeros(bucket.rows.num_rows, np.bool_) for number, bucket in table.buckets()}
        for _ in range(2)
    )
    for summary, run in zip(summaries, open_runs(plan, summaries), strict=True):
        _mark(matched, np.frombuffer(read_section(run, f"matched:{join.table}"), dtype="<i8"))
        if summary.placed:
            _mark(written, _held_by_written(plan, join, table, run))
        else:
            _mark(written, np.frombuffer(read_section(run, f"written:{join.table}"), dtype="<i8"))
    return matched, written


def _held_by_written(plan: JobPlan, join: Join, table: Table, run: Run) -> Places:
    """The rows of a table that those records of a run hold that are not left out."""
    final = read_places(
        plan.workspace.placements / run.path.name, 0, sum(records for records, _ in run.splits)
    )
    hashes = np.sort(read_index(run)["hash"][final >= 0])
    held = np.frombuffer(read_section(run, f"held:{join.table}"), HELD_DTYPE)
    places = np.unique(held["place"][is_among(held["hash"], hashes)])
    return table.group(places)[0] if join.many == "list" else places  # a record holds all rows of its key


def _mark(marks: Marks, places: Places) -> None:
    owners, inside = split_place(places)
    for number in np.unique(owners).tolist():
        marks[number][inside[owners == number]] = True


def read_letters(run: Run) -> pa.Table:
    """The dead letters of a run."""
    with pa.ipc.open_stream(read_section(run, "dead_letters")) as reader:
        return reader.read_all()


def _placed(summaries: Sequence[RunSummary]) -> str:
    found = [[summary.run, summary.placed] for summary in summaries if summary.placed]
    return fingerprint(found) if found else ""


def _check_budget(books: dict[str, Books], most: float) -> None:
    for source, book in books.items():
        records = book.read + book.added
        if records and book.dead_lettered > most * records:
            raise HeadraceError(
                f"Too many dead letters: {book.dead_lettered:,} of {records:,} records of {source!r} "
                f"({book.dead_lettered / records:.2%}). Nothing was committed.",
                where=BUDGET_FIELD,
                allowed=f"{most:.2%}",
                hint="Mend the records or the rules that refuse them, or raise the limit.",
            )
