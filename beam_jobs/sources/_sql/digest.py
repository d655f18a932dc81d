"""A content hash of rows that does not depend on how they were cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sources.base import Fault


class RowsDigest:
    """The hash of columns (where each has nulls, the lengths and bytes of its values) and of faults between them.

    Hashing holds no interpreter lock: threads `aside` do it while the rows are used and the next ones fetched.
    """

    def __init__(self, aside: Executor | None = None) -> None:
        # One stream each for nulls, lengths and bytes: then borders of batches are nowhere in them.
        self._streams: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._pending: list[Future[None]] = []
        self._aside = aside

    def add(self, arrays: Sequence[pa.Array], faults: Sequence[Fault] = ()) -> None:
        """More rows: their columns, and faults with their numbers in the partition."""
        self._settle()
        for place, array in enumerate(arrays):
            if self._aside is None:
                self._add(f"{place:05}", array)
            else:
                self._pending.append(self._aside.submit(self._add, f"{place:05}", array))
        for fault in faults:
            said = [fault.row, fault.rule, fault.reason, (fault.raw or b"").hex()]
            self._stream("faults").update(repr(said).encode())

    def _settle(self) -> None:
        for pending in self._pending:
            pending.result()
        self._pending.clear()

    def hex(self) -> str:
        """The hash of all that was added."""
        self._settle()
        whole = hashlib.blake2b(repr(sorted(self._counts.items())).encode(), digest_size=16)
        for name, stream in sorted(self._streams.items()):
            whole.update(name.encode() + b"\0" + stream.digest())
        return whole.hexdigest()

    def _stream(self, name: str) -> Any:
        if name not in self._streams:
            self._streams[name] = hashlib.blake2b(digest_size=16)
        return self._streams[name]

    def _add(self, name: str, array: pa.Array) -> None:
        kind = array.type
        if array.null_count:
            nulls = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            self._stream(f"{name} nulls").update((nulls + self._counts.get(name, 0)).astype("<i8"))
        self._counts[name] = self._counts.get(name, 0) + len(array)
        if pa.types.is_list(kind):
            lengths = pc.list_value_length(array).fill_null(0)
            self._stream(f"{name} lengths").update(_flat(lengths.cast(pa.int64())))
            self._add(f"{name}[]", array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_large_binary(kind):
            array = array.fill_null("" if pa.types.is_string(kind) else b"") if array.null_count else array
            offsets = offsets_of(array)
            self._stream(f"{name} lengths").update(np.diff(offsets).astype("<i4"))
            data = array.buffers()[2]
            if data is not None:
                self._stream(f"{name} bytes").update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        else:
            empty = False if pa.types.is_boolean(kind) else 0
            self._stream(f"{name} bytes").update(_flat(array.fill_null(empty) if array.null_count else array))


def offsets_of(array: pa.Array) -> npt.NDArray[np.int64]:
    """Where each value of text or bytes begins in the array's data, and where the last one ends."""
    if not len(array):
        return np.zeros(1, np.int64)
    width = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    offsets = np.frombuffer(array.buffers()[1], width)[array.offset : array.offset + len(array) + 1]
    return offsets.astype(np.int64, copy=False)


def _flat(array: pa.Array) -> Any:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).view(np.uint8)
