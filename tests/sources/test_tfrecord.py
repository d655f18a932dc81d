from __future__ import annotations

import gzip
import random
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_jobs.sources import Source, open_source
from beam_jobs.sources import tfrecord as tfrecord_module
from beam_jobs.sources._sets import example as _example
from schemas.errors import HeadraceError
from schemas.framing import masked_crc
from schemas.sources import TfrecordSource

from .conformance import SourceSuite, faults_of, read_all, records_of

Values = bytes | str | int | float | Sequence[Any] | None


def source_of(path: Path | str, **options: Any) -> Source:
    return open_source("rows", TfrecordSource(kind="tfrecord", path="${data}", **options), str(path))


def example(record: Mapping[str, Values]) -> bytes:
    """TensorFlow's own message; a feature is of the type of its first value, None is one without."""
    features = {}
    for name, value in record.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        match values[:1]:
            case [bytes() | str()]:
                raw = [item.encode() if isinstance(item, str) else item for item in values]
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))
            case [int()]:
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
            case [float()]:
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
            case _:
                features[name] = tf.train.Feature()
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    crcs = [struct.pack("<I", masked_crc(google_crc32c.value(part))) for part in (length, data)]
    return length + crcs[0] + data + crcs[1]


def write(file: Path, records: Sequence[bytes], options: str = "") -> Path:
    with tf.io.TFRecordWriter(str(file), options) as writer:
        for record in records:
            writer.write(record)
    return file


def keys(source: Source) -> list[bytes | None]:
    return [key for batch in read_all(source) for key in batch.keys.to_pylist()]


def types(source: Source) -> dict[str, str]:
    return {field.name: str(field.type) for field in read_all(source)[0].records.schema}


class TestTfrecord(SourceSuite):
    name = "rows.tfrecord"
    options: ClassVar[dict[str, Any]] = {"key": "id", "partition_bytes": 1000}
    two_ids: Values = "r5003"  # where types are inferred, two would make lists of all ids

    def row(self, i: int, name: str | None = None) -> bytes:
        tokens = list(range(i % 4)) or None
        return frame(example({"id": name or f"r{i:04d}", "n": -i, "x": [i / 2, 1.0], "tokens": tokens}))

    def write(self, place: Path, count: int) -> None:
        (place / self.name).write_bytes(b"".join(map(self.row, range(count))))

    def append(self, place: Path) -> None:
        with open(place / self.name, "ab") as file:
            file.write(self.row(9999))

    def spoil(self, place: Path) -> set[str]:
        bad_crc, bad_length = bytearray(self.row(5000)), bytearray(self.row(5005))
        bad_crc[30] ^= 1
        bad_length[0] ^= 1
        frames = [
            bytes(bad_crc),
            frame(b"no example"),
            frame(example({"id": 5002})),
            frame(example({"id": self.two_ids})),
            self.row(5004),
            bytes(bad_length),
            self.row(5006),
        ]
        with open(place / self.name, "ab") as file:
            file.write(b"".join(frames))
        rules = {"bad_crc", "bad_example", "bad_type", "bad_length"}
        return rules | ({"bad_shape"} if isinstance(self.two_ids, list) else set())

    def change(self, place: Path) -> None:
        file = place / self.name
        file.write_bytes(file.read_bytes().replace(self.row(7), self.row(7, "r000X")))

    def open(self, place: Path) -> Source:
        return source_of(place / self.name, **self.options)


class TestDeclaredTfrecord(TestTfrecord):
    options: ClassVar[dict[str, Any]] = {
        "key": "id",
        "features": {
            "id": {"type": "string"},
            "x": {"type": "float32", "shape": [2]},
            "tokens": {"type": "int64", "shape": [None]},
        },
        "partition_bytes": 1000,
    }
    two_ids: Values = ["r5003", "r5004"]  # noqa: RUF012

    def spoil(self, place: Path) -> set[str]:
        with open(place / self.name, "ab") as file:
            file.write(frame(example({"id": b"\xff"})))
        return super().spoil(place) | {"bad_encoding"}


class TestSeveralTfrecords(TestTfrecord):
    """Two files, and keys made of record numbers."""

    name = "rows.tfrecord-00001-of-00002"

    def write(self, place: Path, count: int) -> None:
        first = place / "rows.tfrecord-00000-of-00002"
        first.write_bytes(b"".join(map(self.row, range(count // 2))))
        super().write(place, count - count // 2)

    def change(self, place: Path) -> None:
        file = place / "rows.tfrecord-00000-of-00002"
        file.write_bytes(file.read_bytes().replace(self.row(7), self.row(7, "r000X")))

    def open(self, place: Path) -> Source:
        return source_of(place / "rows.tfrecord-*", partition_bytes=1000)


class TestRemoteTfrecord(TestTfrecord):
    """The same behind fsspec."""

    @pytest.fixture(autouse=True)
    def _bucket(self, tmp_path: Path) -> object:
        self.bucket = f"/{uuid.uuid4().hex}"
        self.fs = fsspec.filesystem("memory")
        yield
        if self.fs.exists(self.bucket):
            self.fs.rm(self.bucket, recursive=True)

    def open(self, place: Path) -> Source:
        file = place / self.name
        target = f"{self.bucket}/{self.name}"
        if file.exists() and not (self.fs.exists(target) and self.fs.cat(target) == file.read_bytes()):
            self.fs.pipe(target, file.read_bytes())
        return source_of(f"memory:/{self.bucket}/{self.name}", **self.options)


RECORDS: list[dict[str, Values]] = [
    {"b": b"\x00\xff", "i": 2**63 - 1, "f": 0.5, "l": [1, -1, 300], "t": ["a", "bc"]},
    {"b": b"", "i": -(2**63), "f": -1.5, "l": [7], "t": ["x" * 1000]},
    {"b": b"x" * 5000, "i": 0, "l": None},
]


@pytest.mark.parametrize("options", ["", "GZIP", "ZLIB"])
def test_what_tensorflow_writes(tmp_path: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord_module, "_READ_BYTES", 4000)
    source = source_of(write(tmp_path / "t", [*map(example, RECORDS)] * 20, options))
    assert types(source) == {
        "b": "large_binary",
        "f": "float",
        "i": "int64",
        "l": "large_list<item: int64>",
        "t": "large_list<item: large_binary>",
    }
    first, second, third = records_of(source)[:3]
    assert first == {"b": b"\x00\xff", "f": 0.5, "i": 2**63 - 1, "l": [1, -1, 300], "t": [b"a", b"bc"]}
    assert second == {"b": b"", "f": -1.5, "i": -(2**63), "l": [7], "t": [b"x" * 1000]}
    assert third == {"b": b"x" * 5000, "f": None, "i": 0, "l": None, "t": None}
    assert records_of(source) == [first, second, third] * 20
    assert keys(source) == [f"t:{i}".encode() for i in range(1, 61)]
    assert len(read_all(source)) > 10
    assert [p.records for p in source.partitions()] == ([60] if not options else [None])


def test_declared_features(tmp_path: Path) -> None:
    file = write(tmp_path / "t", [*map(example, RECORDS)])
    features = {
        "l": {"type": "int64", "shape": [3]},
        "t": {"type": "string", "shape": [None]},
        "zzz": {"type": "float32"},
    }
    source = source_of(file, features=features)
    assert source.columns() == ["l", "t", "zzz"]
    assert records_of(source) == [
        {"l": [1, -1, 300], "t": ["a", "bc"], "zzz": None},
        {"l": None, "t": None, "zzz": None},
    ]
    assert faults_of(source) == [("t, record 2", "bad_shape", "feature 'l' has 1 values, not 3")]


def test_keys(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t", [example({"i": i, "b": bytes([i, 0]), "f": 1.0, "l": [1, i]}) for i in range(2)]
    )
    assert keys(source_of(file, key="i")) == [b"0", b"1"]
    assert keys(source_of(file, key="b")) == [b"\x00\x00", b"\x01\x00"]
    for wrong, match in (("f", "f: float32"), ("l", "l: int64, a list"), ("bb", "does not exist")):
        with pytest.raises(HeadraceError, match=match):
            source_of(file, key=wrong).partitions()


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def entry(name: str, feature: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, feature))


UNUSUAL = {
    "unpacked numbers": (field(1, entry("i", field(3, b"\x08\x05\x08\x06"))), {"i": [5, 6]}),
    "unpacked floats": (field(1, entry("f", field(2, b"\x0d\x00\x00\x00\x3f"))), {"f": 0.5}),
    "packed in two parts": (
        field(1, entry("i", field(3, field(1, b"\x05") + field(1, b"\x06")))),
        {"i": [5, 6]},
    ),
    "two Features": (
        field(1, entry("i", field(3, field(1, b"\x05")))) + field(1, entry("f", b"")),
        {"i": [5]},
    ),
    "value before name": (
        field(1, field(1, field(2, field(3, field(1, b"\x05"))) + field(1, b"i"))),
        {"i": [5]},
    ),
    "the last of two": (
        field(1, entry("i", field(3, field(1, b"\x05"))) + entry("i", field(3, field(1, b"\x07\x08")))),
        {"i": [7, 8]},
    ),
    "two kinds": (field(1, entry("i", field(1, field(1, b"x")) + field(3, field(1, b"\x05")))), {"i": [5]}),
    "a list without values": (field(1, entry("i", field(3, b""))), {"i": []}),
    "packed without values": (field(1, entry("i", field(3, field(1, b"")))), {"i": []}),
    "no list": (field(1, entry("i", b"")), {"i": None}),
    "no value": (field(1, field(1, field(1, b"i"))), {"i": None}),
    "no features": (field(1, b""), {"i": None}),
    "nothing": (b"", {"i": None}),
    "a name that is no UTF-8": (field(1, field(1, field(1, b"\xff") + field(2, b""))), {"i": None}),
    "a long varint": (field(1, entry("i", field(3, field(1, b"\x85\x80\x80\x00")))), {"i": [5]}),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_wire_forms(tmp_path: Path, name: str) -> None:
    record, expected = UNUSUAL[name]
    plain = example({"i": [1, 2], "f": 2.0})
    source = source_of(write(tmp_path / "t", [plain, record, plain]))
    assert faults_of(source) == []
    found = records_of(source)
    assert found[0] == found[2] == {"f": 2.0, "i": [1, 2]}
    assert found[1] == {"f": None, "i": None, **expected}


HOSTILE = {
    "cut off": field(1, entry("i", field(3, field(1, b"\x05"))))[:-1],
    "a length beyond the record": b"\x0a\xff\xff\xff\xff\x0f",
    "an endless varint": b"\x0a" + b"\xff" * 20,
    "an endless number": field(1, entry("i", field(3, field(1, b"\xff" * 11 + b"\x01")))),
    "an unfinished number": field(1, entry("i", field(3, field(1, b"\x85")))),
    "half a float": field(1, entry("f", field(2, field(1, b"\x00\x00")))),
    "a SequenceExample": field(1, entry("i", b"")) + field(2, field(1, field(1, b"x"))),
    "text": b"this is no example at all",
    "nested": b"\x0b" * 100_000,
    "bytes cut off": field(1, entry("b", field(1, field(1, b"x") + b"\x0a\x05x"))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_records_that_are_no_examples_are_faults(tmp_path: Path, name: str) -> None:
    plain = example({"i": 1, "b": [b"x", b"y"], "f": 1.0})
    source = source_of(write(tmp_path / "t", [plain, HOSTILE[name], plain]))
    assert [(origin, rule) for origin, rule, _ in faults_of(source)] == [("t, record 2", "bad_example")]
    assert records_of(source) == [{"b": [b"x", b"y"], "f": 1.0, "i": 1}] * 2


def test_a_damaged_record_is_a_fault_and_no_other_is(tmp_path: Path) -> None:
    """Every byte of a frame in turn: what is lost is that record, and the rest only where its length is damaged."""
    frames = [frame(example({"i": i})) for i in range(3)]
    at = len(frames[0])
    for place in range(len(frames[1])):
        damaged = bytearray(b"".join(frames))
        damaged[at + place] ^= 0x10
        (tmp_path / "t").write_bytes(damaged)
        source = source_of(tmp_path / "t", features={"i": {"type": "int64"}})
        length = place < 12
        rule, reason = (
            ("bad_length", "length differs, and the rest") if length else ("bad_crc", "data differs")
        )
        ((origin, found, told),) = faults_of(source)
        assert (origin, found) == ("t, record 2", rule)
        assert reason in told
        assert told.endswith(f"at byte {at}")
        assert [record["i"] for record in records_of(source)] == ([0] if length else [0, 2])


@pytest.mark.parametrize("more", [1, 8, 11, 12, 13, 30])
def test_a_file_that_ends_too_early(tmp_path: Path, more: int) -> None:
    frames = [frame(example({"i": i, "b": bytes(i)})) for i in range(50)]
    (tmp_path / "t").write_bytes(b"".join(frames[:30]) + frames[30][:more])
    source = source_of(tmp_path / "t", partition_bytes=300)
    ((origin, rule, reason),) = faults_of(source)
    assert (origin, rule) == ("t, record 31", "truncated_record")
    assert reason.startswith("the file ends within its ")
    assert reason.endswith(f"at byte {sum(map(len, frames[:30]))}")
    assert [record["i"] for record in records_of(source)] == list(range(30))


@pytest.mark.parametrize("options", ["GZIP", "ZLIB"])
def test_compressed_data_that_are_damaged(tmp_path: Path, options: str) -> None:
    rng = random.Random(0)
    records = [example({"i": i, "b": rng.randbytes(5000)}) for i in range(50)]
    whole = write(tmp_path / "t", records, options).read_bytes()
    middle = len(whole) // 2
    for spoilt in (whole[:-1], whole[:middle], whole[:middle] + b"\xff" * 100 + whole[middle + 100 :]):
        (tmp_path / "t").write_bytes(spoilt)
        source = source_of(tmp_path / "t", features={"i": {"type": "int64"}})
        faults = faults_of(source)
        assert {rule for _, rule, _ in faults} <= {"truncated_record", "bad_crc", "bad_length"}
        assert "truncated_record" in {rule for _, rule, _ in faults} or len(spoilt) == len(whole)
        found = [record["i"] for record in records_of(source)]
        assert found == list(range(len(found)))
        assert len(found) > 15


def test_a_hostile_length_takes_no_memory(tmp_path: Path) -> None:
    plain = frame(example({"i": 1}))
    for length in (1 << 62, 1 << 40, 20 << 20):
        header = struct.pack("<Q", length)
        header += struct.pack("<I", masked_crc(google_crc32c.value(header)))
        with open(tmp_path / "t", "wb") as file:
            file.write(plain + header)
            if length == 20 << 20:  # a record that is all there, and is stepped over
                file.truncate(len(plain) + len(header) + length + 4)
                file.seek(0, 2)
                file.write(plain)
        source = source_of(tmp_path / "t", max_record_bytes=1 << 20, partition_bytes=100)
        assert [(origin, rule) for origin, rule, _ in faults_of(source)] == [("t, record 2", "too_large")]
        assert len(records_of(source)) == (2 if length == 20 << 20 else 1)
        assert sum(partition.records or 0 for partition in source.partitions()) == 2 + (length == 20 << 20)


def test_a_record_of_many_windows(tmp_path: Path) -> None:
    records = [{"b": b"x" * 10}, {"b": bytes(5 << 20)}, {"b": b"y"}]
    source = source_of(write(tmp_path / "t", [*map(example, records)]), partition_bytes=1 << 20)
    assert records_of(source) == records
    assert [partition.records for partition in source.partitions()] == [2, 1]


def test_packed_lists_of_many_items(tmp_path: Path) -> None:
    rows: list[dict[str, Values]] = [{"b": [b"%d" % i] * (i * 7 % 900)} for i in range(600)]
    source = source_of(write(tmp_path / "t", [*map(example, rows)]))
    assert [record["b"] or [] for record in records_of(source)] == [row["b"] for row in rows]


def test_names_that_are_data(tmp_path: Path) -> None:
    file = write(tmp_path / "t", [example({f"k{i}": 1, "i": i}) for i in range(5000)])
    with pytest.raises(HeadraceError, match=r"(?s)too many different features.*`features`"):
        source_of(file).partitions()
    assert len(records_of(source_of(file, features={"i": {"type": "int64"}}))) == 5000


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"The source holds no row"),
        (frame(b"\xff"), r"(?s)No record of the source is a tf.train.Example with a feature.*`features`"),
        (b"id,text\n1,2\n" * 9, r"No record of the source is a tf.train.Example"),
    ],
)
def test_errors(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(HeadraceError, match=match):
        source_of(tmp_path / "t").partitions()


def test_compression_is_known_by_content(tmp_path: Path) -> None:
    data = b"".join(frame(example({"i": i})) for i in range(10))
    for name, content in (
        ("a.gz", data),
        ("b", gzip.compress(data) + gzip.compress(data) + bytes(9)),
        ("c.tfrecord", zlib.compress(data)),
    ):
        (tmp_path / name).write_bytes(content)
    found = source_of(tmp_path / "*").partitions()
    assert [(p.payload["file"], p.payload["compression"], p.records) for p in found] == [
        ("a.gz", "none", 10),
        ("b", "gzip", None),
        ("c.tfrecord", "zlib", None),
    ]
    assert [record["i"] for record in records_of(source_of(tmp_path / "b"))] == [*range(10)] * 2


def test_records_changed_since_planning_are_an_error_and_appended_ones_are_not(tmp_path: Path) -> None:
    frames = [frame(example({"i": i})) for i in range(2)]
    (tmp_path / "t").write_bytes(b"".join(frames))
    source = source_of(tmp_path / "t", partition_bytes=len(frames[0]))
    partitions = source.partitions()
    (tmp_path / "t").write_bytes(b"".join([*frames, frames[0]]))
    assert [len(batch.rows) for partition in partitions for batch in source.read(partition)] == [1, 1]
    (tmp_path / "t").write_bytes(b"".join([frames[0], frames[0]]))
    with pytest.raises(HeadraceError, match=r"was changed while"):
        list(source.read(partitions[1]))


LISTS = st.one_of(
    st.none(),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    st.lists(st.binary(max_size=200), min_size=1, max_size=4),
)
EXAMPLES = st.dictionaries(st.sampled_from(["a", "b", "long name", "é"]), LISTS, max_size=4)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(EXAMPLES | st.binary(max_size=60), max_size=20),
    st.integers(1, 500),
    st.integers(1, 300),
    st.integers(0, 3),
)
def test_what_is_read_is_what_tensorflow_parses(
    tmp_path: Path, rows: list[Any], partition: int, chunk: int, side_by_side: int
) -> None:
    records = [example({"n": 1}), *(row if isinstance(row, bytes) else example(row) for row in rows)]
    file = tmp_path / "t"
    file.write_bytes(b"".join(map(frame, records)))
    source = source_of(file)
    whole = records_of(source), faults_of(source), source.columns()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfrecord_module, "_READ_BYTES", chunk)
        patch.setattr(tfrecord_module, "_SCAN_BYTES", chunk)
        patch.setattr(_example, "_SIDE_BY_SIDE", side_by_side)
        patch.setattr(_example, "_MAX_NAMES", side_by_side)
        (tmp_path / "cut").mkdir(exist_ok=True)
        (tmp_path / "cut/t").write_bytes(file.read_bytes())
        source = source_of(tmp_path / "cut/t", partition_bytes=partition)
        assert (records_of(source), faults_of(source), source.columns()) == whole
    refused = {int(origin.rpartition(" ")[2]) - 1 for origin, _, _ in whole[1]}
    kept = iter(whole[0])
    for place, record in enumerate(records):
        if place in refused:
            continue
        message = tf.train.Example.FromString(record)
        found = next(kept)
        for name, feature in message.features.feature.items():
            kind = feature.WhichOneof("kind")
            if kind is None:
                assert found.get(name) is None
                continue
            values = list(getattr(feature, kind).value)
            told = found[name]
            assert (told if isinstance(told, list) else [] if told is None else [told]) == values


def test_bytes_that_are_random(tmp_path: Path) -> None:
    """Flipped bits anywhere end in records and faults, never in anything else; each record is counted."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    records = [example({"i": [1, 2], "b": b"abc", "f": 1.0, "s": ["x", "y"]}) for _ in range(20)]
    for _ in range(60):
        spoilt = [bytearray(record) for record in records]
        for record in spoilt[1:]:
            record[int(rng.integers(len(record)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "t").write_bytes(b"".join(map(frame, map(bytes, spoilt))))
        source = source_of(tmp_path / "t", partition_bytes=200)
        assert len(records_of(source)) + len(faults_of(source)) == 20
