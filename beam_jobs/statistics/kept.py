"""A version's statistics while it is made: a file for each shard in the work directory, and all of them together.

The file is named by the shard's SHA-256 and by all that makes records, so a shard that is taken over from the version
before takes its statistics along, and a job that goes on makes none twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from beam_jobs.plan import JobPlan, Workspace
from beam_jobs.statistics.shard import Scan, ShardStatistics
from beam_jobs.statistics.tfmd import statistics_proto
from beam_jobs.store_path import StorePath
from schemas.hashing import fingerprint
from schemas.index import decode_bounds
from schemas.manifest import ShardEntry, SplitEntry
from schemas.naming import STATISTICS, tfmd_statistics_name
from schemas.statistics import SplitStatistics, Statistics


def scan_shard(plan: JobPlan, lengths: npt.NDArray[np.int64], name: str) -> Scan:
    """What takes the bytes of the shard `name`, of records of these lengths."""
    return Scan(ShardStatistics(plan.stored, plan.stored_packing), lengths, name)


def keep(plan: JobPlan, entry: ShardEntry, statistics: ShardStatistics) -> None:
    """Keeps the statistics of a shard."""
    # Where a power cut takes the file, or some of it, the shard is read again.
    _path(plan, plan.workspace, entry).write(statistics.encode(), durable=False)


def look_at(plan: JobPlan, entry: ShardEntry) -> None:
    """Makes the statistics of a shard that lies in the stage, and keeps them."""
    keep(plan, entry, _made(plan, entry, plan.workspace.stage))


def take_along(plan: JobPlan, entry: ShardEntry) -> None:
    """Keeps the statistics of a shard that is taken over from the version before; where it has none, they are made."""
    assert plan.previous is not None
    old = plan.workspace.of(plan.previous.version)
    data = _read(_path(plan, old, entry))
    if data is None or not ShardStatistics(plan.stored, plan.stored_packing).merge(data):
        data = _made(plan, entry, old.dataset).encode()
    _path(plan, plan.workspace, entry).write(data, durable=False)


def gather(plan: JobPlan, splits: Mapping[str, SplitEntry]) -> Statistics:
    """The statistics of all shards in the stage; removes what is kept of others, from an attempt before this one."""
    wanted = {_path(plan, plan.workspace, entry).name for split in splits.values() for entry in split.shards}
    for name in plan.workspace.statistics.names():
        if name not in wanted:
            (plan.workspace.statistics / name).delete()
    return Statistics(splits={name: _of_split(plan, split) for name, split in splits.items()})


def statistics_files(statistics: Statistics) -> dict[str, bytes]:
    """The bytes of the files of a version that hold its statistics, by path."""
    files = {STATISTICS: statistics.to_json().encode()}
    for name, split in statistics.splits.items():
        files[tfmd_statistics_name(name)] = statistics_proto(name, split).SerializeToString(
            deterministic=True
        )
    return files


def _of_split(plan: JobPlan, split: SplitEntry) -> SplitStatistics:
    whole = ShardStatistics(plan.stored, plan.stored_packing)
    for entry in split.shards:
        data = _read(_path(plan, plan.workspace, entry))
        if data is None or not whole.merge(data):
            made = _made(plan, entry, plan.workspace.stage)
            keep(plan, entry, made)
            whole.merge(made.encode())
    return SplitStatistics(records=split.records, bytes=split.bytes, features=whole.results())


def _made(plan: JobPlan, entry: ShardEntry, directory: StorePath) -> ShardStatistics:
    """The statistics of a shard that lies in a directory."""
    index = directory / entry.index.path
    offsets = decode_bounds(index.read(), str(index)).astype(np.int64)
    scan = scan_shard(plan, offsets[1:] - offsets[:-1], entry.path)
    shard = directory / entry.path
    scan.take(np.frombuffer(piece, np.uint8) for piece in shard.pieces(0, entry.bytes))
    return scan.statistics


def _path(plan: JobPlan, workspace: Workspace, entry: ShardEntry) -> StorePath:
    return workspace.statistics / fingerprint(plan.records, entry.sha256)


def _read(path: StorePath) -> bytes | None:
    try:
        return path.read()
    except FileNotFoundError:
        return None
