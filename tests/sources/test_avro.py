from __future__ import annotations

import datetime
import json
import sys
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import fastavro
import pyarrow as pa
import pytest

from beam_jobs.sources import Source
from beam_jobs.sources._columnar import avro_blocks
from beam_jobs.sources._columnar.avro_blocks import container, read_block, read_header
from schemas.errors import HeadraceError

from .columnar import ColumnarSuite, RemoteSuite, open_columnar
from .conformance import read_all, records_of

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "text", "type": "bytes"},
        {"name": "number", "type": ["null", "int"]},
        {"name": "words", "type": {"type": "array", "items": "long"}},
    ],
}


def save(table: pa.Table, file: Path, **options: Any) -> None:
    """The table with its texts written as the bytes they are, under a schema that says they are texts."""
    texts = table["text"].combine_chunks()
    texts = texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts
    records = table.set_column(1, "text", texts.view(pa.binary())).to_pylist()
    with file.open("wb") as out:
        fastavro.writer(out, SCHEMA, records, sync_marker=bytes(range(16)), **options)
    written = file.read_bytes()
    file.write_bytes(written.replace(b'"name": "text", "type": "bytes"', b'"name":"text", "type": "string"'))


class TestAvro(ColumnarSuite):
    kind = "avro"
    suffix = ".avro"

    def save(self, table: pa.Table, file: Path) -> None:
        save(table, file)


class TestRemoteAvro(RemoteSuite, TestAvro):
    """The same behind fsspec."""


class TestBlocks(TestAvro):
    """Several blocks a file, and keys of two columns."""

    options: ClassVar[dict[str, Any]] = {"key": ["id", "number"], "partition_bytes": 600}

    def save(self, table: pa.Table, file: Path) -> None:
        save(table, file, sync_interval=100)


def avro(place: Path, **options: Any) -> Source:
    return open_columnar("avro", place, **options)


def write(file: Path, fields: list[Any], records: list[dict[str, Any]], **options: Any) -> Path:
    schema = {"type": "record", "name": "Row", "namespace": "n", "fields": fields}
    with file.open("wb") as out:
        fastavro.writer(out, schema, records, sync_marker=bytes(range(16)), **options)
    return file


def field(name: str, type_: Any) -> dict[str, Any]:
    return {"name": name, "type": type_}


def test_what_types_become(tmp_path: Path) -> None:
    fields = [
        field("union", ["null", "int", "double"]),
        field("enum", {"type": "enum", "name": "E", "symbols": ["a", "b"]}),
        field("fixed", {"type": "fixed", "name": "F", "size": 2}),
        field("again", "F"),
        field("when", {"type": "long", "logicalType": "timestamp-millis"}),
        field("day", ["null", {"type": "int", "logicalType": "date"}]),
        field("price", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        field("id", {"type": "string", "logicalType": "uuid"}),
        field("map", {"type": "map", "values": "string"}),
        field(
            "place",
            {
                "type": "record",
                "name": "Place",
                "fields": [
                    field("name", "string"),
                    field("tags", {"type": "array", "items": ["null", "string"]}),
                ],
            },
        ),
        field("places", {"type": "array", "items": "Place"}),
    ]
    place = {"name": "Graz", "tags": ["x", None]}
    when = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    record = {
        "union": 1.5,
        "enum": "b",
        "fixed": b"\x00\xff",
        "again": b"ab",
        "when": when,
        "day": None,
        "price": Decimal("-1.25"),
        "id": "x",
        "map": {"k": "v"},
        "place": place,
        "places": [place],
    }
    fields[7]["type"] = "string"
    source = avro(write(tmp_path / "t.avro", fields, [record, record | {"union": 2, "day": when.date()}]))
    first, second = records_of(source)
    assert first == {
        "union": 1.5,
        "enum": "b",
        "fixed": b"\x00\xff",
        "again": b"ab",
        "when": int(when.timestamp()) * 10**6,
        "day": None,
        "price": -1.25,
        "id": "x",
        "map.key": ["k"],
        "map.value": ["v"],
        "place.name": "Graz",
        "place.tags": ["x", None],
        "places.name": ["Graz"],
        "places.tags": [["x", None]],
    }
    assert (second["union"], second["day"]) == (2.0, 19724)
    assert avro(tmp_path, columns=["place.name"]).columns() == ["place.name"]


def test_a_union_of_which_nothing_can_be_made(tmp_path: Path) -> None:
    fields = [field("a", ["int", "string"]), field("b", "int")]
    source = avro(write(tmp_path / "t.avro", fields, [{"a": 1, "b": 2}]))
    with pytest.raises(HeadraceError, match=r"(?s)Nothing can be made.*t\.avro, column a.*a union of types"):
        source.partitions()
    assert records_of(avro(tmp_path, columns=["b"])) == [{"b": 2}]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_codecs(codec: str, tmp_path: Path) -> None:
    records = [{"a": i} for i in range(1000)]
    own = codec if codec in ("null", "deflate", "bzip2", "xz") else "null"
    file = write(tmp_path / "t.avro", [field("a", "int")], records, codec=own)
    if own != codec:
        recompress(file, codec)
    assert records_of(avro(file)) == records


def recompress(file: Path, codec: str) -> None:
    """The file with its one block in a codec that fastavro writes only with more packages."""
    with file.open("rb") as source:
        header = read_header(source)
        block = read_block(source, header)
    assert block is not None
    data = pa.Codec({"snappy": "snappy", "zstandard": "zstd"}[codec]).compress(block.data, asbytes=True)
    data += zlib.crc32(block.data).to_bytes(4, "big") if codec == "snappy" else b""
    plain = container(block.records, data, header.schema.decode())
    file.write_bytes(
        plain.replace(b"avro.codec\x08null", b"avro.codec" + bytes([2 * len(codec)]) + codec.encode())
    )


LOOP = {"type": "record", "name": "L", "fields": [field("next", ["null", "L"])]}
LAUGHS: list[Any] = [field("f0", {"type": "record", "name": "R0", "fields": [field("x", "int")]})]
LAUGHS += [
    field(f"f{n}", {"type": "record", "name": f"R{n}", "fields": [field(c, f"R{n - 1}") for c in "abcdefgh"]})
    for n in range(1, 12)
]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([field("a", LOOP)], "has a type within itself: 'L'"),
        (LAUGHS, "more than 10000 types"),
        ([field("a", {"type": "array", "items": "null"})], "an array of values that take no bytes"),
        ([field("a", "nowhere")], "a type that it does not define: 'nowhere'"),
        ([{"name": "a"}], "a field without name or type"),
        ([], "no fields"),
    ],
)
def test_hostile_schemas(fields: list[Any], message: str, tmp_path: Path) -> None:
    schema = json.dumps({"type": "record", "name": "Row", "fields": fields})
    (tmp_path / "t.avro").write_bytes(container(1, b"\x02", schema))
    with pytest.raises(HeadraceError, match=rf"(?s)cannot be read as avro.*t\.avro.*{message}"):
        avro(tmp_path).partitions()


INT = json.dumps({"type": "record", "name": "Row", "fields": [field("a", "int")]})
HEAD = container(1, b"", INT)[: -(1 + 1 + 16)]
SYNC = bytes(16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it ends at byte 0"),
        (b"PAR1", "does not begin as Avro does"),
        (HEAD[:40], "it ends at byte 40"),
        (b"Obj\x01\x02" + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", "its header tells of"),
        (HEAD.replace(b"\x08null", b"\x08lzma"), "its codec is 'lzma'; null, deflate"),
        (HEAD + b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", "tells of 1 records in"),
        (HEAD + b"\x01\x02" + b"\x02" + SYNC, "tells of -1 records"),
        (HEAD + b"\x02\x02" + b"\x02" + b"x" * 16, "does not end with the file's mark"),
        (HEAD + b"\xfe\xff\xff\x7f\x02" + b"\x02" + SYNC, "records in 1 bytes"),
        (HEAD + b"\x04\x04" + b"\x02\xff" + SYNC, "the block at byte"),
    ],
)
def test_hostile_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.avro").write_bytes(content)
    with pytest.raises(HeadraceError, match=rf"(?s)cannot be read as avro.*t\.avro.*{message}"):
        read_all(avro(tmp_path))


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_blocks_that_unpack_to_too_much(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = codec if codec in ("deflate", "bzip2", "xz") else "null"
    file = write(tmp_path / "t.avro", [field("a", "bytes")], [{"a": bytes(3 << 20)}], codec=own)
    if own != codec:
        recompress(file, codec)
    monkeypatch.setattr(avro_blocks, "MAX_BLOCK_BYTES", 1 << 20)
    with pytest.raises(
        HeadraceError, match=r"(?s)cannot be read as avro.*unpacks to more than 1048576 bytes"
    ):
        read_all(avro(file))


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastavro", None)
    (tmp_path / "t.avro").write_bytes(container(1, b"\x02", INT))
    with pytest.raises(HeadraceError, match=r"(?s)fastavro, which is not installed.*headrace\[etl,avro\]"):
        read_all(avro(tmp_path))
