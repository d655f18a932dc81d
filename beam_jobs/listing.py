"""The list of a job's partitions as a file in the work directory; Beam's elements only say where in it one lies.

An element of Beam's Create is copied a dozen times on its way through a runner; a file is read once.
"""

from __future__ import annotations

import json
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from beam_jobs.files import scratch_file
from beam_jobs.sources.base import Partition
from beam_jobs.store_path import StorePath


class PartitionList:
    """The partitions of a source, in a temporary file: a billion listed files are more than memory holds."""

    def __init__(self, partitions: Iterable[Partition]) -> None:
        self._file = scratch_file()
        weakref.finalize(self, self._file.close)
        self._ends = array("Q", [0])
        for partition in partitions:
            line = json.dumps(vars(partition)).encode()
            self._file.write(line)
            self._ends.append(self._ends[-1] + len(line))
        self._file.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> Partition:
        start, end = self._ends[place], self._ends[place + 1]
        return Partition(**json.loads(os.pread(self._file.fileno(), end - start, start)))

    def __iter__(self) -> Iterator[Partition]:
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True)
class PartitionRef:
    """Where a partition lies in the list: byte offset and length of its line; and about how many bytes are to be read.

    None are of a partition whose records an earlier version holds.
    """

    offset: int
    length: int
    bytes: int


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


def write_partitions(path: StorePath, listed: Iterable[Listed]) -> list[PartitionRef]:
    """Writes the list, a line of JSON a partition; gives the reference to each."""
    refs, offset = [], 0
    with path.writing(durable=True) as file:  # kept with the version, for the jobs of later ones
        for each in listed:
            line = json.dumps({**vars(each), "partition": vars(each.partition)}).encode() + b"\n"
            file.write(line)
            refs.append(PartitionRef(offset, len(line), 0 if each.committed else each.partition.bytes))
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
