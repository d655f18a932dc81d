"""The keys of records: made of columns, or of a record's place where no column names it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import HeadraceError, shorten

Key = str | list[str] | None


def key_columns(key: Key) -> list[str]:
    """The columns that name a record; none where its place does."""
    return [key] if isinstance(key, str) else list(key or [])


def check_key(key: Key, schema: pa.Schema, where: str) -> None:
    """See that the key's columns are there and can be written as text.

    Raises:
      HeadraceError: one is missing, or holds lists.
    """
    for name in key_columns(key):
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, 1, 0.6)
            raise HeadraceError(
                "`key` names a column that does not exist.",
                where=where,
                value=name,
                allowed=shorten(", ".join(schema.names)),
                hint=f"Did you mean {near[0]!r}?" if near else None,
            )
        if pa.types.is_nested(schema.field(name).type):
            raise HeadraceError("`key` names a column of lists.", where=where, value=name)


def keys_of(records: pa.RecordBatch, key: Key, prefix: str, rows: npt.NDArray[np.int64]) -> pa.Array:
    """The key of each record, binary: its key columns as text, or `prefix:row`."""
    names = key_columns(key)
    return join_keys([_text(records.column(name)) for name in names]) if names else numbered(prefix, rows)


def join_keys(parts: Sequence[pa.Array]) -> pa.Array:
    """Keys of one column as they are; several are joined by `|`, with `|` and `\\` within them escaped by `\\`."""
    texts = [part.cast(pa.binary()) for part in parts]
    if len(texts) == 1:
        return texts[0]
    for special in (b"\\", b"|"):
        texts = [pc.replace_substring(text, special, b"\\" + special) for text in texts]
    return pc.binary_join_element_wise(*texts, b"|")


def numbered(prefix: str, rows: npt.NDArray[np.int64]) -> pa.Array:
    """`prefix:row` for every row; bytes of a file's name that are no UTF-8 are surrogate escapes in `prefix`."""
    start = pa.scalar(prefix.encode("utf-8", "surrogateescape") + b":", pa.binary())
    return pc.binary_join_element_wise(start, pc.cast(pa.array(rows), pa.string()).cast(pa.binary()), b"")


def _text(column: pa.Array) -> pa.Array:
    """Bytes are a key as they are, anything else by its text."""
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return column if is_bytes else column.cast(pa.string())
