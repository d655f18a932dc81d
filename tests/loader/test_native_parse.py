"""The native core's tf.train.Examples and TFRecord frames: TensorFlow's as oracle, and every error in words."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from pydantic import TypeAdapter

from loader import decode, native
from loader.parse import Columns, can_parse
from loader.records import BAD_CRC, BAD_LENGTH, SOUND, Records
from schemas import HeadraceError
from schemas.features import Feature
from schemas.framing import masked_crc
from schemas.packing import pack, with_places

pytestmark = pytest.mark.skipif(native.core is None, reason="the native core could not be built here")

FEATURES: dict[str, Feature] = TypeAdapter(dict[str, Feature]).validate_python(
    {
        "photo": {"type": "image"},
        "mask": {"type": "image", "formats": ["png"], "shape": [None, None, 1]},
        "label": {"type": "class_label", "names": ["a", "b", "c"]},
        "flag": {"type": "bool"},
        "number": {"type": "int64"},
        "numbers": {"type": "int64", "shape": [3]},
        "one": {"type": "int64", "shape": [1]},
        "price": {"type": "float32"},
        "size": {"type": "float32"},
        "vector": {"type": "float32", "shape": [5]},
        "text": {"type": "text"},
        "raw": {"type": "bytes"},
    }
)
PACKED = with_places(FEATURES, pack(FEATURES))
IMAGES = ("photo", "mask")
INT64, FLOAT32, BYTES = 3, 2, 1  # fields of tf.train.Feature


def varint(value: int) -> bytes:
    value, out = value & (1 << 64) - 1, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def values_of(kind: int, values: Sequence[Any], *, packed: bool) -> bytes:
    """The values of a list."""
    if kind == BYTES:
        return b"".join(field(1, value) for value in values)
    each = [varint(int(v)) if kind == INT64 else struct.pack("<f", v) for v in values]
    if packed:
        return field(1, b"".join(each))
    return b"".join(bytes([0x08 if kind == INT64 else 0x0D]) + one for one in each)


def entry(name: str, kind: int, values: Sequence[Any], *, packed: bool = True) -> bytes:
    return field(1, field(1, name.encode()) + field(2, field(kind, values_of(kind, values, packed=packed))))


def example(entries: Sequence[bytes]) -> bytes:
    return field(1, b"".join(entries))


def random_entries(rng: np.random.Generator, features: dict[str, Feature]) -> list[bytes]:
    """Everything that a record of these features holds, by chance packed or not."""
    vectors = {f.packed.vector: f.packed.length for f in features.values() if f.packed}
    single = {name: f for name, f in features.items() if not f.packed}
    found = [(name, FLOAT32 if "float" in name else INT64, length) for name, length in vectors.items()]
    for name, feature in single.items():
        kind = {"float32": FLOAT32, "image": BYTES, "text": BYTES, "bytes": BYTES}.get(feature.type, INT64)
        shape = () if kind == BYTES else getattr(feature, "shape", ())
        found.append((name, kind, shape[0] if shape else 1))
    entries = []
    for name, kind, length in found:
        values: Sequence[Any]
        if kind == BYTES:
            values = [rng.bytes(int(rng.integers(0, 300)))]
        elif kind == FLOAT32:
            values = rng.normal(size=length).astype(np.float32).tolist()
        else:
            values = (rng.integers(-(2**63), 2**63 - 1, length) >> rng.integers(0, 64, length)).tolist()
        entries.append(entry(name, kind, values, packed=bool(rng.integers(2))))
    return entries


def random_record(rng: np.random.Generator, features: dict[str, Feature]) -> bytes:
    """As a writer may make it: in any order, with features and fields that nobody asks for."""
    entries = random_entries(rng, features)
    match int(rng.integers(5)):
        case 0:
            entries.sort(key=lambda _: rng.random())
        case 1:
            for name in ("", "aaa", "zzz", "photo2"):
                entries.insert(int(rng.integers(len(entries) + 1)), entry(name, INT64, [1, 2]))
        case 2:
            half = len(entries) // 2  # parts of a message that come apart belong together
            return example(entries[:half]) + example(entries[half:])
        case 3:
            again = random_entries(rng, features)
            return example([*entries, again[int(rng.integers(len(again)))]])  # the last one counts
    return example(entries)


def parsed(records: list[bytes], features: dict[str, Feature], start: int = 0) -> Columns:
    columns = Columns(features, start + len(records))
    columns.fill(Records.of(records), start, np.arange(100, 100 + len(records)), "toy 1.0.0")
    return columns


def check(records: list[bytes], features: dict[str, Feature]) -> None:
    """That the core makes of the records what TensorFlow does."""
    assert can_parse(features)
    start = 2
    columns = parsed(records, features, start)
    for name, expected in decode.parse(tf.constant(records), features).items():
        found = columns[name][start:]
        if name in IMAGES:
            found = Records(records, found).texts()
        assert found.dtype == expected.dtype.as_numpy_dtype, name
        assert found.shape == tuple(expected.shape), name
        bits = np.uint32 if found.dtype == np.float32 else found.dtype  # a NaN is not equal to itself
        np.testing.assert_array_equal(found.view(bits), expected.numpy().view(bits), name)


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["plain", "packed"])
def test_records_are_parsed_as_by_tensorflow(features, rng):
    records = [random_record(rng, features) for _ in range(300)]
    check(records, features)
    names = list(features)
    for _ in range(10):
        some = rng.choice(names, int(rng.integers(1, len(names))), replace=False)
        check(records[:20], {name: features[name] for name in some})


def test_odd_numbers(rng):
    features = {name: FEATURES[name] for name in ("number", "price", "flag")}
    floats = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38]
    ints = [0, -1, 1, 2**63 - 1, -(2**63), 127, 128]
    check(
        [
            example([entry("number", INT64, [i]), entry("price", FLOAT32, [f]), entry("flag", INT64, [k])])
            for k, (i, f) in enumerate(zip(ints, floats, strict=True))
        ],
        features,
    )
    assert len(parsed([], features)["number"]) == 0


NUMBER = entry("number", INT64, [7])
BAD_RECORDS = {
    "nothing": b"",
    "no features": field(1, b""),
    "another feature": example([entry("numbe", INT64, [7]), entry("numbers", INT64, [7])]),
    "without a value": example([field(1, field(1, b"number"))]),
    "without a name": example([field(1, field(2, field(INT64, field(1, b"\x07"))))]),
    "no list": example([field(1, field(1, b"number") + field(2, b""))]),
    "no values": example([entry("number", INT64, [])]),
    "two values": example([entry("number", INT64, [7, 8])]),
    "two values, not packed": example([entry("number", INT64, [7, 8], packed=False)]),
    "floats": example([entry("number", FLOAT32, [7.0])]),
    "bytes": example([entry("number", BYTES, [b"7"])]),
    "the last one is of another type": example([NUMBER, entry("number", FLOAT32, [7.0])]),
    "fixed 64 in a list": example(
        [field(1, field(1, b"number") + field(2, field(3, b"\x09" + b"\x07" * 8)))]
    ),
    "a varint of eleven bytes": example(
        [field(1, field(1, b"number") + field(2, field(3, field(1, b"\x80" * 10 + b"\x01"))))]
    ),
    "a varint that ends early": example(
        [field(1, field(1, b"number") + field(2, field(3, field(1, b"\x80"))))]
    ),
}
NO_EXAMPLES = {
    "an unfinished record": example([NUMBER])[:-1],
    "a length beyond the end": b"\x0a\xff\x01" + NUMBER,
    "an enormous length": b"\x0a" + b"\xff" * 9 + b"\x01" + NUMBER,
    "a group": example([NUMBER]) + b"\x0b",
    "wire type 7": b"\x0f" + example([NUMBER]),
    "a tag that ends early": b"\x80",
    "text": b"this is no record at all",
    "an unfinished entry": example([NUMBER[:-3]]),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_records_without_the_feature(kind, rng):
    good = example([NUMBER])
    with pytest.raises(
        HeadraceError,
        match=r"(?s)does not hold what the manifest declares.*toy 1\.0\.0, record 102, feature 'number'.*"
        r"absent, of another type.*1 whole numbers \(int64\).*manifest is not of these shards",
    ):
        parsed([good, good, BAD_RECORDS[kind], good], {"number": FEATURES["number"]})


@pytest.mark.parametrize("kind", NO_EXAMPLES)
def test_what_is_no_example(kind):
    with pytest.raises(HeadraceError, match=r"(?s)is no tf\.train\.Example.*toy 1\.0\.0, record 101\b"):
        parsed([example([NUMBER]), NO_EXAMPLES[kind]], {"number": FEATURES["number"]})


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["plain", "packed"])
def test_every_feature_is_missed(features, rng):
    """One after the other is left out, or of another type, or longer."""
    names = {"_int64": "whole numbers", "_float32": "float32 numbers"}
    for name in {f.packed.vector if f.packed else name: 0 for name, f in features.items()}:
        for wrong in [
            [],
            [entry(name, BYTES, [b"", b""])],
            [entry(name, INT64, range(50))],
            [entry(name, FLOAT32, [0.5] * 50)],
        ]:
            entries = [
                e for e in random_entries(rng, features) if f"\n{chr(len(name))}{name}\x12".encode() not in e
            ]
            assert len(entries) == len(random_entries(rng, features)) - 1
            with pytest.raises(HeadraceError, match=rf"feature {name!r}(?s:.*){names.get(name, '')}"):
                parsed([example([*entries, *wrong])], features)


def test_damaged_records_are_refused_or_parsed(rng):
    """Whatever the bytes: an error in words, or values of the right shapes from inside of the record."""
    parsed_at_all = 0
    for _ in range(3000):
        record = bytearray(random_record(rng, PACKED))
        at = int(rng.integers(len(record)))
        match int(rng.integers(4)):
            case 0:
                record[at] ^= 1 << int(rng.integers(8))
            case 1:
                del record[at : at + int(rng.integers(1, 9))]
            case 2:
                record[at:at] = rng.bytes(int(rng.integers(1, 12)))
            case 3:
                record[at:at] = b"\xff" * int(rng.integers(1, 12))
        try:
            columns = parsed([bytes(record)], PACKED)
        except HeadraceError as error:
            assert re.search(r"does not hold what|is no tf\.train\.Example", str(error))  # noqa: PT017
            continue
        parsed_at_all += 1
        for name in IMAGES:
            assert len(Records([bytes(record)], columns[name]).texts()) == 1
    assert parsed_at_all


def test_arguments_of_the_core_are_checked(rng):
    core = native.require()
    spans = np.array([[0, 0, 3]])
    for wrong in [[[1, 0, 1]], [[-1, 0, 1]], [[0, -1, 1]], [[0, 2, 1]], [[0, 0, 4]], [[0, 4, 4]]]:
        with pytest.raises(ValueError, match="outside of its buffer"):
            core.slices([b"abc"], np.array(wrong))
    assert core.slices([b"abc"], spans) == [b"abc"]
    with pytest.raises(TypeError, match="bytes-like object is required"):
        core.slices(["abc"], spans)
    with pytest.raises(TypeError, match="array is needed"):
        core.slices([b"abc"], None)
    with pytest.raises(ValueError, match="an array of"):
        core.parse([b"abc"], spans, [(b"a", 0, 2, [np.zeros((1, 1), np.int64)])])
    with pytest.raises(ValueError, match="no such kind"):
        core.parse([b"abc"], spans, [(b"a", 3, 1, [np.zeros((1, 1), np.int64)])])
    out, status = np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, np.uint8)
    rest = (None, None, None, None, None, status)
    for shape, part, area, ratio in [
        ((4, 4, 2), 0, (1, 1), (1, 1)),
        ((0, 4, 3), 0, (1, 1), (1, 1)),
        ((4, 4, 3), 5, (1, 1), (1, 1)),
        ((4, 4, 3), 2, (1, 1), (1, 1)),
        ((4, 4, 3), 1, (0.5, 2), (1, 1)),
        ((4, 4, 3), 1, (np.nan, 1), (1, 1)),
        ((4, 4, 3), 1, (0.5, 1), (0, 1)),
        ((4, 4, 3), 1, (0.5, 1), (1, 1e30)),
    ]:
        with pytest.raises(ValueError, match="do not fit each other"):
            core.decode([b"abc"], spans, out, shape, part, area, ratio, *rest)
    with pytest.raises(ValueError, match="an array of 48 bytes, where 75 are needed"):
        core.decode([b"abc"], spans, out, (5, 5, 3), 0, (1, 1), (1, 1), *rest)
    with pytest.raises(IndexError, match="no such place"):
        core.gather(out, np.array([1]), out, (4, 4, 3), None, None, None, None)


def test_frames_are_checked_as_by_the_other_way(rng, monkeypatch):
    lengths = [0, 1, 7, 8, 9, 1023, 3071, 3072, 3073, 3079, 6144, 10_000]
    payloads = [rng.bytes(length) for length in lengths]
    framed = [
        struct.pack("<QI", len(p), 0) + p + struct.pack("<I", masked_crc(google_crc32c.value(p)))
        for p in payloads
    ]
    whole = b"".join(framed)
    ends = np.cumsum([len(f) for f in framed])
    spans = np.stack([np.zeros_like(ends), ends - [len(f) for f in framed], ends], axis=-1)
    records = Records([whole], spans)
    assert (records.check_frames() == SOUND).all()
    assert records.payloads().texts().tolist() == payloads
    for _ in range(100):
        damaged, row = bytearray(whole), int(rng.integers(len(spans)))
        at = int(rng.integers(spans[row, 1], spans[row, 2]))
        damaged[at] ^= 1 << int(rng.integers(8))
        place = at - spans[row, 1]
        expected = np.full(len(spans), SOUND)
        expected[row] = BAD_LENGTH if place < 8 else SOUND if place < 12 else BAD_CRC
        found = Records([bytes(damaged)], spans)
        np.testing.assert_array_equal(found.check_frames(), expected, f"{row} {place}")
        with monkeypatch.context() as patch:
            patch.setattr(native, "core", None)
            np.testing.assert_array_equal(found.check_frames(), expected)
