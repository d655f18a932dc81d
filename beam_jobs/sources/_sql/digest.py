"""A content hash of rows that does not depend on how they were cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from beam_jobs.sources.base import Fault

_DIGEST_BYTES = 16


class RowsDigest:
    """The hash of columns (where each has nulls, the lengths and bytes of its values) and of faults between them."""

    def __init__(self) -> None:
        # One stream each for nulls, lengths and bytes: then borders of batches are nowhere in them.
        self._streams: dict[str, blake3] = {}
        self._counts: dict[str, int] = {}

    def add(self, arrays: Sequence[pa.Array], faults: Sequence[Fault] = ()) -> None:
        """More rows: their columns, and faults with their numbers in the partition."""
        for place, array in enumerate(arrays):
            self._add(f"{place:05}", array)
        for fault in faults:
            said = [fault.row, fault.rule, fault.reason, (fault.raw or b"").hex()]
            self._update("faults", np.frombuffer(repr(said).encode(), np.uint8))

    def hex(self) -> str:
        """The hash of all that was added."""
        whole = blake3(repr(sorted(self._counts.items())).encode())
        for name, stream in sorted(self._streams.items()):
            whole.update(name.encode() + b"\0" + stream.digest(_DIGEST_BYTES))
        return whole.hexdigest(_DIGEST_BYTES)

    def _update(self, name: str, data: npt.NDArray[Any]) -> None:
        if name not in self._streams:
            self._streams[name] = blake3()
        self._streams[name].update(data.view(np.uint8).data)

    def _add(self, name: str, array: pa.Array) -> None:
        kind = array.type
        nulls = np.zeros(0, np.int64)
        if array.null_count:
            nulls = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            self._update(f"{name} nulls", (nulls + self._counts.get(name, 0)).astype("<i8", copy=False))
        self._counts[name] = self._counts.get(name, 0) + len(array)
        if pa.types.is_list(kind):
            lengths = pc.list_value_length(array).fill_null(0)
            self._update(f"{name} lengths", _flat(lengths.cast(pa.int64())))
            self._add(f"{name}[]", array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_large_binary(kind):
            lengths = np.diff(offsets_of(array))
            if lengths[nulls].any():  # a null may have bytes, which nobody sees
                array = array.fill_null("" if pa.types.is_string(kind) else b"")
                lengths = np.diff(offsets_of(array))
            offsets = offsets_of(array)
            self._update(f"{name} lengths", lengths.astype("<i4", copy=False))
            data = array.buffers()[2]
            if data is not None:
                self._update(f"{name} bytes", np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]])
        elif pa.types.is_boolean(kind):
            self._update(f"{name} bytes", _flat(array.fill_null(False)))
        else:
            values = _numbers(array)
            if len(nulls):
                values = values.copy()
                values[nulls] = 0
            self._update(f"{name} bytes", values)


def offsets_of(array: pa.Array) -> npt.NDArray[np.int32] | npt.NDArray[np.int64]:
    """Where each value of text or bytes begins in the array's data, and where the last one ends."""
    if not len(array):
        return np.zeros(1, np.int64)
    places = slice(array.offset, array.offset + len(array) + 1)
    if pa.types.is_large_binary(array.type):
        return np.frombuffer(array.buffers()[1], np.int64)[places]
    return np.frombuffer(array.buffers()[1], np.int32)[places]


def _numbers(array: pa.Array) -> npt.NDArray[Any]:
    """Those of an array, and whatever there is in place of nulls."""
    dtype = array.type.to_pandas_dtype()
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def _flat(array: pa.Array) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False))
