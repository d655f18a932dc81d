"""A version's statistics while it is made: a file for each shard in the work directory, and all of them together.

The file is named by the shard's SHA-256 and by all that makes records, so a shard that is taken over from the version
before takes its statistics along, and a job that goes on makes none twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from beam_jobs.plan import JobPlan
from beam_jobs.statistics.shard import Scan, ShardStatistics
from beam_jobs.statistics.tfmd import statistics_proto
from beam_jobs.store_path import StorePath
from beam_jobs.workspace import Workspace
from schemas import HeadraceError
from schemas.hashing import fingerprint
from schemas.index import decode_bounds
from schemas.manifest import ShardEntry, SplitEntry
from schemas.naming import STATISTICS, tfmd_statistics_name
from schemas.statistics import SplitStatistics, Statistics

_READS = 16  # files of statistics that are read, and held, at a time


def empty_statistics(plan: JobPlan) -> ShardStatistics:
    """Statistics of the job's records, of none yet."""
    return ShardStatistics(plan.stored, plan.stored_packing)


def keep(plan: JobPlan, entry: ShardEntry, statistics: ShardStatistics) -> None:
    """Keeps the statistics of a shard."""
    # Where a power cut takes the file, or some of it, the shard is made again.
    _path(plan, plan.workspace, entry).write(statistics.encode(), durable=False)


def look_at(plan: JobPlan, entry: ShardEntry) -> None:
    """Makes the statistics of a shard that lies in the stage, and keeps them."""
    keep(plan, entry, scan_again(plan, entry, plan.workspace.stage))


def is_kept(plan: JobPlan, entry: ShardEntry) -> bool:
    """Whether the statistics of a shard are there and whole."""
    return _is_whole(plan, _read(_path(plan, plan.workspace, entry)))


def take_along(plan: JobPlan, entry: ShardEntry) -> bool:
    """Keeps the statistics of a shard that is taken over from the version before, if that has them."""
    assert plan.previous is not None
    data = _read(_path(plan, plan.workspace.of(plan.previous.version), entry))
    if data is None or not _is_whole(plan, data):
        return False
    _path(plan, plan.workspace, entry).write(data, durable=False)
    return True


def scan_again(plan: JobPlan, entry: ShardEntry, directory: StorePath) -> ShardStatistics:
    """The statistics of a shard that lies in a directory."""
    index = directory / entry.index.path
    offsets = decode_bounds(index.read(), str(index)).astype(np.int64)
    scan = Scan(empty_statistics(plan), offsets[1:] - offsets[:-1], entry.path)
    shard = directory / entry.path
    scan.take(np.frombuffer(piece, np.uint8) for piece in shard.pieces(0, entry.bytes))
    return scan.statistics


def gather(plan: JobPlan, splits: Mapping[str, SplitEntry]) -> Statistics:
    """The statistics of all shards in the stage; removes what is kept of others, from an attempt before this one.

    Raises:
      HeadraceError: those of a shard have vanished.
    """
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
    whole = empty_statistics(plan)
    paths = [_path(plan, plan.workspace, entry) for entry in split.shards]
    for path, data in zip(paths, _read_ahead(paths), strict=True):
        if data is None or not whole.merge(data):
            raise HeadraceError(
                "The statistics of a finished shard have vanished from the work directory, or were damaged.",
                where=str(path),
                hint="Run the same command again. Every worker must see the same --out directory.",
            )
    return SplitStatistics(records=split.records, bytes=split.bytes, features=whole.results())


def _read_ahead(paths: Sequence[StorePath]) -> Iterator[bytes | None]:
    """The files in order; of a bucket, which answers each late, a few at a time."""
    if not paths or not paths[0].store.durable:
        yield from map(_read, paths)
        return
    with ThreadPoolExecutor(_READS) as pool:
        for start in range(0, len(paths), _READS):
            yield from pool.map(_read, paths[start : start + _READS])


def _is_whole(plan: JobPlan, data: bytes | None) -> bool:
    return data is not None and empty_statistics(plan).merge(data)


def _path(plan: JobPlan, workspace: Workspace, entry: ShardEntry) -> StorePath:
    return workspace.statistics / fingerprint(plan.records, entry.sha256)


def _read(path: StorePath) -> bytes | None:
    try:
        return path.read()
    except FileNotFoundError:
        return None
