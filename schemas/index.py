"""The index of a shard: where each record lies, and what a few of its features hold. Any Arrow reader reads it.

An Arrow IPC file, uncompressed. Columns, one row a record, in file order:
  offset    uint64         byte offset of the record's TFRecord frame
  length    uint64         bytes of the frame: 8 length + 4 CRC + data + 4 CRC
  key_hash  fixed binary   the record's 128-bit key hash; rows are in its order
  feature/…                the value of a scalar: int64 (class_label too), float32, bool or large_string
  length/…  int32          how many values a list of any length has
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.columns import ColumnKind, column_names, feature_of
from schemas.errors import HeadraceError, shorten
from schemas.framing import FRAME_OVERHEAD
from schemas.hashing import KEY_HASH_BYTES, as_sortable

INDEX_FORMAT_VERSION = 2
_READABLE = ("1", "2")  # the first knew no features

COLUMN_TYPES: Mapping[ColumnKind, pa.DataType] = {
    "int64": pa.int64(),
    "float32": pa.float32(),
    "bool": pa.bool_(),
    "text": pa.large_string(),
    "length": pa.int32(),
}
_FIELDS = [
    pa.field("offset", pa.uint64(), nullable=False),
    pa.field("length", pa.uint64(), nullable=False),
    pa.field("key_hash", pa.binary(KEY_HASH_BYTES), nullable=False),
]
_METADATA = {"headrace_index_version": str(INDEX_FORMAT_VERSION)}

Column = npt.NDArray[Any]  # int64, float32, bool, str objects, or int32 of lengths
Source: TypeAlias = "bytes | pa.Buffer | pa.NativeFile"


@dataclass(frozen=True)
class ShardIndex:
    """Where the records of one shard lie, and what the index holds of their features.

    Attributes:
      offsets: uint64 (n,), byte offset of each record's TFRecord frame.
      lengths: uint64 (n,), bytes of each frame, framing included.
      key_hashes: uint8 (n, 16).
      columns: the other columns by name, `feature/…` and `length/…`; n values each.
    """

    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
    key_hashes: npt.NDArray[np.uint8]
    columns: Mapping[str, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """Bytes of the shard file that the index describes."""
        return int(self.offsets[-1] + self.lengths[-1]) if len(self) else 0


def encode_index(
    lengths: npt.NDArray[np.uint64],
    key_hashes: npt.NDArray[np.uint8],
    columns: Mapping[str, pa.Array] | None = None,
) -> bytes:
    """The index file of records of `lengths` (frames, back to back from offset 0): canonical bytes.

    `columns` are further ones by their full name, of a type in `COLUMN_TYPES`, without nulls.

    Raises:
      HeadraceError: no reader would accept it. Hashes out of order are most likely in native byte order:
        `np.concatenate` and `np.sort` of `KEY_HASH_DTYPE` give that unless they are told `dtype=`.
    """
    ends = np.cumsum(lengths, dtype=np.uint64)
    offsets = ends - lengths
    _check_bounds(offsets, lengths, "the index to be written")
    _check_order(key_hashes, "the index to be written")
    more = dict(sorted((columns or {}).items()))
    hashes = pa.Array.from_buffers(
        pa.binary(KEY_HASH_BYTES), len(lengths), [None, pa.py_buffer(np.ascontiguousarray(key_hashes))]
    )
    fields = [*_FIELDS, *(pa.field(name, array.type, nullable=False) for name, array in more.items())]
    schema = pa.schema(fields, metadata=_METADATA)
    _check_schema(schema)
    arrays = [pa.array(offsets), pa.array(lengths, pa.uint64()), hashes, *map(_canonical, more.values())]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue())


def decode_index(data: Source, where: str) -> ShardIndex:
    """The whole index in `data`; `where` names the file in errors.

    Raises:
      HeadraceError: the bytes are no index, an index of another version, or one that contradicts itself.
    """
    table = _read_table(data, where)
    arrays = {name: table[name].combine_chunks() for name in table.schema.names}
    index = ShardIndex(
        arrays.pop("offset").to_numpy(),
        arrays.pop("length").to_numpy(),
        _hash_matrix(arrays.pop("key_hash")),
        arrays,
    )
    _check_bounds(index.offsets, index.lengths, where)
    _check_order(index.key_hashes, where)
    return index


def decode_bounds(data: Source, where: str) -> npt.NDArray[np.uint64]:
    """Byte offset of each record's frame, and the end of the last: uint64 (n + 1,). See `decode_index`.

    Nothing else is read of a file.
    """
    table = _read_table(data, where, ["offset", "length"])
    offsets, lengths = table["offset"].to_numpy(), table["length"].to_numpy()
    _check_bounds(offsets, lengths, where)
    return np.append(offsets, offsets[-1] + lengths[-1] if len(offsets) else np.uint64(0))


def decode_column(data: Source, feature: str, where: str) -> Column:
    """What the index holds of a feature: (n,) of int64, float32, bool, str objects, or int32 lengths of a list.

    Nothing else is read of a file.

    Raises:
      HeadraceError: as `decode_index`; or the index does not hold that feature.
    """
    values: Column = _read_table(data, where, feature=feature).column(0).to_numpy()
    return values


def read_index(path: str | Path) -> ShardIndex:
    """The index in a local file. See `decode_index`."""
    with _open(path) as file:
        return decode_index(file, str(path))


def read_bounds(path: str | Path) -> npt.NDArray[np.uint64]:
    """Where the records lie that an index in a local file describes. See `decode_bounds`."""
    with _open(path) as file:
        return decode_bounds(file, str(path))


def read_column(path: str | Path, feature: str) -> Column:
    """What an index in a local file holds of a feature. See `decode_column`."""
    with _open(path) as file:
        return decode_column(file, feature, str(path))


def _open(path: str | Path) -> pa.NativeFile:
    try:
        return pa.OSFile(str(path))
    except FileNotFoundError as error:
        raise HeadraceError(
            "A shard's index is missing.",
            where=str(path),
            hint="The data set is incomplete: copy it again in full, or prepare it again.",
        ) from error


def _read_table(
    data: Source, where: str, columns: Sequence[str] | None = None, *, feature: str | None = None
) -> pa.Table:
    """All columns, those named, or the one of a feature."""
    source = pa.BufferReader(data) if isinstance(data, bytes | pa.Buffer) else data
    try:
        with pa.ipc.open_file(source) as reader:
            schema = reader.schema
        version = (schema.metadata or {}).get(b"headrace_index_version", b"none").decode()
        if version not in _READABLE:
            raise HeadraceError(
                "The index was written by another version of Headrace.",
                where=where,
                value=f"index version {version}",
                allowed=f"index version {' or '.join(_READABLE)}",
                hint="Read it with the Headrace that wrote it, or prepare the data set again.",
            )
        _check_schema(schema)
        if feature is not None:
            columns = [_column_of(feature, schema, where)]
        wanted = None if columns is None else [schema.get_field_index(name) for name in columns]
        with pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=wanted)) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if any(column.null_count for column in table.columns):
            raise pa.ArrowInvalid("a value is missing")
        return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise HeadraceError(
            "This is not an intact shard index.",
            where=where,
            value=str(error),
            hint="Run `headrace verify` on the data set; prepare it again if the file is damaged.",
        ) from error


def _column_of(feature: str, schema: pa.Schema, where: str) -> str:
    for name in column_names(feature):
        if name in schema.names:
            return name
    known = [feature_of(name) for name in schema.names[len(_FIELDS) :]]
    raise HeadraceError(
        f"The index holds nothing of a feature {feature!r}.",
        where=where,
        value=feature,
        allowed=shorten(", ".join(known), 200) or "none: this index holds no feature",
        hint="Name it in the job's `index: [...]`, and prepare the data set again.",
    )


def _check_schema(schema: pa.Schema) -> None:
    fields = list(schema)
    if fields[: len(_FIELDS)] != _FIELDS:
        raise pa.ArrowInvalid(f"its columns are {shorten(str(schema.names), 200)}")
    names = schema.names
    for column in fields[len(_FIELDS) :]:
        value, length = column_names(feature_of(column.name))
        kind = pa.types.is_int32(column.type)
        fits = column.name == (length if kind else value) and column.type in COLUMN_TYPES.values()
        if not fits or column.nullable or names.count(column.name) > 1:
            raise pa.ArrowInvalid(f"its column {shorten(repr(column.name), 200)} is {column.type}")


def _canonical(column: pa.Array) -> pa.Array:
    """The same values in buffers of their own, where no bit depends on how the column was made."""
    if pa.types.is_boolean(column.type):
        bits = np.packbits(column.to_numpy(zero_copy_only=False).astype(np.bool_), bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(column), [None, pa.py_buffer(bits)])
    if pa.types.is_large_string(column.type):
        return pa.concat_arrays([column.slice(0, 0), column])
    return pa.array(column.to_numpy(), column.type)


def _hash_matrix(column: pa.Array) -> npt.NDArray[np.uint8]:
    if len(column) == 0:
        return np.zeros((0, KEY_HASH_BYTES), dtype=np.uint8)
    data = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    start = column.offset * KEY_HASH_BYTES
    return data[start : start + len(column) * KEY_HASH_BYTES].reshape(-1, KEY_HASH_BYTES)


def _check_bounds(offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64], where: str) -> None:
    if not len(lengths):
        return
    ends = np.cumsum(lengths, dtype=np.uint64)
    if not np.array_equal(offsets, ends - lengths):
        bad = int(np.flatnonzero(offsets != ends - lengths)[0])
        raise HeadraceError(
            "The index's offsets and lengths contradict each other.", where=f"{where}, row {bad}"
        )
    if bool(np.any(ends < lengths)):
        bad = int(np.flatnonzero(ends < lengths)[0])
        raise HeadraceError(
            "The index describes a file larger than any file can be.",
            where=f"{where}, row {bad}",
            value=int(lengths[bad]),
        )
    if int(lengths.min()) < FRAME_OVERHEAD:
        bad = int(lengths.argmin())
        raise HeadraceError(
            "The index holds a record shorter than a TFRecord frame.",
            where=f"{where}, row {bad}",
            value=int(lengths[bad]),
        )


def _check_order(key_hashes: npt.NDArray[np.uint8], where: str) -> None:
    hashes = as_sortable(key_hashes)
    if len(hashes) > 1 and not bool(np.all(hashes["hi"][:-1] <= hashes["hi"][1:])):
        raise HeadraceError(
            "The index is not in key-hash order.",
            where=where,
            hint="A writer that joins hashes by np.concatenate must say dtype=…, or they turn little-endian.",
        )
