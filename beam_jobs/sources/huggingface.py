"""A data set of Hugging Face's `datasets` in a folder, read without that package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from beam_jobs.sources._batches import flat_schema, flatten, without_bad_text
from beam_jobs.sources._columnar.sizes import small_batches
from beam_jobs.sources._keys import check_key, keys_of
from beam_jobs.sources._places.listing import File, shown
from beam_jobs.sources._places.stored import StoredFile, wanted_splits
from beam_jobs.sources._sets.hf_features import class_names, described_features
from beam_jobs.sources._sets.hf_layout import DATASET_INFO, find_splits
from beam_jobs.sources._sets.ipc import Unit
from beam_jobs.sources._sets.meaning import understand
from beam_jobs.sources._sets.units import batches_of, schema_of, units_of
from beam_jobs.sources.base import Partition, SourceBatch
from schemas.errors import HeadraceError, shorten
from schemas.sources import HuggingFaceSource


class HuggingFace:
    """Records of one split or of several: what `Dataset.save_to_disk` wrote, or files of Parquet.

    Rows count from 0 in each split, as in `dataset[17]`; a record's key is the text of its key columns, or `split:row`.
    Structs are columns `name.field`; an image or another file is its bytes, with its path in `name.path`; a class is
    its name. A path without bytes is never followed.
    """

    def __init__(self, name: str, spec: HuggingFaceSource, root: str) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self._where = f"sources.{name}"

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields: those of the first file."""
        first = next(iter(self._splits().values()))[0]
        return list(self._known_schema(schema_of(self._stored(first), first), first).names)

    def partitions(self) -> list[Partition]:
        """Record batches or row groups of a file, up to `partition_bytes` of them. Their identity is the file's."""
        partitions: list[Partition] = []
        earlier: tuple[str, pa.Schema] | None = None
        for split, files in self._splits().items():
            row = 0
            for file in files:
                stored = self._stored(file)
                schema, found = units_of(stored, file)
                known = self._known_schema(schema, file)
                if earlier is None:
                    earlier = (file.path, known)
                    check_key(self.spec.key, known, f"{self._where}.key")
                elif not known.equals(earlier[1]):
                    raise _other_columns(stored.where, known, *earlier)
                stored.check(file)
                digest, start = _digest(self._labels(schema, file)), row
                for units in self._grouped(found):
                    rows = sum(unit.rows for unit in units)
                    payload = {
                        "split": split, "row": row, "file": list(file), "start": start,
                        "units": [list(unit) for unit in units], "labels": digest,
                    }  # fmt: skip
                    identity = [split, row, list(file), units[0].place, len(units), digest]
                    size = sum(unit.size for unit in units)
                    partitions.append(Partition(self.name, len(partitions), identity, payload, size, rows))
                    row += rows
        if not partitions:
            raise HeadraceError("The source holds no row.", where=self._where, value=self.root)
        return partitions

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The records of one partition, in batches of about 8 MiB."""
        payload = partition.payload
        file = File(*payload["file"])
        stored = self._stored(file)
        stored.check(file)
        schema = schema_of(stored, file)
        labels = self._labels(schema, file)
        if _digest(labels) != payload["labels"]:
            raise stored.changed()
        row = payload["row"]
        for batch in batches_of(stored, file, schema, [Unit(*unit) for unit in payload["units"]]):
            for piece in small_batches(batch):
                rows = np.arange(row, row + piece.num_rows, dtype=np.int64)
                row += piece.num_rows
                records, rows, bad = without_bad_text(flatten(piece, stored.where), rows)
                records, rows, faults = understand(records, labels, rows)
                keys = keys_of(records, self.spec.key, payload["split"], rows)
                yield SourceBatch(records, keys, rows, sorted(bad + faults, key=lambda fault: fault.row))
        stored.check(file)

    def origin(self, partition: Partition, row: int) -> str:
        """The file, the row in it and in the split, from 0."""
        payload = partition.payload
        split = payload["split"]
        return f"{shown(payload['file'][0])}, row {row - payload['start']} ({shown(split)}[{row}])"

    def _splits(self) -> dict[str, list[File]]:
        """The files of the splits that are wanted, in the job's order or that of the folder."""
        found = {name: files for name, files in find_splits(self.root, self._where).items() if files}
        wanted = wanted_splits(self.spec.split, found, self._where)
        if not found:
            raise HeadraceError("The source holds no row.", where=self._where, value=self.root)
        return {name: found[name] for name in wanted}

    def _grouped(self, units: list[Unit]) -> Iterator[list[Unit]]:
        group: list[Unit] = []
        for unit in units:
            if group and sum(each.size for each in group) + unit.size > self.spec.partition_bytes:
                yield group
                group = []
            group.append(unit)
        if any(unit.rows for unit in group):
            yield group

    def _known_schema(self, schema: pa.Schema, file: File) -> pa.Schema:
        """The schema of what `read` yields of a file."""
        stored = self._stored(file)
        try:
            empty = pa.RecordBatch.from_pylist([], flat_schema(schema, stored.where))
        except ValueError as error:  # names that are no UTF-8
            raise stored.unreadable(error) from None
        return understand(empty, self._labels(schema, file), np.zeros(0, np.int64))[0].schema

    def _labels(self, schema: pa.Schema, file: File) -> dict[str, list[str]]:
        """The names of classes, of which the file itself speaks, or else the `dataset_info.json` beside it."""
        features = described_features(schema, self._stored(file).where)
        if features is None:
            folder, slash, _ = file.path.rpartition("/")
            info = StoredFile(self.root, f"{folder}{slash}{DATASET_INFO}", self._where)
            described = info.json() if info.exists() else None
            features = described.get("features") if isinstance(described, dict) else None
        return class_names(features)

    def _stored(self, file: File) -> StoredFile:
        return StoredFile(self.root, file.path, self._where)


def _digest(labels: dict[str, list[str]]) -> str:
    return hashlib.blake2b(json.dumps(labels).encode(), digest_size=16).hexdigest()


def _other_columns(where: str, found: pa.Schema, first: str, expected: pa.Schema) -> HeadraceError:
    differ = [
        f"{field.name}: {field.type}"
        for field in found
        if field.name not in expected.names or expected.field(field.name).type != field.type
    ] or [f"no {name}" for name in expected.names if name not in found.names]
    return HeadraceError(
        "Files of one source have different columns.",
        where=where,
        value=shorten(", ".join(differ)),
        allowed=shorten(", ".join(f"{field.name}: {field.type}" for field in expected)),
        hint=f"The others are as in {shown(first)}: make two sources of them.",
    )
