"""What moves through a partition's stages: a batch of records, and a ledger of those that left it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_MAX_RAW_BYTES = 4096
OWN_PREFIX = "headrace:"  # of columns that the stages add for themselves

DEAD_LETTER_SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in ("source", "origin", "key", "stage", "rule", "reason", "raw")]
)


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be used: where it came from, which stage and rule refused it, and why."""

    source: str
    origin: str
    key: str
    stage: str
    rule: str
    reason: str
    raw: str = ""


@dataclass(frozen=True)
class Problem:
    """A record that a stage refuses: its place in the batch, the rule, and the reason for people."""

    place: int
    rule: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Records on their way through the stages.

    Attributes:
      records: n rows.
      keys: binary (n,).
      rows: int64 (n,), the number of each record in its source.
    """

    records: pa.RecordBatch
    keys: pa.Array
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return self.records.num_rows

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are the user's, not our own."""
        return [name for name in self.records.schema.names if not name.startswith(OWN_PREFIX)]

    def keep(self, mask: npt.NDArray[np.bool_]) -> Batch:
        """The records where `mask` is true; nothing is copied when that is all of them."""
        if bool(mask.all()):
            return self
        places = pa.array(np.flatnonzero(mask))
        return Batch(self.records.take(places), self.keys.take(places), self.rows[mask])

    def with_records(self, records: pa.RecordBatch) -> Batch:
        """The same records with other columns."""
        return replace(self, records=records)

    def with_column(self, name: str, column: pa.Array) -> Batch:
        """The same records with one column added or replaced."""
        place = self.records.schema.get_field_index(name)
        if place < 0:
            return self.with_records(self.records.append_column(name, column))
        return self.with_records(self.records.set_column(place, name, column))


@dataclass
class Ledger:
    """The books of one partition, and its dead letters."""

    source: str
    origin: Callable[[int], str]
    read: int = 0
    added: int = 0
    """Records that joins made of one, beyond the first."""
    dropped: defaultdict[str, list[npt.NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))
    """Rows dropped, by rule."""
    repaired: defaultdict[str, list[npt.NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))
    """Rows of which a rule mended a value, by rule; whatever became of them later."""
    _letters: list[tuple[int, DeadLetter]] = field(default_factory=list)

    @property
    def letters(self) -> list[DeadLetter]:
        """In the order of their rows, whatever batches the partition was read in."""
        return [letter for _, letter in self.numbered]

    @property
    def numbered(self) -> list[tuple[int, DeadLetter]]:
        """The letters with the numbers of their rows."""
        return sorted(self._letters, key=lambda pair: pair[0])

    def fault(self, row: int, rule: str, reason: str, raw: bytes | None = None) -> None:
        """Makes a dead letter of a record that the source could not read."""
        text = (raw or b"").decode("utf-8", "backslashreplace")
        self._letters.append((row, DeadLetter(self.source, self.origin(row), "", "read", rule, reason, text)))

    def refuse(self, batch: Batch, stage: str, problems: Iterable[Problem]) -> Batch:
        """Makes dead letters of `problems` (the first of each record counts); gives the rest of the batch."""
        mask = np.ones(len(batch), dtype=np.bool_)
        for problem in problems:
            if mask[problem.place]:
                mask[problem.place] = False
                self._letters.append((int(batch.rows[problem.place]), self._letter(batch, stage, problem)))
        return batch.keep(mask)

    def drop(self, batch: Batch, rule: str, mask: npt.NDArray[np.bool_]) -> Batch:
        """Counts the records where `mask` is true as dropped by `rule`; gives the rest."""
        if not bool(mask.any()):
            return batch
        self.dropped[rule].append(batch.rows[mask])
        return batch.keep(~mask)

    def leave_out(
        self,
        batch: Batch,
        stage: str,
        problems: Iterable[Problem],
        dropped: Mapping[str, npt.NDArray[np.bool_]],
    ) -> Batch:
        """`refuse`, then `drop` by each of several rules, whose masks are of the whole batch; gives the rest."""
        problems = list(problems)
        left = np.ones(len(batch), dtype=np.bool_)
        left[[problem.place for problem in problems]] = False
        batch = self.refuse(batch, stage, problems)
        for rule, mask in dropped.items():
            batch = self.drop(batch, rule, mask[left])
            left &= ~mask
        return batch

    def repair(self, batch: Batch, rule: str, mask: npt.NDArray[np.bool_]) -> None:
        """Counts the records where `mask` is true as repaired by `rule`."""
        if bool(mask.any()):
            self.repaired[rule].append(batch.rows[mask])

    def _letter(self, batch: Batch, stage: str, problem: Problem) -> DeadLetter:
        key = batch.keys[problem.place].as_py()
        return DeadLetter(
            source=self.source,
            origin=self.origin(int(batch.rows[problem.place])),
            key="" if key is None else key.decode("utf-8", "backslashreplace"),
            stage=stage,
            rule=problem.rule,
            reason=problem.reason,
            raw=_raw(batch.records, problem.place),
        )


def _raw(records: pa.RecordBatch, place: int) -> str:
    """The record as JSON where small; images and other bytes are left out, the origin tells where they are."""
    row = {
        name: records.column(name)[place].as_py()
        for name, kind in zip(records.schema.names, records.schema.types, strict=True)
        if not (name.startswith(OWN_PREFIX) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    }
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_RAW_BYTES else ""
