"""The list of a job's partitions as a file in the work directory; Beam's elements only say where in it one lies.

An element of Beam's Create is copied a dozen times on its way through a runner; a file is read once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beam_jobs.files import write_file
from beam_jobs.sources.base import Partition


@dataclass(frozen=True)
class PartitionRef:
    """Where a partition lies in the list: byte offset and length of its line."""

    offset: int
    length: int


def write_partitions(path: Path, partitions: Sequence[Partition]) -> list[PartitionRef]:
    """Writes the list, a line of JSON a partition; gives the reference to each."""
    lines = [json.dumps(vars(partition)).encode() + b"\n" for partition in partitions]
    write_file(path, b"".join(lines), durable=False)
    refs, offset = [], 0
    for line in lines:
        refs.append(PartitionRef(offset, len(line)))
        offset += len(line)
    return refs


def read_partition(path: Path, ref: PartitionRef) -> Partition:
    """The partition that `ref` names."""
    with open(path, "rb") as file:
        file.seek(ref.offset)
        return Partition(**json.loads(file.read(ref.length)))
