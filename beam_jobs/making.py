"""A run on its way: what has been read, and taken over, of its partition so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from beam_jobs.batch import Ledger
from beam_jobs.lookup import Table
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

    def used_rows(self, table: str, *, ranked: bool) -> dict[str, bytes]:
        """The run's sections that tell which rows of a table its records asked for and hold.

        Where the source has a limit, also for each row held the smallest rank of a record that holds it.
        """
        none = np.zeros(0, np.int64)
        asked = np.unique(np.concatenate([*self.matched[table], none]).astype(np.int64))
        places = np.concatenate([*self.written[table], none]).astype(np.int64)
        found = np.concatenate([*(ranks(part) for part in self.hashes[table]), np.zeros(0, np.uint64)])
        order = np.lexsort((found, places))
        order = order[places[order] >= 0]
        held, first = np.unique(places[order], return_index=True)
        smallest, asked = found[order][first], asked[asked >= 0]
        if self.plan.join(table).many == "list":  # a record holds all rows of its key
            asked, _ = self.table(table).group(asked)
            held, counts = self.table(table).group(held)
            smallest = np.repeat(smallest, counts)
        sections = {f"matched:{table}": asked.astype("<i8"), f"written:{table}": held.astype("<i8")}
        if ranked:
            sections[f"ranks:{table}"] = smallest.astype("<u8")
        return {name: values.tobytes() for name, values in sections.items()}

    def table(self, name: str) -> Table:
        """A joined table."""
        return self.plan.tables[name].open()
