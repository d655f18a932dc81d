"""Avro's container: a header, and blocks of records between sync marks. Sizes are bounded before they are believed.

Format: https://avro.apache.org/docs/1.12.0/specification/#object-container-files
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

MAX_BLOCK_BYTES = 256 << 20
_MAX_HEADER_BYTES = 16 << 20
_MAGIC = b"Obj\x01"
SYNC_BYTES = 16
_XZ_MEMORY = 256 << 20


class Header(NamedTuple):
    """What a file begins with.

    Attributes:
      schema: JSON.
      codec: how blocks are compressed.
      sync: the mark that ends the header and every block.
      end: byte at which the first block begins.
    """

    schema: bytes
    codec: str
    sync: bytes
    end: int


class Block(NamedTuple):
    """Records of a file: how many, where their bytes lie, and those as they are stored."""

    records: int
    offset: int
    data: bytes


def read_header(file: BinaryIO) -> Header:
    """The header of a file, from its start.

    Raises:
      ValueError: it is none.
    """
    if _exactly(file, len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as Avro does")
    metadata: dict[bytes, bytes] = {}
    while count := _long(file):
        if count < 0:  # then the size of what follows is told too
            count = -count
            _long(file)
        for _ in range(count):
            key = _counted(file)
            metadata[key] = _counted(file)
            if file.tell() > _MAX_HEADER_BYTES:
                raise ValueError(f"its header has more than {_MAX_HEADER_BYTES} bytes")
    sync = _exactly(file, SYNC_BYTES)
    codec = metadata.get(b"avro.codec", b"null").decode("utf-8", "backslashreplace")
    if codec not in _CODECS:
        raise ValueError(f"its codec is {codec!r}; {', '.join(_CODECS)} are known")
    if b"avro.schema" not in metadata:
        raise ValueError("it has no schema")
    return Header(metadata[b"avro.schema"], codec, sync, file.tell())


def read_block(file: BinaryIO, header: Header) -> Block | None:
    """The block that begins where the file is at, None at its end.

    Raises:
      ValueError: there is something else.
    """
    offset = file.tell()
    first = file.read(1)
    if not first:
        return None
    count, size = _long(file, first), _long(file)
    if count < 0 or not 0 <= size <= MAX_BLOCK_BYTES:
        raise ValueError(f"the block at byte {offset} tells of {count} records in {size} bytes")
    data = _exactly(file, size)
    if _exactly(file, SYNC_BYTES) != header.sync:
        raise ValueError(f"the block at byte {offset} does not end with the file's mark")
    return Block(count, offset, data)


def unpacked(block: Block, header: Header) -> bytes:
    """The bytes of the block's records.

    Raises:
      ValueError: they are damaged, or more than a block may have.
    """
    try:
        data = _CODECS[header.codec](block.data)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, pa.ArrowException, IndexError) as error:
        raise ValueError(f"the block at byte {block.offset} cannot be unpacked: {error}") from error
    if len(data) > MAX_BLOCK_BYTES:
        raise ValueError(f"the block at byte {block.offset} unpacks to more than {MAX_BLOCK_BYTES} bytes")
    return data


def _snappy(data: bytes) -> bytes:
    size, shift = 0, 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > MAX_BLOCK_BYTES:
        return bytes(MAX_BLOCK_BYTES + 1)
    found: bytes = pa.Codec("snappy").decompress(data[:-4], decompressed_size=size, asbytes=True)
    if zlib.crc32(found) != int.from_bytes(data[-4:], "big"):
        raise EOFError("its checksum is another")
    return found


def _zstandard(data: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        found: bytes = stream.read(MAX_BLOCK_BYTES + 1)
        return found


_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": lambda data: data,
    "deflate": lambda data: zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAX_BLOCK_BYTES + 1),
    "bzip2": lambda data: bz2.BZ2Decompressor().decompress(data, MAX_BLOCK_BYTES + 1),
    "xz": lambda data: lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(data, MAX_BLOCK_BYTES + 1),
    "snappy": _snappy,
    "zstandard": _zstandard,
}


def container(records: int, data: bytes, schema: str) -> bytes:
    """A file with one block of unpacked records, for a reader of such files."""
    sync = bytes(SYNC_BYTES)
    metadata: dict[str, Any] = {"avro.schema": schema.encode(), "avro.codec": b"null"}
    head = b"".join(_with_size(key.encode()) + _with_size(value) for key, value in metadata.items())
    return b"".join(
        [_MAGIC, _zigzag(len(metadata)), head, b"\0", sync, _zigzag(records), _with_size(data), sync]
    )


def _with_size(data: bytes) -> bytes:
    return _zigzag(len(data)) + data


def _zigzag(value: int) -> bytes:
    value <<= 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _long(file: BinaryIO, first: bytes = b"") -> int:
    value = 0
    for shift in range(0, 70, 7):
        (byte,) = first or _exactly(file, 1)
        first = b""
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1)
    raise ValueError(f"there is no number at byte {file.tell()}")


def _counted(file: BinaryIO) -> bytes:
    size = _long(file)
    if not 0 <= size <= _MAX_HEADER_BYTES:
        raise ValueError(f"its header tells of {size} bytes")
    return _exactly(file, size)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"it ends at byte {file.tell()}, within a block or its header")
    return data
