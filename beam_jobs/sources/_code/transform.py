"""Rows of a PTransform, which a pipeline of its own has left in the work directory, sorted by key."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.sources._code.python_rows import typed_schema
from beam_jobs.sources._keys import check_key, keys_of
from beam_jobs.sources.base import Fault, Partition, SourceBatch
from beam_jobs.store_path import StorePath
from schemas.errors import HeadraceError
from schemas.sources import BeamSource, BigQuerySource

# Columns beside the user's own: which rule refuses the row, '' where none does, and why.
RULE, REASON = "headrace:rule", "headrace:reason"


class TransformRows(ABC):
    """The rows in as many partitions as the job says, by a hash of the key; in each, in the order of the keys.

    So what order and bundles they came in makes no difference. A partition's identity is what the transform is,
    `version`, `path`, the columns, and which of how many it is.
    """

    def __init__(
        self, name: str, spec: BeamSource | BigQuerySource, root: str, place: StorePath | None = None
    ) -> None:
        self.name = name
        self.spec = spec
        self.root = root
        self.where = f"sources.{name}"
        self.schema = typed_schema(spec.columns)
        self._place = place

    def at(self, place: StorePath) -> TransformRows:
        """The same source, its rows in the directory `place`."""
        return type(self)(self.name, self.spec, self.root, place)

    def columns(self) -> list[str]:
        """Names of the columns that `read` yields: the spec's."""
        return list(self.spec.columns)

    def partitions(self) -> list[Partition]:
        """One for each part of the keys; what they hold is not known before the transform has run."""
        check_key(self.spec.key, self.schema, f"{self.where}.key")
        count = self.spec.partitions
        told = [
            self.fingerprint(),
            self.spec.version,
            self.root,
            [list(item) for item in self.spec.columns.items()],
            self.spec.key,
        ]
        rows = hashlib.blake2b(json.dumps([self.name, told, count]).encode(), digest_size=16).hexdigest()
        return [
            Partition(self.name, number, [*told, count, number], {"rows": rows, "number": number}, 1)
            for number in range(count)
        ]

    @abstractmethod
    def transform(self) -> Any:
        """The PTransform that gives the rows, as dicts.

        Raises:
          HeadraceError: it cannot be made.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of all that the transform is, but for the fields that every such source has."""

    def directory(self, partition: Partition) -> StorePath:
        """Where the rows of all partitions lie."""
        assert self._place is not None, "a plan gives the source its place"
        return self._place / partition.payload["rows"]

    def read(self, partition: Partition) -> Iterator[SourceBatch]:
        """The rows of one partition, in batches of about 8 MiB."""
        number = partition.payload["number"]
        directory = self.directory(partition)
        counts = read_counts(directory)
        if counts is None:
            raise HeadraceError(
                "The rows of a source are gone from the work directory.",
                where=f"{self.where}, {directory}",
                hint="Run the same command again: they are made anew.",
            )
        if not counts[number]:
            return
        row = 0
        # A stream, so that no more than a batch is held.
        for batch in _batches(directory / rows_name(number)):
            rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
            row += batch.num_rows
            rules, reasons = batch.column(RULE).to_pylist(), batch.column(REASON).to_pylist()
            faults = [
                Fault(int(at), rule, reason)
                for at, rule, reason in zip(rows, rules, reasons, strict=True)
                if rule
            ]
            good = np.array([not rule for rule in rules])
            records = batch.select(self.schema.names)
            if faults:
                records, rows = records.filter(pa.array(good)), rows[good]
            yield SourceBatch(records, keys_of(records, self.spec.key, "", rows), rows, faults)
        if row != counts[number]:
            raise HeadraceError("Rows in the work directory are damaged.", where=f"{self.where}, {directory}")

    def origin(self, partition: Partition, row: int) -> str:
        """The partition, and the number of the row in the order of keys, from 0."""
        return f"partition {partition.payload['number']} of {self.spec.partitions}, row {row}"


def read_counts(directory: StorePath) -> list[int] | None:
    """How many rows each partition holds; None where they are not all there."""
    try:
        counts: list[int] = json.loads((directory / "counts.json").read())
    except FileNotFoundError:
        return None
    return counts


def rows_name(number: int) -> str:
    """The file of a partition's rows."""
    return f"{number:05d}.arrow"


def _batches(path: StorePath) -> Iterator[pa.RecordBatch]:
    size = path.size()
    if size is None:
        raise FileNotFoundError(str(path))
    with pa.ipc.open_stream(pa.BufferReader(path.read_range(0, size))) as reader:
        yield from reader
