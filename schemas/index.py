"""The index of a shard: where each record lies. An Arrow IPC file, readable by any Arrow reader.

Columns, one row a record, in file order:
  offset    uint64         byte offset of the record's TFRecord frame
  length    uint64         bytes of the frame: 8 length + 4 CRC + data + 4 CRC
  key_hash  fixed binary   the record's 128-bit key hash; rows are in its order
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import HeadraceError
from schemas.framing import FRAME_OVERHEAD
from schemas.hashing import KEY_HASH_BYTES, as_sortable

INDEX_FORMAT_VERSION = 1

_FIELDS = [
    pa.field("offset", pa.uint64(), nullable=False),
    pa.field("length", pa.uint64(), nullable=False),
    pa.field("key_hash", pa.binary(KEY_HASH_BYTES), nullable=False),
]
_SCHEMA = pa.schema(_FIELDS, metadata={"headrace_index_version": str(INDEX_FORMAT_VERSION)})


@dataclass(frozen=True)
class ShardIndex:
    """Where the records of one shard lie.

    Attributes:
      offsets: uint64 (n,), byte offset of each record's TFRecord frame.
      lengths: uint64 (n,), bytes of each frame, framing included.
      key_hashes: uint8 (n, 16).
    """

    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]
    key_hashes: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """Bytes of the shard file that the index describes."""
        return int(self.offsets[-1] + self.lengths[-1]) if len(self) else 0


def encode_index(lengths: npt.NDArray[np.uint64], key_hashes: npt.NDArray[np.uint8]) -> bytes:
    """The index file of records of `lengths` (frames, back to back from offset 0): canonical bytes.

    Raises:
      HeadraceError: no reader would accept it. Hashes out of order are most likely in native byte order:
        `np.concatenate` and `np.sort` of `KEY_HASH_DTYPE` give that unless they are told `dtype=`.
    """
    ends = np.cumsum(lengths, dtype=np.uint64)
    offsets = ends - lengths
    _check(ShardIndex(offsets, lengths, key_hashes), "the index to be written")
    hashes = pa.Array.from_buffers(
        pa.binary(KEY_HASH_BYTES), len(lengths), [None, pa.py_buffer(np.ascontiguousarray(key_hashes))]
    )
    batch = pa.record_batch([pa.array(offsets), pa.array(lengths, pa.uint64()), hashes], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_index(data: bytes | pa.Buffer, where: str) -> ShardIndex:
    """The index in `data`; `where` names the file in errors.

    Raises:
      HeadraceError: the bytes are no index, an index of another version, or one that contradicts itself.
    """
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            version = (reader.schema.metadata or {}).get(b"headrace_index_version", b"none").decode()
            if version != str(INDEX_FORMAT_VERSION):
                raise HeadraceError(
                    "The index was written by another version of Headrace.",
                    where=where,
                    value=f"index version {version}",
                    allowed=f"index version {INDEX_FORMAT_VERSION}",
                    hint="Read it with the Headrace that wrote it, or prepare the data set again.",
                )
            table = reader.read_all()
        table.validate(full=True)
        if not table.schema.equals(_SCHEMA):
            raise pa.ArrowInvalid(f"its columns are {table.schema.names}")
        table = table.combine_chunks()
        offsets = table["offset"].to_numpy()
        lengths = table["length"].to_numpy()
        hashes = _hash_matrix(table["key_hash"])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise HeadraceError(
            "This is not an intact shard index.",
            where=where,
            value=str(error),
            hint="Run `headrace verify` on the data set; prepare it again if the file is damaged.",
        ) from error
    index = ShardIndex(offsets, lengths, hashes)
    _check(index, where)
    return index


def read_index(path: str | Path) -> ShardIndex:
    """The index in a local file. See `decode_index`."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise HeadraceError(
            "A shard's index is missing.",
            where=str(path),
            hint="The data set is incomplete: copy it again in full, or prepare it again.",
        ) from error
    return decode_index(data, str(path))


def _hash_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    if len(column) == 0:
        return np.zeros((0, KEY_HASH_BYTES), dtype=np.uint8)
    chunk = column.chunk(0)
    data = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)
    start = chunk.offset * KEY_HASH_BYTES
    return data[start : start + len(chunk) * KEY_HASH_BYTES].reshape(-1, KEY_HASH_BYTES)


def _check(index: ShardIndex, where: str) -> None:
    if not len(index):
        return
    ends = np.cumsum(index.lengths, dtype=np.uint64)
    if not np.array_equal(index.offsets, ends - index.lengths):
        bad = int(np.flatnonzero(index.offsets != ends - index.lengths)[0])
        raise HeadraceError(
            "The index's offsets and lengths contradict each other.", where=f"{where}, row {bad}"
        )
    if bool(np.any(ends < index.lengths)):
        bad = int(np.flatnonzero(ends < index.lengths)[0])
        raise HeadraceError(
            "The index describes a file larger than any file can be.",
            where=f"{where}, row {bad}",
            value=int(index.lengths[bad]),
        )
    if int(index.lengths.min()) < FRAME_OVERHEAD:
        bad = int(index.lengths.argmin())
        raise HeadraceError(
            "The index holds a record shorter than a TFRecord frame.",
            where=f"{where}, row {bad}",
            value=int(index.lengths[bad]),
        )
    hashes = as_sortable(index.key_hashes)
    if len(hashes) > 1 and not bool(np.all(hashes["hi"][:-1] <= hashes["hi"][1:])):
        raise HeadraceError(
            "The index is not in key-hash order.",
            where=where,
            hint="A writer that joins hashes by np.concatenate must say dtype=…, or they turn little-endian.",
        )
