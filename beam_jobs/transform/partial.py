"""What one shard, or a prefix of all, comes to in one phase of an analysis: accumulators, as bytes and back.

Accumulators go through bytes even where none are kept, so that a kept one changes nothing. No pickle: tf-transform's
own coders use it for quantiles, and lose types of numbers elsewhere.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tfx_bsl import sketches

from schemas import HeadraceError

Words: TypeAlias = (
    "pa.Table"  # token: large_binary or int64, count: int64 or float64; each token once, sorted
)
_DIGEST = 16
BY_FREQUENCY, BY_WEIGHT = 1, 2  # tf-transform's numbers for the orders of vocabularies
_SCHEMA = pa.schema([("name", pa.large_string()), ("data", pa.large_binary())])


def seal(parts: dict[str, bytes]) -> bytes:
    """Named parts as one file, with a hash of all of it."""
    columns = [pa.array(list(parts), pa.large_string()), pa.array(list(parts.values()), pa.large_binary())]
    body = to_ipc(pa.table(columns, _SCHEMA))
    return hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def unseal(data: bytes) -> dict[str, bytes] | None:
    """The parts of a file that `seal` made; None where it is damaged."""
    body = data[_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != data[:_DIGEST]:
        return None
    table = from_ipc(body)
    return dict(zip(table["name"].to_pylist(), table["data"].to_pylist(), strict=True))


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """The table in an Arrow stream."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def encode(accumulator: Any, label: str) -> bytes:
    """A combiner's accumulator as bytes: numbers keep every bit and their types.

    Raises:
      HeadraceError: it is neither a sketch of quantiles nor made of arrays of numbers.
    """
    if isinstance(accumulator, sketches.QuantilesSketch):
        state: bytes = accumulator.__getstate__()
        return b"Q" + state
    try:
        many = isinstance(accumulator, (list, tuple))
        out = io.BytesIO()
        for part in accumulator if many else [accumulator]:
            np.lib.format.write_array(out, np.asarray(part), allow_pickle=False)
    except ValueError as error:
        raise HeadraceError(
            "The preprocessing_fn uses an analyser of its own whose state cannot be kept.",
            where="transform",
            value=label,
            allowed="an accumulator made of arrays of numbers",
        ) from error
    return (b"L" if many else b"S") + out.getvalue()


def decode(data: bytes, combiner: Any) -> Any:
    """The accumulator of `combiner` that `encode` made these bytes of."""
    if data[:1] == b"Q":
        sketch = sketches.QuantilesSketch.__new__(sketches.QuantilesSketch)
        sketch.__setstate__(data[1:])
        return sketch
    parts, source = [], io.BytesIO(data[1:])
    while source.tell() < len(data) - 1:
        parts.append(np.lib.format.read_array(source, allow_pickle=False))
    if data[:1] == b"S":
        return parts[0]
    # A named tuple has fields that its combiner asks for.
    kind = type(combiner.create_accumulator())
    return kind(*parts) if hasattr(kind, "_fields") else parts


def encode_by_key(accumulators: dict[Any, Any], label: str) -> bytes:
    """Accumulators by key, sorted by it."""
    keys = sorted(accumulators)
    values = [encode(accumulators[key], label) for key in keys]
    return to_ipc(pa.table({"key": _keys(keys), "value": pa.array(values, pa.large_binary())}))


def decode_by_key(data: bytes, combiner: Any) -> dict[Any, Any]:
    """What `encode_by_key` made these bytes of."""
    table = from_ipc(data)
    keys, values = table["key"].to_pylist(), table["value"].to_pylist()
    return {key: decode(value, combiner) for key, value in zip(keys, values, strict=True)}


def _keys(keys: list[Any]) -> pa.Array:
    return pa.array(keys, pa.large_binary() if not keys or isinstance(keys[0], bytes) else pa.int64())


def count_words(tokens: npt.NDArray[Any], weights: npt.NDArray[Any] | None) -> Words:
    """Each token once, with how often it occurs, or the sum of its weights in their order."""
    array = pa.array(tokens.ravel(), pa.int64() if tokens.dtype.kind in "iu" else pa.large_binary())
    if weights is None:
        counts = pa.array(np.ones(len(array), np.int64))
    else:
        counts = pa.array(weights.ravel().astype(np.float64))
    return add_words([pa.table({"token": array, "count": counts})])


def add_words(parts: list[Words]) -> Words:
    """Each token of all parts once, its counts added in the order of the parts."""
    # One thread: weights are floats, which are added from left to right.
    grouped = pa.concat_tables(parts).group_by("token", use_threads=False).aggregate([("count", "sum")])
    return grouped.select(["token", "count_sum"]).rename_columns(["token", "count"])


def word_types(definition: Any) -> tuple[pa.DataType, pa.DataType]:
    """The types of tokens and counts of a vocabulary's accumulating node."""
    token = pa.large_binary() if definition.input_dtype == "string" else pa.int64()
    return token, pa.int64() if definition.vocab_ordering_type == BY_FREQUENCY else pa.float64()


class WordSum:
    """Counts of words added up, of which a few times as many are held as there are different ones."""

    _LEAST = 1 << 20  # rows

    def __init__(self, token: pa.DataType, count: pa.DataType) -> None:
        self._sum: Words = pa.schema([("token", token), ("count", count)]).empty_table()
        self._parts: list[Words] = []
        self._rows = 0

    def add(self, words: Words) -> None:
        """Adds counts, after those added before."""
        self._parts.append(words)
        self._rows += words.num_rows
        if self._rows > max(self._LEAST, self._sum.num_rows):
            self._fold()

    def total(self) -> Words:
        """All of them, sorted by token."""
        self._fold()
        return self._sum.sort_by("token")

    def _fold(self) -> None:
        if self._parts:
            self._sum, self._parts, self._rows = add_words([self._sum, *self._parts]), [], 0
