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
    """

    plan: JobPlan
    ledger: Ledger
    outcomes: Outcomes | None
    content: RunContent = field(default_factory=RunContent)
    matched: dict[str, list[Places]] = field(default_factory=dict)
    written: dict[str, list[Places]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for join in self.plan.spec.join:
            self.matched[join.table], self.written[join.table] = [], []

    def table(self, name: str) -> Table:
        """A joined table."""
        join = next(join for join in self.plan.spec.join if join.table == name)
        return open_table(self.plan.tables[name], join)
