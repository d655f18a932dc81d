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
from schemas.hashing import KEY_HASH_DTYPE

Places = npt.NDArray[np.int64]

# A row of a table that a record holds, and the record's key hash.
HELD_DTYPE = np.dtype([("place", "<i8"), ("hash", KEY_HASH_DTYPE)])


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

    def used_rows(self, table: str) -> dict[str, bytes]:
        """The run's sections that tell which rows of a table its records asked for and hold.

        Where records may still be left out, also which record holds which row, or which first one of its key.
        """
        none = np.zeros(0, np.int64)
        asked = np.unique(np.concatenate([*self.matched[table], none]).astype(np.int64))
        places = np.concatenate([*self.written[table], none]).astype(np.int64)
        sections = {}
        if self.plan.spec.placed_late:
            held = np.zeros(len(places), HELD_DTYPE)
            held["place"] = places
            held["hash"] = np.concatenate(
                [np.zeros(0, KEY_HASH_DTYPE), *self.hashes[table]], dtype=KEY_HASH_DTYPE
            )
            sections[f"held:{table}"] = np.sort(held[places >= 0], order=["place", "hash"]).tobytes()
        written, asked = np.unique(places[places >= 0]), asked[asked >= 0]
        if self.plan.join(table).many == "list":  # a record holds all rows of its key
            asked, written = (self.table(table).group(found)[0] for found in (asked, written))
        sections[f"matched:{table}"] = asked.astype("<i8").tobytes()
        sections[f"written:{table}"] = written.astype("<i8").tobytes()
        return sections

    def table(self, name: str) -> Table:
        """A joined table."""
        return self.plan.tables[name].open()
