"""What became of every row of a partition, and on what that depended: kept in its run for a later version's job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beam_jobs.lookup import DIGEST_BYTES, Table

UNUSABLE, WRITTEN = -1, 0  # and from 1 on the rules, in the order of their names, that dropped it
_NO_DIGEST = b"\0" * DIGEST_BYTES  # of a row that is not in the table

Rows = npt.NDArray[np.int64]


@dataclass
class Outcomes:
    """Of a partition's n rows.

    Attributes:
      codes: int32 (n,): UNUSABLE for dead letters, WRITTEN, or which rule dropped it.
      rules: those that dropped rows, in order.
      repaired: the rows that each rule repaired, bool (n,), by rule.
      keys: what each row looked for in a table, by table; None where it looked for nothing.
      digests: of the row of the table that it found, by table.
    """

    codes: npt.NDArray[np.int32]
    rules: list[str]
    repaired: dict[str, npt.NDArray[np.bool_]]
    keys: dict[str, list[str | None]]
    digests: dict[str, list[bytes]]

    @staticmethod
    def of(count: int, tables: Sequence[str]) -> Outcomes:
        """Of so many rows, of which nothing is known yet."""
        return Outcomes(
            np.full(count, UNUSABLE, np.int32),
            [],
            {},
            {table: [None] * count for table in tables},
            {table: [_NO_DIGEST] * count for table in tables},
        )

    def looked(self, table: str, rows: Rows, keys: Sequence[str | None], digests: Sequence[bytes]) -> None:
        """Notes what rows looked for in a table, and what they found."""
        for row, key, digest in zip(rows.tolist(), keys, digests, strict=True):
            self.keys[table][row] = key
            self.digests[table][row] = digest

    def settle(self, written: Rows, dropped: dict[str, Rows], repaired: dict[str, Rows]) -> None:
        """Notes what became of all rows."""
        self.codes[written] = WRITTEN
        self.rules = sorted(dropped)
        for code, rule in enumerate(self.rules, 1):
            self.codes[dropped[rule]] = code
        for rule, rows in repaired.items():
            self.repaired[rule] = np.zeros(len(self.codes), np.bool_)
            self.repaired[rule][rows] = True

    def encode(self) -> bytes:
        """As an Arrow stream."""
        columns: dict[str, pa.Array] = {"code": pa.array(self.codes)}
        for rule, rows in self.repaired.items():
            columns[f"repaired:{rule}"] = pa.array(rows)
        for table in self.keys:
            columns[f"key:{table}"] = pa.array(self.keys[table], pa.string())
            columns[f"digest:{table}"] = pa.array(self.digests[table], pa.binary(DIGEST_BYTES))
        batch = pa.record_batch(columns)
        batch = batch.replace_schema_metadata({"rules": json.dumps(self.rules)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    @staticmethod
    def decode(data: bytes) -> Outcomes:
        """What `encode` gave."""
        with pa.ipc.open_stream(data) as reader:
            batch = reader.read_next_batch()
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        names = [name.removeprefix("key:") for name in columns if name.startswith("key:")]
        return Outcomes(
            columns["code"].to_numpy().copy(),
            json.loads(batch.schema.metadata[b"rules"]),
            {
                name.removeprefix("repaired:"): rows.to_numpy(zero_copy_only=False)
                for name, rows in columns.items()
                if name.startswith("repaired:")
            },
            {name: columns[f"key:{name}"].to_pylist() for name in names},
            {name: _parts(columns[f"digest:{name}"]) for name in names},
        )


def _parts(column: pa.FixedSizeBinaryArray) -> list[bytes]:
    """The values of a column without nulls; a quarter of the time that `to_pylist` takes."""
    buffer, width = column.buffers()[1], column.type.byte_width
    data = b"" if buffer is None else buffer.to_pybytes()
    first, last = column.offset * width, (column.offset + len(column)) * width
    return [data[start : start + width] for start in range(first, last, width)]


def digests_at(table: Table, firsts: Rows) -> list[bytes]:
    """The digest of what a record takes from the table's rows that begin at each place; zeros for -1."""
    return [digest.tobytes() for digest in table.digests(firsts)]
