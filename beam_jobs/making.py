"""A run on its way: what has been read, and taken over, of its partition so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from beam_jobs.batch import Ledger
from beam_jobs.join import Table, open_table
from beam_jobs.outcomes import Outcomes
from beam_jobs.plan import JobPlan
from beam_jobs.runs import RunContent
from schemas.hashing import ranks

Places = npt.NDArray[np.int64]


@dataclass
class Making:
    """A run on its way.

    Attributes:
      plan: of the job.
      ledger: the books so far.
      outcomes: of all rows; None where the source cannot read one by one.
      content: what the run will hold.
      matched, written: by table, the rows that any record asked for, and those that a written record holds.
      hashes: by table, the key hashes of the records of `written`.
    """

    plan: JobPlan
    ledger: Ledger
    outcomes: Outcomes | None
    content: RunContent = field(default_factory=RunContent)
    matched: dict[str, list[Places]] = field(default_factory=dict)
    written: dict[str, list[Places]] = field(default_factory=dict)
    hashes: dict[str, list[npt.NDArray[np.void]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for join in self.plan.spec.join:
            self.matched[join.table], self.written[join.table], self.hashes[join.table] = [], [], []

    def note_written(self, table: str, places: Places, hashes: npt.NDArray[np.void]) -> None:
        """Notes which rows of a table written records hold, and those records' key hashes."""
        self.written[table].append(places)
        self.hashes[table].append(hashes)

    def smallest_ranks(self, table: str) -> npt.NDArray[np.uint64]:
        """For each row of a table that a written record holds, in order, the smallest rank of such a record."""
        places = np.concatenate([*self.written[table], np.zeros(0, np.int64)]).astype(np.int64)
        found = np.concatenate([*(ranks(part) for part in self.hashes[table]), np.zeros(0, np.uint64)])
        order = np.lexsort((found, places))
        order = order[places[order] >= 0]
        _, first = np.unique(places[order], return_index=True)
        smallest: npt.NDArray[np.uint64] = found[order][first]
        return smallest

    def table(self, name: str) -> Table:
        """A joined table."""
        join = next(join for join in self.plan.spec.join if join.table == name)
        return open_table(self.plan.tables[name], join)
