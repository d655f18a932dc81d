"""The list of a job's partitions as a file in the work directory; Beam's elements only say where in it one lies.

An element of Beam's Create is copied a dozen times on its way through a runner; a file is read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from beam_jobs.files import write_file
from beam_jobs.sources.base import Partition


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


def write_partitions(path: Path, listed: Sequence[Listed]) -> list[PartitionRef]:
    """Writes the list, a line of JSON a partition; gives the reference to each."""
    lines = [
        json.dumps({**vars(each), "partition": vars(each.partition)}).encode() + b"\n" for each in listed
    ]
    # Kept with the version, for the jobs of later ones.
    write_file(path, b"".join(lines), durable=True)
    refs, offset = [], 0
    for line in lines:
        refs.append(PartitionRef(offset, len(line)))
        offset += len(line)
    return refs


def read_partition(path: Path, ref: PartitionRef) -> Listed:
    """The partition that `ref` names."""
    with open(path, "rb") as file:
        file.seek(ref.offset)
        return _decoded(file.read(ref.length))


def read_partitions(path: Path) -> Iterator[Listed]:
    """All of a list, one after the other."""
    with open(path, "rb") as file:
        yield from map(_decoded, file)


def _decoded(line: bytes) -> Listed:
    data = json.loads(line)
    return Listed(**{**data, "partition": Partition(**data["partition"])})
