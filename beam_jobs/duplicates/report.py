"""The list of duplicates: a row for each, with the record that survives in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.duplicates.find import Members
from beam_jobs.duplicates.gathered import Gathered
from beam_jobs.finished import open_finished
from beam_jobs.plan import JobPlan
from beam_jobs.runs import partition_of
from beam_jobs.sources.base import Partition
from beam_jobs.store_path import StorePath

REPORT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("origin", pa.string()),
        ("key_hash", pa.string()),
        ("split", pa.string()),
        ("left_out", pa.bool_()),
        ("kind", pa.string()),
        ("distance", pa.float64()),
        ("survivor_source", pa.string()),
        ("survivor_origin", pa.string()),
        ("survivor_key_hash", pa.string()),
        ("survivor_split", pa.string()),
    ]
)
_ROWS = 10_000  # of a row group


class Named(NamedTuple):
    """Why a record is a duplicate of its survivor.

    Attributes:
      kind: the check.
      exact: whether it compares byte by byte.
      distance: from the survivor.
    """

    kind: str
    exact: bool
    distance: float


@dataclass(frozen=True)
class Findings:
    """What was found among the records of some runs.

    Attributes:
      gathered: the records.
      members: of clusters of several.
      named: why each member is a duplicate of its survivor.
      runs: by their numbers.
    """

    gathered: Gathered
    members: Members
    named: Sequence[Named]
    runs: Sequence[str]


def write_report(path: StorePath, plan: JobPlan, found: Findings) -> None:
    """Writes the list, in the order of the sources."""
    gathered, members = found.gathered, found.members
    sources = {name: plan.source(name) for name in plan.spec.main_names}
    versions = list(plan.against)

    @lru_cache(maxsize=1024)
    def partition(run: int) -> Partition:
        return partition_of(open_finished(plan, found.runs[run]))

    def described(number: int) -> tuple[str, str, str, str]:
        record = gathered.records[number]
        split = int(record["split"])
        # Exact fractions deal the records when all duplicates have gone.
        known = "" if plan.spec.split.ranked or split >= len(plan.split_names) else plan.split_names[split]
        key = record["hash"].tobytes().hex()
        if record["run"] < 0:
            return versions[-1 - int(record["run"])], "", key, known
        of = partition(int(record["run"]))
        return of.source, sources[of.source].origin(of, int(record["row"])), key, known

    wanted = np.flatnonzero(members.numbers != members.survivors)
    records = gathered.records[members.numbers[wanted]]
    wanted = wanted[np.lexsort((members.numbers[wanted], records["row"], records["run"]))]
    with path.writing(durable=False) as file, pq.ParquetWriter(file, REPORT_SCHEMA) as writer:
        for start in range(0, len(wanted), _ROWS):
            rows = []
            for place in wanted[start : start + _ROWS].tolist():
                source, origin, key, split = described(int(members.numbers[place]))
                out, why = bool(members.out[place]), found.named[place]
                stays = described(int(members.survivors[place]))
                rows.append((source, origin, key, split, out, why.kind, why.distance, *stays))
            columns = [
                pa.array(column, kind)
                for column, kind in zip(zip(*rows, strict=True), REPORT_SCHEMA.types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=REPORT_SCHEMA))
