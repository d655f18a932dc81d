"""Reading a `tf.train.Example` without TensorFlow: the few parts of protobuf's wire format that it uses.

Nothing is believed: every length is checked against the bytes that are there, so that damaged or hostile records
end in an error, never in a large allocation. See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from schemas import ShardIndex
from schemas.framing import FOOTER_BYTES, HEADER_BYTES, masked_crc

Values = list[bytes] | list[int] | list[float]

MAX_RECORD_BYTES = 256 << 20  # 256 MiB; larger ones are for machines, not for showing
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


class DamagedRecordError(ValueError):
    """Bytes that are no record; says what and at which byte."""


def read_record(shard: Path, index: ShardIndex, number: int) -> bytes:
    """The serialized example of record `number` of a shard.

    Raises:
      DamagedRecordError: it is too long to be held, the file ends before it, or its CRC differs.
    """
    offset, length = int(index.offsets[number]), int(index.lengths[number])
    if length > MAX_RECORD_BYTES:
        raise DamagedRecordError(f"a record of {length} bytes is too long to show")
    with open(shard, "rb") as file:
        file.seek(offset)
        frame = file.read(length)
    return data_of(frame, offset, length)


def data_of(frame: bytes, offset: int, length: int) -> bytes:
    """The serialized example in what was read of a frame of `length` bytes at `offset` of its file.

    Raises:
      DamagedRecordError: the file ends before the frame does, or its CRC differs.
    """
    if len(frame) < length:
        raise DamagedRecordError(f"the file ends within the record at byte {offset}")
    data = frame[HEADER_BYTES:-FOOTER_BYTES]
    if masked_crc(google_crc32c.value(data)) != int.from_bytes(frame[-FOOTER_BYTES:], "little"):
        raise DamagedRecordError(f"the CRC of the record at byte {offset} differs")
    return data


def parse_example(data: bytes) -> dict[str, Values]:
    """The values of each feature by its name. A feature without values is an empty list.

    Raises:
      DamagedRecordError: the bytes are no tf.train.Example.
    """
    features: dict[str, Values] = {}
    for field, message in _messages(data):
        if field == 1:
            for key, entry in _messages(message):
                if key == 1:
                    name, values = _entry(entry)
                    features[name] = values
    return dict(sorted(features.items()))


def _entry(data: bytes) -> tuple[str, Values]:
    name = ""
    values: Values = []
    for field, message in _messages(data):
        if field == 1:
            try:
                name = message.decode("utf-8")
            except UnicodeDecodeError:
                raise DamagedRecordError("the name of a feature is not UTF-8") from None
        elif field == 2:
            for kind, content in _messages(message):
                values = _list(kind, content)
    return name, values


def _list(kind: int, data: bytes) -> Values:
    """Values of a BytesList, FloatList or Int64List; numbers packed or one by one."""
    items = [(wire, value) for field, wire, value in _fields(data) if field == 1]
    if kind == _BYTES_LIST:
        return [value for wire, value in items if wire == _BYTES and isinstance(value, bytes)]
    if kind == _FLOAT_LIST:
        floats = b"".join(value for _, value in items if isinstance(value, bytes))
        if len(floats) % 4:
            raise DamagedRecordError(f"{len(floats)} bytes are no list of float32")
        return list(struct.unpack(f"<{len(floats) // 4}f", floats))
    if kind == _INT64_LIST:
        numbers: list[int] = []
        for _, value in items:
            numbers.extend([_signed(value)] if isinstance(value, int) else map(_signed, _packed(value)))
        return numbers
    return []


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    return (
        (field, value) for field, wire, value in _fields(data) if wire == _BYTES and isinstance(value, bytes)
    )


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Number, wire type and content of each field; fixed 32 and 64 bits as bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire = tag & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield tag >> 3, wire, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise DamagedRecordError(f"no such wire type as {wire}, before byte {place}")
        if size > len(data) - place:
            raise DamagedRecordError(f"a field of {size} bytes where {len(data) - place} are left")
        yield tag >> 3, wire, data[place : place + size]
        place += size


def _packed(data: bytes) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise DamagedRecordError("the record ends within a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise DamagedRecordError(f"a number of more than 64 bits before byte {place}")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
