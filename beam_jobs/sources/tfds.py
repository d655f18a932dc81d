"""A data set prepared by TensorFlow Datasets, or written by Headrace itself, read without either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sources._batches import BATCH_BYTES, without, without_bad_text
from beam_jobs.sources._keys import check_key, keys_of
from beam_jobs.sources._places.listing import File, local_root, shown
from beam_jobs.sources._places.stored import StoredFile, wanted_splits
from beam_jobs.sources._sets.example import (
    BYTES_LIST,
    FLOAT_LIST,
    INT64_LIST,
    Examples,
    find_features,
    values_of,
)
from beam_jobs.sources._sets.meaning import understand
from beam_jobs.sources._sets.tf_records import DamagedFileError, Record, read_records, walk_records
from beam_jobs.sources._sets.tfds_info import Leaf, Shard, find_folder, find_leaves, find_names, find_shards
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from schemas.errors import HeadraceError
from schemas.sources import TfdsSource

_MAX_ROWS = 16_384
_LISTS = {BYTES_LIST: "bytes_list", FLOAT_LIST: "float_list", INT64_LIST: "int64_list"}
_TAGS = {name: tag for tag, name in _LISTS.items()}


class Tfds:
    """The examples of one split or of several, images as they are stored.

    Rows count from 0 in each split, in the order in which TFDS reads without shuffling; a record's key is the text of
    its key columns, or `split:row`. A feature in a feature is a column `name.feature`; a class is its name.
    """

    def __init__(self, name: str, spec: TfdsSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root.rstrip("/")
        self._where = f"sources.{name}"

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields."""
        folder, _ = find_folder(self.root, self.spec.name, self._where)
        return [leaf.column for leaf in find_leaves(folder, self._where)]

    def partitions(self) -> list[Partition]:
        """Shards, cut behind each `partition_bytes` where they are local. Their identity is the file's."""
        folder, files = find_folder(self.root, self.spec.name, self._where)
        leaves = find_leaves(folder, self._where)
        check_key(self.spec.key, _schema(leaves), f"{self._where}.key")
        digest = _digest(leaves, find_names(folder, leaves, self._where))
        partitions: list[Partition] = []
        found = find_shards(folder, files, self._where)
        for split in wanted_splits(self.spec.split, found, self._where):
            row = 0
            for shard in found[split]:
                first = row
                for start, end, records in self._cut(folder, shard):
                    payload = {
                        "folder": folder.removeprefix(self.root), "split": split, "file": list(shard.file),
                        "first": first, "row": row, "start": start, "end": end, "features": digest,
                    }  # fmt: skip
                    identity = [split, row, list(shard.file), start, end, digest]
                    partitions.append(
                        Partition(self.name, len(partitions), identity, payload, end - start, records)
                    )
                    row += records
        if not partitions:
            raise HeadraceError("The source holds no row.", where=self._where, value=folder)
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The examples of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        file = File(*payload["file"])
        folder = self.root + payload["folder"]
        stored = StoredFile(folder, file.path, self._where)
        stored.check(file)
        leaves = find_leaves(folder, self._where)
        names = find_names(folder, leaves, self._where)
        if _digest(leaves, names) != payload["features"]:
            raise stored.changed()
        row, pending, size = payload["row"], [], 0
        with stored.open() as opened:
            try:
                for record in read_records(opened, payload["start"], payload["end"]):
                    pending.append(record)
                    size += len(record.data or b"")
                    if size > BATCH_BYTES // 2 or len(pending) == _MAX_ROWS:
                        yield self._batch(pending, row, leaves, names, payload["split"])
                        row, pending, size = row + len(pending), [], 0
            except (DamagedFileError, OSError) as error:
                raise stored.unreadable(error) from None
        if pending:
            yield self._batch(pending, row, leaves, names, payload["split"])
        row += len(pending)
        if row - payload["row"] != partition.records:
            raise _other_number(stored.where, row - payload["row"], partition.records)
        stored.check(file)

    def origin(self, partition: Partition, row: int) -> str:
        """The file, the record in it and in the split, from 0."""
        payload = partition.payload
        place = f"record {row - payload['first']} ({shown(payload['split'])}[{row}])"
        return f"{shown(payload['file'][0])}, {place}"

    def _cut(self, folder: str, shard: Shard) -> Iterator[tuple[int, int, int]]:
        """The first byte, the last, and the number of records of each partition of a shard."""
        size = shard.file.size
        # The lengths of a remote file's records are as far apart as the records are long: it is read as a whole.
        if size <= self.spec.partition_bytes or local_root(self.root) is None:
            if shard.records:
                yield 0, size, shard.records
            return
        stored = StoredFile(folder, shard.file.path, self._where)
        stored.check(shard.file)
        with stored.open() as opened:
            try:
                starts = np.array(walk_records(opened, size), dtype=np.int64)
            except (DamagedFileError, OSError) as error:
                raise stored.unreadable(error) from None
        if len(starts) - 1 != shard.records:
            raise _other_number(stored.where, len(starts) - 1, shard.records)
        first = 0
        while first < shard.records:
            after = int(np.searchsorted(starts, starts[first] + self.spec.partition_bytes))
            after = min(max(after, first + 1), shard.records)
            yield int(starts[first]), int(starts[after]), after - first
            first = after

    def _batch(
        self, records: list[Record], row: int, leaves: list[Leaf], names: dict[str, list[str]], split: str
    ) -> SourceBatch:
        faults = [
            Fault(number, *record.problem) for number, record in enumerate(records, row) if record.problem
        ]
        good = [(number, record) for number, record in enumerate(records, row) if record.data is not None]
        ends = np.cumsum([len(record.data or b"") for _, record in good], dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if good else ends
        keys = frozenset(leaf.key.encode() for leaf in leaves)
        data = memoryview(b"".join(record.data or b"" for _, record in good))
        examples = find_features(data, starts, ends, keys)
        wrong = {
            place: ("bad_example", f"the record at byte {good[place][1].start}: {reason}")
            for place, reason in examples.bad.items()
        }
        columns = []
        for leaf in leaves:
            column, problems = _column(leaf, examples)
            columns.append(column)
            for place, problem in problems.items():
                wrong.setdefault(place, problem)
        faults += [Fault(good[place][0], *problem) for place, problem in wrong.items()]
        batch = pa.RecordBatch.from_arrays(columns, schema=_schema(leaves))
        batch, rows = without(batch, np.array([number for number, _ in good], dtype=np.int64), wrong)
        batch, rows, bad = without_bad_text(batch, rows)
        batch, rows, unknown = understand(batch, names, rows)
        faults = sorted([*faults, *bad, *unknown], key=lambda fault: fault.row)
        return SourceBatch(batch, keys_of(batch, self.spec.key, split, rows), rows, faults)


def _schema(leaves: list[Leaf]) -> pa.Schema:
    return pa.schema([(leaf.column, leaf.arrow) for leaf in leaves])


def _column(leaf: Leaf, examples: Examples) -> tuple[pa.Array, dict[int, tuple[str, str]]]:
    """A feature of all records, null where one has none, and what is wrong with each that cannot have it.

    Texts are looked at afterwards.
    """
    found = examples.feature(leaf.key)
    values, counts, damaged = values_of(examples, found, _TAGS[leaf.kind])
    wrong = {place: ("bad_example", f"{leaf.key}: {reason}") for place, reason in damaged.items()}
    for place in np.flatnonzero((found.kinds != 0) & (found.kinds != _TAGS[leaf.kind])).tolist():
        reason = f"{leaf.key} holds {_LISTS[int(found.kinds[place])]}, not {leaf.kind}"
        wrong.setdefault(place, ("wrong_value", reason))
    if leaf.type == pa.string():
        values = values.cast(pa.binary()).view(pa.string())
    elif leaf.type == pa.bool_():
        values = pc.not_equal(values, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if leaf.listed:
        missing = pa.array(found.kinds == 0)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=missing), wrong
    for place in np.flatnonzero(counts > 1).tolist():
        wrong.setdefault(place, ("wrong_value", f"{leaf.key} holds {counts[place]} values, not one"))
    if bool((counts == 1).all()):
        return values, wrong
    first = np.minimum(offsets[:-1], max(len(values) - 1, 0))
    return values.take(pa.array(first, mask=counts == 0)), wrong


def _digest(leaves: list[Leaf], names: dict[str, list[str]]) -> str:
    told = [[leaf.key, str(leaf.arrow)] for leaf in leaves]
    return hashlib.blake2b(json.dumps([told, names]).encode(), digest_size=16).hexdigest()


def _other_number(where: str, found: int, told: int | None) -> HeadraceError:
    return HeadraceError(
        "A shard holds another number of records than dataset_info.json says.",
        where=where,
        value=str(found),
        allowed=str(told),
        hint="Prepare the data set again.",
    )
