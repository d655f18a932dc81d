"""Flat columns as people mean them: names for numbers of classes, the bytes of a file under its own name."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sources._batches import without
from beam_jobs.sources.base import Fault
from schemas.errors import shorten


def file_columns(schema: pa.Schema) -> list[str]:
    """Columns `x` of a flat schema that has `x.bytes` and `x.path`: images, audio, any file."""
    stems = [name.removesuffix(".bytes") for name in schema.names if name.endswith(".bytes")]
    return [
        stem
        for stem in stems
        if stem not in schema.names
        and pa.types.is_large_binary(schema.field(f"{stem}.bytes").type)
        and f"{stem}.path" in schema.names
        and pa.types.is_string(schema.field(f"{stem}.path").type)
    ]


def renamed(names: list[str], files: list[str]) -> list[str]:
    """The names of columns where the bytes of a file have the name of the file."""
    return [name.removesuffix(".bytes") if name.removesuffix(".bytes") in files else name for name in names]


def understand(
    records: pa.RecordBatch, labels: dict[str, list[str]], rows: npt.NDArray[np.int64]
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64], list[Fault]]:
    """Flat records with names for numbers of classes, and bytes under the name of their file.

    A number that names no class (-1 is none), and a file that is not in the data set, are faults.
    """
    faults: dict[int, Fault] = {}
    files = file_columns(records.schema)
    for stem in files:
        absent = pc.and_(
            pc.is_null(records.column(f"{stem}.bytes")), pc.is_valid(records.column(f"{stem}.path"))
        )
        for place in _places(absent):
            path = shorten(repr(records.column(f"{stem}.path")[place].as_py()), 100)
            reason = f"{stem}: the data set holds the path {path} only, not the file's bytes"
            faults.setdefault(place, Fault(int(rows[place]), "not_embedded", reason))
    columns = dict(zip(records.schema.names, records.columns, strict=True))
    for name, names in labels.items():
        if name in columns and pa.types.is_integer(columns[name].type):
            numbers = columns[name].cast(pa.int64())
            known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(names)))
            for place in _places(pc.invert(pc.or_(known, pc.equal(numbers, -1)))):
                reason = f"{name}: {numbers[place].as_py()} is none of {len(names)} classes"
                faults.setdefault(place, Fault(int(rows[place]), "unknown_class", reason))
            columns[name] = pa.array(names, pa.string()).take(pc.if_else(known, numbers, None))
    made = pa.RecordBatch.from_arrays(list(columns.values()), names=renamed(list(columns), files))
    return (*without(made, rows, faults), [faults[place] for place in sorted(faults)])


def _places(mask: pa.Array) -> list[int]:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()
