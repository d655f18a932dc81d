"""All records of a job that are looked at for duplicates, and those of earlier versions: on disk, mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beam_jobs.facts import Fact, row_of
from beam_jobs.files import scratch_file
from schemas.hashing import KEY_HASH_DTYPE

Rows = npt.NDArray[np.void]

# run: its number, or -1 less the number of an earlier version; place: in the run's index; row: in the source.
RECORD = np.dtype(
    [
        ("run", "<i4"),
        ("place", "<i8"),
        ("row", "<i8"),
        ("length", "<i8"),
        ("split", "<i2"),
        ("hash", KEY_HASH_DTYPE),
    ]
)


@dataclass(frozen=True)
class Gathered:
    """Records and their signatures, tier by tier: first those of earlier versions, then the job's own.

    What becomes of a record depends on its own tier and those before alone. So the splits are tiers, in their order:
    no record of another split changes what is in the first, which is the one to train on.

    Attributes:
      records: `RECORD` (n,), of each tier in the order of the sources.
      signatures: of the job's facts, rows (n,).
      bounds: where each tier of the job's own begins, and where the last one ends.
    """

    records: Rows
    signatures: Rows
    bounds: list[int]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def earlier(self) -> int:
        """How many are of earlier versions."""
        return self.bounds[0]

    def chunks(self, size: int = 1 << 14) -> Iterator[tuple[npt.NDArray[np.int64], Rows]]:
        """The numbers and signatures of all, some thousand at a time."""
        for start in range(0, len(self), size):
            rows = self.signatures[start : start + size]
            yield np.arange(start, start + len(rows)), rows


def gather(tiers: Iterable[Iterable[tuple[Rows, Rows]]], facts: Sequence[Fact]) -> Gathered:
    """Writes records and signatures, part by part, into temporary files that vanish with the last use of them."""
    kind, count, bounds = row_of(facts), 0, []
    with scratch_file() as records, scratch_file() as signatures:
        for parts in tiers:
            for some, rows in parts:
                records.write(some.tobytes())
                signatures.write(rows.tobytes())
                count += len(some)
            bounds.append(count)
        records.flush()
        signatures.flush()
        if not count:
            return Gathered(np.zeros(0, RECORD), np.zeros(0, kind), bounds)
        return Gathered(
            np.memmap(records, RECORD, "r", shape=(count,)),
            np.memmap(signatures, kind, "r", shape=(count,)),
            bounds,
        )
