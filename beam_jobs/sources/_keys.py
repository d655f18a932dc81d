"""Keys of records: a file and a number, or columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def row_keys(file: str, rows: npt.NDArray[np.int64]) -> pa.Array:
    """`file:row` of each row, binary (n,)."""
    prefix = pa.scalar(file.encode("utf-8", "surrogateescape") + b":", pa.binary())
    numbers = pc.cast(pa.array(rows), pa.string()).cast(pa.binary())
    return pc.binary_join_element_wise(prefix, numbers, b"")


def joined_keys(columns: Sequence[pa.Array]) -> pa.Array:
    """The texts of string columns, binary (n,): several are joined by `|`, which within them is escaped by `\\`."""
    if len(columns) == 1:
        return columns[0].cast(pa.binary())
    parts = list(columns)
    for text in ("\\", "|"):
        parts = [pc.replace_substring(part, text, "\\" + text) for part in parts]
    return pc.binary_join_element_wise(*parts, "|").cast(pa.binary())
