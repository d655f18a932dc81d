"""Shards: one contiguous range of key hashes from every run, merged into a plain TFRecord file and its index.

Beam carries only references (which rows of which run); the bytes go from the runs straight into the shard.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from beam_jobs.build import RunSummary
from beam_jobs.duplicates.shards import sign_shard, signature_files, take_signatures_along
from beam_jobs.facts import row_of
from beam_jobs.finished import open_finished
from beam_jobs.indexed import to_columns
from beam_jobs.merge import (
    Merge,
    Range,
    locate,
    merged_fact_parts,
    merged_facts,
    merged_indexed,
    merged_pieces,
    plan_merge,
)
from beam_jobs.placed import read_places
from beam_jobs.plan import JobPlan
from beam_jobs.previous import OldShards
from beam_jobs.runs import RUN_SUFFIX, Run, partition_of, read_index, read_kept
from beam_jobs.settle import Settled
from beam_jobs.statistics.defaults import default_facts, defaulted, has_default
from beam_jobs.statistics.kept import empty_statistics, is_kept, keep, scan_again, take_along
from beam_jobs.statistics.pictures import picture_facts, pictures_of
from beam_jobs.statistics.shard import ShardStatistics
from beam_jobs.wire import for_runners
from schemas.hashing import KEY_HASH_BYTES, fingerprint, shard_bounds
from schemas.index import encode_index
from schemas.manifest import FileEntry, ShardEntry
from schemas.naming import index_name, shard_name

PackedReference = bytes
_REFERENCE = struct.Struct(">16sI3Q?")
ShardKey = str  # "split:shard", both zero-padded numbers: a key that every runner encodes alike


@dataclass(frozen=True)
class Reference:
    """Rows of a run that belong to one shard.

    Attributes:
      run: file name of the run.
      ordinal: place of its partition in the source's order.
      start, stop: rows of the run's index.
      offset: where in the file of the run's own records those of the rows begin.
      committed: whether the version before holds all of them.
    """

    run: str
    ordinal: int
    start: int
    stop: int
    offset: int
    committed: bool

    def pack(self) -> PackedReference:
        """The reference in 45 bytes: there is one for every run and shard, and a runner holds them all."""
        rest = (self.ordinal, self.start, self.stop, self.offset, self.committed)
        return _REFERENCE.pack(bytes.fromhex(self.run.removesuffix(RUN_SUFFIX)), *rest)

    @staticmethod
    def unpack(packed: PackedReference) -> Reference:
        """The reference that `pack` made so."""
        run, *rest = _REFERENCE.unpack(packed)
        return Reference(run.hex() + RUN_SUFFIX, *rest)


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
      split, number: which one it is.
      entry: its entry in the manifest.
      duplicates: for every record left out, (key hash, its source, its origin, origin of the one that stays).
      linked: whether it is the very file of the version before.
    """

    split: int
    number: int
    entry: ShardEntry
    duplicates: list[tuple[str, str, str, str]]
    linked: bool


@for_runners
def find_references(
    summary: RunSummary, plan: JobPlan, settled: Settled
) -> list[tuple[ShardKey, PackedReference]]:
    """For each shard that the run has records of, the reference to them.

    Of the first run also an empty one for every shard, so that one without records is written too.
    """
    run = open_finished(plan, summary.run)
    index = read_index(run)
    kept = np.full(len(index), True) if summary.committed else read_kept(run, 0, len(index))
    ends = np.concatenate([[0], np.cumsum(np.where(kept, 0, index["length"]), dtype=np.int64)])
    found = [] if summary.ordinal else _every_shard(settled)
    for split, places in _parts(plan, summary, run):
        hashes = np.ascontiguousarray(index["hash"][places])
        # One more bound than shards: where the last one ends.
        bounds = np.append(np.searchsorted(hashes, shard_bounds(settled.shards[split])), len(places)).tolist()
        for number, (low, high) in enumerate(pairwise(bounds)):
            if high > low:
                start, stop = int(places[low]), int(places[high - 1]) + 1
                reference = Reference(
                    summary.run, summary.ordinal, start, stop, int(ends[start]), summary.committed
                )
                found.append((_key(split, number), reference.pack()))
    return found


def _parts(plan: JobPlan, summary: RunSummary, run: Run) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Parts of a run in key-hash order: their split, and where in the index their records are."""
    first = 0
    for split, (records, _) in enumerate(run.splits):
        places = np.arange(first, first + records)
        if summary.placed:
            final = read_places(plan.workspace.placements / summary.run, first, first + records)
            for moved in np.unique(final[final >= 0]).tolist():
                yield moved, places[final == moved]
        else:
            yield split, places
        first += records


def _every_shard(settled: Settled) -> list[tuple[ShardKey, PackedReference]]:
    return [
        (_key(split, number), b"") for split, count in enumerate(settled.shards) for number in range(count)
    ]


@for_runners
def assemble_shard(
    keyed: tuple[ShardKey, Iterable[PackedReference]], plan: JobPlan, settled: Settled
) -> Shard:
    """Writes one shard and its index into the stage, unless they are there already."""
    split, number = (int(part) for part in keyed[0].split(":"))
    references = sorted(
        (Reference.unpack(packed) for packed in keyed[1] if packed), key=lambda reference: reference.ordinal
    )
    name = shard_name(plan.spec.name, plan.split_names[split], number, settled.shards[split])
    previous = None if plan.previous is None else plan.previous.fingerprint
    wanted = fingerprint(
        plan.code, name, previous, settled.placed, [vars(reference) for reference in references]
    )
    found = _finished(plan, split, number, name, wanted)
    if found is not None:
        return found
    shard = _make_shard(plan, split, number, name, _ranges(plan, settled, split, references))
    note = {
        "wanted": wanted,
        "entry": shard.entry.model_dump(),
        "duplicates": shard.duplicates,
        "linked": shard.linked,
    }
    (plan.workspace.shard_notes / f"{name}.json").write(json.dumps(note).encode(), durable=False)
    return shard


@dataclass(eq=False)
class AssembleShards(beam.PTransform):
    """Summaries of runs, with `Settled` beside them, to finished shards."""

    plan: JobPlan
    settled: beam.PCollection[Settled]

    def expand(self, summaries: beam.PCollection[RunSummary]) -> beam.PCollection[Shard]:
        """RunSummary → (ShardKey, Reference) → Shard."""
        settled = beam.pvalue.AsSingleton(self.settled)
        return (
            summaries
            | "Find references" >> beam.FlatMap(find_references, self.plan, settled)
            | "Group by shard" >> beam.GroupByKey()
            | "Assemble shard" >> beam.Map(assemble_shard, self.plan, settled)
        )


def _key(split: int, number: int) -> ShardKey:
    return f"{split:03d}:{number:05d}"


def _finished(plan: JobPlan, split: int, number: int, name: str, wanted: str) -> Shard | None:
    """The shard that an earlier job left in the stage, if it is the one wanted."""
    try:
        note = json.loads((plan.workspace.shard_notes / f"{name}.json").read())
    except (FileNotFoundError, ValueError):
        return None
    if note["wanted"] != wanted:
        return None
    entry = ShardEntry.model_validate(note["entry"])
    if not all((plan.workspace.stage / path).exists() for path in signature_files(plan, name)):
        return None
    # Both files were flushed to the disk before the note was written, so a size that is right is enough.
    for file in (entry, entry.index):
        if (plan.assembled / file.path).size() != file.bytes:
            return None
    if plan.spec.statistics and not plan.materializes and not is_kept(plan, entry):
        return None
    return Shard(split, number, entry, [tuple(duplicate) for duplicate in note["duplicates"]], note["linked"])


def _ranges(plan: JobPlan, settled: Settled, split: int, references: list[Reference]) -> Iterator[Range]:
    for r in references:
        placement = plan.workspace.placements / r.run if settled.placed else None
        run = open_finished(plan, r.run)
        yield Range(run, r.ordinal, r.start, r.stop, r.offset, r.committed, placement, split)


def _make_shard(plan: JobPlan, split: int, number: int, name: str, ranges: Iterable[Range]) -> Shard:
    merge = plan_merge(ranges)
    old = None if plan.previous is None else OldShards(plan, split)
    if old is not None and number < len(old.entries) and bool(merge.kept[merge.order].all()):
        entry = old.entries[number]
        # The name says how many shards there are. All records are taken over, and there are as many: these are all,
        # unless records can have moved from another split.
        moved = any(part.placement is not None for part in merge.ranges) or old.moved
        if (
            entry.path == name
            and len(merge.chosen) == entry.records
            and not (moved and (old.hashes(number) != merge.index["hash"][merge.chosen]).any())
        ):
            for file in (entry, entry.index):
                (old.directory / file.path).copy_to(plan.workspace.stage / file.path)
            take_signatures_along(plan, old.directory, name)
            if plan.spec.statistics and not take_along(plan, entry):
                _keep_statistics(plan, entry, merge, scan_again(plan, entry, old.directory))
            return Shard(split, number, entry, [], linked=True)
    entry = _write_shard(plan, name, merge, old)
    return Shard(split, number, entry, _describe_duplicates(plan, merge), linked=False)


def _write_shard(plan: JobPlan, name: str, merge: Merge, old: OldShards | None) -> ShardEntry:
    stage = plan.assembled
    digest, size = hashlib.sha256(), 0
    chosen = merge.index[merge.chosen]
    looked_at = plan.spec.statistics and not plan.materializes  # of transformed records they are those
    statistics = empty_statistics(plan) if looked_at else None
    with (stage / name).writing(durable=True) as file:
        for piece in merged_pieces(merge, locate(merge, old)):
            for part in piece.parts:
                digest.update(part.data)
                size += len(part)
            file.writev(piece.parts)
            if statistics is not None:
                statistics.add(piece.data, piece.starts, piece.lengths, name)
        # While the disk takes the shard in. The index is flushed first, and then little is left to be waited for.
        file.begin_flush()
        hashes = np.ascontiguousarray(chosen["hash"]).view(np.uint8).reshape(-1, KEY_HASH_BYTES)
        columns = to_columns(merged_indexed(merge, plan.index_row)) if plan.index_row.names else {}
        index_bytes = encode_index(chosen["length"].astype(np.uint64), hashes, columns)
        sign_shard(plan, name, hashes, merge)
        index_entry = FileEntry(
            path=index_name(name), bytes=len(index_bytes), sha256=hashlib.sha256(index_bytes).hexdigest()
        )
        entry = ShardEntry(
            path=name, bytes=size, sha256=digest.hexdigest(), records=len(chosen), index=index_entry
        )
        if statistics is not None:
            _keep_statistics(plan, entry, merge, statistics)
        (stage / index_name(name)).write(index_bytes, durable=True)
    return entry


def _keep_statistics(plan: JobPlan, entry: ShardEntry, merge: Merge, statistics: ShardStatistics) -> None:
    if any(has_default(feature) for feature in plan.features.values()):
        statistics.note_defaults(
            defaulted(merged_facts(merge, row_of(default_facts(plan.spec, plan.features))))
        )
    if pictures := picture_facts(plan.spec, plan.features):
        for rows in merged_fact_parts(merge, row_of(pictures)):
            statistics.add_pictures(pictures_of(rows))
    keep(plan, entry, statistics)


def _describe_duplicates(plan: JobPlan, merge: Merge) -> list[tuple[str, str, str, str]]:
    """Key hash, source, origin, and origin of the record that stays, for every record that repeats a key."""
    if not merge.repeated.any():
        return []
    partitions = [partition_of(part.run) for part in merge.ranges]
    sources = {name: plan.source(name) for name in plan.spec.main_names}

    def origin(place: int) -> str:
        partition = partitions[int(merge.owners[place])]
        return sources[partition.source].origin(partition, int(merge.index["row"][place]))

    found, first = [], 0
    for place, again in zip(merge.order.tolist(), merge.repeated.tolist(), strict=True):
        if again:
            source, of_first = (partitions[int(merge.owners[each])].source for each in (place, first))
            stays = origin(first) if source == of_first else f"{of_first}, {origin(first)}"
            found.append((merge.index["hash"][place].tobytes().hex(), source, origin(place), stays))
        else:
            first = place
    return found
