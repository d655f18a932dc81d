"""The list of a job's partitions as a file in the work directory; Beam's elements only say where in it one lies.

An element of Beam's Create is copied a dozen times on its way through a runner; a file is read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from beam_jobs.sources.base import Partition
from beam_jobs.store_path import StorePath


@dataclass(frozen=True)
class PartitionRef:
    """Where a partition lies in the list: byte offset and length of its line."""

    offset: int
    length: int


@dataclass(frozen=True)
class Listed:
    """A partition in the list.

    Attributes:
      partition: itself.
      run: file name of its run.
      committed: whether an earlier version was made of that very run, so that its shards hold all records of it.
      similar: otherwise, runs of the earlier version that may hold some of its records.
    """

    partition: Partition
    run: str
    committed: bool = False
    similar: list[str] = field(default_factory=list)


def write_partitions(path: StorePath, listed: Sequence[Listed]) -> list[PartitionRef]:
    """Writes the list, a line of JSON a partition; gives the reference to each."""
    lines = [
        json.dumps({**vars(each), "partition": vars(each.partition)}).encode() + b"\n" for each in listed
    ]
    # Kept with the version, for the jobs of later ones.
    path.write(b"".join(lines), durable=True)
    refs, offset = [], 0
    for line in lines:
        refs.append(PartitionRef(offset, len(line)))
        offset += len(line)
    return refs


def read_partition(path: StorePath, ref: PartitionRef) -> Listed:
    """The partition that `ref` names."""
    return _decoded(path.read_range(ref.offset, ref.length))


def read_partitions(path: StorePath) -> Iterator[Listed]:
    """All of a list, one after the other; none where there is no list."""
    rest = b""
    for piece in path.pieces(0, path.size() or 0):
        *lines, rest = (rest + piece).split(b"\n")
        yield from map(_decoded, lines)


def _decoded(line: bytes) -> Listed:
    data = json.loads(line)
    return Listed(**{**data, "partition": Partition(**data["partition"])})
