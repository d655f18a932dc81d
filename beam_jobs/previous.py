"""The version before: what it was made of, and its records, which a later one takes over where nothing changed.

Runs of a committed version stay without their records, since its shards hold these. A job of a later version takes
over whole runs of unchanged partitions; of changed ones the records whose source, and whose rows of joined tables,
are as they were; and, by a hard link, shards of which every record is taken over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from beam_jobs.listing import Listed, read_partitions
from beam_jobs.plan import JobPlan, Previous
from beam_jobs.sources.base import Partition, is_selective
from beam_jobs.store_path import StorePath
from beam_jobs.workspace import Workspace
from schemas import HeadraceError, read_manifest
from schemas.hashing import KEY_HASH_DTYPE, as_sortable, find_hashes, shard_bounds
from schemas.index import ShardIndex, decode_index
from schemas.manifest import Manifest


@dataclass(frozen=True)
class Note:
    """What is kept of a committed version beside it.

    Attributes:
      inputs, code, records: fingerprints; see `JobPlan`.
      sequence: later commits have higher numbers.
      fingerprint: of the version's manifest.
      taken_over: partitions, records and shards of the version before, for the summary.
      placed: whether files beside its runs say where its records are; see `beam_jobs.placement`.
      expected: fingerprint of what its statistics were compared with; see `Expectations`.
    """

    inputs: str
    code: str
    records: str = ""
    sequence: int = 0
    fingerprint: str = ""
    taken_over: Mapping[str, int] | None = None
    placed: bool = False
    expected: str = ""


def read_note(path: StorePath) -> Note | None:
    """The note in a file, or None where there is none."""
    try:
        return Note(**json.loads(path.read()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise HeadraceError(
            "A note in the work directory is damaged.",
            where=str(path),
            hint="Remove it: what it tells of is then taken for unknown.",
        ) from error


def notes(workspace: Workspace) -> dict[str, Note]:
    """The notes of all committed versions of a data set, by version."""
    found = {}
    for name in workspace.work.names():
        version = name.removeprefix("inputs-").removesuffix(".json")
        if name != f"inputs-{version}.json" or not workspace.of(version).is_committed:
            continue
        note = read_note(workspace.work / name)
        if note is not None:
            found[version] = note
    return found


def find_previous(plan: JobPlan) -> Previous | None:
    """The version committed last of those whose records would come out the same from the same sources."""
    transform = plan.spec.transforming
    if transform is not None and transform.materialize:
        return None  # its shards hold no records to be taken over, and are never the same files
    workspace = plan.workspace
    known = notes(workspace)
    found = [
        (note.sequence, version)
        for version, note in known.items()
        if note.records == plan.records and version != workspace.version
    ]
    for _, version in sorted(found, reverse=True):
        old = workspace.of(version)
        if not old.partitions.exists():
            continue
        manifest = _manifest(str(old.dataset))
        shards = [len(manifest.splits[name].shards) for name in plan.split_names]
        return Previous(version, manifest.fingerprint, shards, known[version].placed)
    return None


def list_partitions(plan: JobPlan, partitions: Iterable[Partition]) -> Iterator[Listed]:
    """Every partition with its run, and what of the version before can be taken over."""
    runs = [plan.run_path(partition).name for partition in partitions]
    if plan.previous is None:
        yield from map(Listed, partitions, runs)
        return
    sources = {name: plan.source(name) for name in plan.spec.main_names}
    wanted, old = set(runs), set[str]()
    rest: dict[str, list[tuple[str, str, str]]] = {name: [] for name in sources}
    for listed in read_partitions(plan.workspace.of(plan.previous.version).partitions):
        old.add(listed.run)
        source = sources[listed.partition.source]
        if is_selective(source) and listed.run not in wanted:
            rest[listed.partition.source].append((*source.bounds(listed.partition), listed.run))
    for runs_of_one in rest.values():
        runs_of_one.sort()
    lasts = {name: np.array([last for _, last, _ in found], object) for name, found in rest.items()}
    for partition, run in zip(partitions, runs, strict=True):
        similar = []
        source, others = sources[partition.source], rest[partition.source]
        if run not in old and is_selective(source) and others:
            first, last = source.bounds(partition)
            place = int(np.searchsorted(lasts[partition.source], first))
            while place < len(others) and others[place][0] <= last:
                similar.append(others[place][2])
                place += 1
        yield Listed(partition, run, run in old, similar)


def repeated_hashes(path: StorePath) -> npt.NDArray[np.void]:
    """Key hashes that occurred more than once in a version, sorted, `KEY_HASH_DTYPE`: its shards hold one of each."""
    try:
        return np.frombuffer(path.read(), KEY_HASH_DTYPE)
    except FileNotFoundError:
        return np.zeros(0, KEY_HASH_DTYPE)


def is_among(hashes: npt.NDArray[np.void], among: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are among sorted ones, bool (n,)."""
    return find_hashes(hashes, among) >= 0


class OldShards:
    """The shards of one split of the version before, and behind them those of the others, as records can have moved.

    Attributes:
      directory: of that version.
      entries: of its manifest.
      moved: whether not all of its records are in the split that their own rows gave them.
    """

    def __init__(self, plan: JobPlan, split: int) -> None:
        assert plan.previous is not None
        self.directory = plan.workspace.of(plan.previous.version).dataset
        manifest = _manifest(str(self.directory))
        if manifest.fingerprint != plan.previous.fingerprint:
            raise HeadraceError(
                "The version whose records were to be taken over has been replaced.",
                where=str(self.directory),
                hint="Run the same command again.",
            )
        self.moved = plan.previous.placed
        own = plan.split_names[split]
        names = [own, *(name for name in plan.split_names if name != own)]
        self.entries = manifest.splits[own].shards
        self._splits = [manifest.splits[name].shards for name in names]
        self._all = [entry for shards in self._splits for entry in shards]

    def path(self, number: int) -> StorePath:
        """The file of a shard."""
        return self.directory / self._all[number].path

    def hashes(self, number: int) -> npt.NDArray[np.void]:
        """The key hashes of a shard, in order, `KEY_HASH_DTYPE`."""
        return as_sortable(self._index(number).key_hashes)

    def locate(
        self, hashes: npt.NDArray[np.void], lengths: npt.NDArray[np.uint64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """In which shard each record lies, and at which byte: int64 (n,) each.

        Raises:
          HeadraceError: one is nowhere or has another length, or a shard has.
        """
        found, offsets = np.full(len(hashes), -1, np.int64), np.zeros(len(hashes), np.int64)
        rest, first = np.arange(len(hashes)), 0
        for entries in self._splits:
            shards = first + np.searchsorted(shard_bounds(len(entries)), hashes[rest], side="right") - 1
            for number in np.unique(shards).tolist():
                index = self._index(number)
                here = rest[shards == number]
                places = find_hashes(hashes[here], as_sortable(index.key_hashes))
                here, places = here[places >= 0], places[places >= 0]
                same = index.lengths[places] == lengths[here]
                found[here[same]] = number
                offsets[here[same]] = index.offsets[places[same]]
            rest, first = rest[found[rest] < 0], first + len(entries)
        if len(rest):
            own = np.searchsorted(shard_bounds(len(self.entries)), hashes[rest[:1]], side="right")
            raise self.damaged(int(own[0]) - 1)
        for number in np.unique(found).tolist():
            if self.path(number).size() != self._all[number].bytes:
                raise self.damaged(number)
        return found, offsets

    def _index(self, number: int) -> ShardIndex:
        path = self.directory / self._all[number].index.path
        return decode_index(path.read(), str(path))

    def damaged(self, number: int) -> HeadraceError:
        """The error to raise where a shard is found to be damaged."""
        return HeadraceError(
            "A shard of the version whose records were to be taken over is not as it was committed.",
            where=str(self.path(number)),
            hint=f"Run `headrace verify {self.directory}`; remove that version, or run with --from-scratch.",
        )


@lru_cache(maxsize=4)
def _manifest(directory: str) -> Manifest:
    return read_manifest(directory)
