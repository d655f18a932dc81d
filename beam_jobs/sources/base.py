"""What every source is: a list of partitions, and a way to read one of them as record batches."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class Partition:
    """A deterministic slice of a source: the unit of work, of retry and of resume.

    Attributes:
      source: the source's name in the job.
      ordinal: its place in the source's order, from 0. Says which of two duplicate records came first.
      identity: JSON-able and small; changes whenever what `read` yields may (names, sizes, times, hashes of bytes).
      payload: JSON-able and compact; what the source needs to read it, paths relative to the source's root.
      bytes: about how many bytes it reads.
      records: how many records it holds, where known beforehand.
    """

    source: str
    ordinal: int
    identity: Any
    payload: Any
    bytes: int
    records: int | None = None


@dataclass(frozen=True)
class Fault:
    """A record that the source could not read: a dead letter of stage `read`.

    Attributes:
      row: number of the record, as `Source.origin` takes it.
      rule: a short snake_case name, such as `ragged_row`.
      reason: for people; says what was found and what is allowed.
      raw: the start of the raw record, where that helps.
    """

    row: int
    rule: str
    reason: str
    raw: bytes | None = None


@dataclass(frozen=True)
class SourceBatch:
    """Records of one partition, in source order.

    Attributes:
      records: the source's columns, n rows. Large values are `large_binary` / `large_string`.
      keys: binary (n,), the stable unique name of each record; null where the key is missing.
      rows: int64 (n,), number of each record, as `Source.origin` takes it.
      faults: records that could not be read at all; not in `records`.
    """

    records: pa.RecordBatch
    keys: pa.Array
    rows: npt.NDArray[np.int64]
    faults: list[Fault] = field(default_factory=list)


class Source(Protocol):
    """One kind of source. Instances are built from the job spec on every worker."""

    def partitions(self) -> Iterable[Partition]:
        """The slices of the source, in order; the same for any order in which storage lists files.

        Raises:
          HeadraceError: the source is missing, unreadable or empty.
        """
        ...

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The records of one partition, in batches of bounded memory (about 8 MiB).

        A record that cannot be read is a `Fault`; a partition that cannot be read raises.
        """
        ...

    def origin(self, partition: Partition, row: int) -> str:
        """Where record `row` of the partition came from, for people: `labels.csv, row 17`."""
        ...

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields."""
        ...


@runtime_checkable
class Selective(Source, Protocol):
    """A source whose records can be read one by one, so that a changed partition is not read anew as a whole.

    Its partitions say how many records they hold.
    """

    def identities(self, partition: Partition) -> Sequence[Hashable]:
        """For every row a value that no other row has, and that changes whenever its record or key may have."""
        ...

    def bounds(self, partition: Partition) -> tuple[str, str]:
        """The first and the last of the partition's names, by which partitions are sorted and do not overlap."""
        ...

    def read_rows(self, partition: Partition, rows: Sequence[int]) -> Iterator[SourceBatch]:
        """As `read`, but of these rows only, which rise."""
        ...


@runtime_checkable
class Materialized(Source, Protocol):
    """A source whose rows a pipeline of their own leaves in the work directory before they are read.

    See `beam_jobs.materialize`.
    """

    def at(self, place: Any) -> Source:
        """The same source, its rows in the directory `place`, a `StorePath`."""
        ...


def is_selective(source: Source) -> TypeGuard[Selective]:
    """Whether a source is a `Selective`."""
    return _is_of(type(source), Selective)


def is_materialized(source: Source) -> TypeGuard[Materialized]:
    """Whether a source is a `Materialized`."""
    return _is_of(type(source), Materialized)


@cache  # Python looks at all methods each time, and a job asks for every partition
def _is_of(kind: type, protocol: type) -> bool:
    return issubclass(kind, protocol)
