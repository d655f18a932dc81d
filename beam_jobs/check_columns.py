"""What an index says of the records' features: against the manifest, and a sample of it against the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_jobs.examples import DamagedRecordError, Values, parse_example, read_record
from schemas import Manifest, ShardIndex
from schemas.columns import ColumnKind, column_kinds, feature_of
from schemas.index import COLUMN_TYPES
from schemas.manifest import ShardEntry
from schemas.packing import unpack

SAMPLED = 32  # records of a shard; parsing all of a table's would take a hundred times as long as the rest


def type_problem(index: ShardIndex, manifest: Manifest) -> tuple[str, str] | None:
    """The columns that the manifest asks for and those found, where they differ."""
    kinds = column_kinds(manifest.features, manifest.indexed)
    expected = {name: COLUMN_TYPES[kind] for name, kind in kinds.items()}
    found = {name: column.type for name, column in index.columns.items()}
    return None if found == expected else (_listed(expected), _listed(found))


def value_problems(
    root: Path, shard: ShardEntry, index: ShardIndex, manifest: Manifest
) -> Iterator[tuple[int, str, str, str]]:
    """Where the index and a record differ, of a sample: record, feature, what the record holds, what the index."""
    kinds = column_kinds(manifest.features, manifest.indexed)
    if not kinds:
        return
    for record in (
        np.unique(np.linspace(0, len(index) - 1, SAMPLED).astype(int)).tolist() if len(index) else []
    ):
        try:
            values = unpack(parse_example(read_record(root / shard.path, index, record)), manifest.packed)
        except DamagedRecordError:
            continue  # the frames' CRCs have told of it, or it is too large
        for column, kind in kinds.items():
            feature, said = feature_of(column), index.columns[column][record].as_py()
            held = _held(values.get(feature, []), kind)
            if repr(held) != repr(said):  # so that NaN equals itself
                yield record, feature, repr(held), repr(said)


def _held(values: Values, kind: ColumnKind) -> object:
    if kind == "length":
        return len(values)
    if len(values) != 1:
        return f"{len(values)} values"
    value = values[0]
    if kind == "bool":
        return bool(value)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _listed(columns: Mapping[str, pa.DataType]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in columns.items()) or "none"
