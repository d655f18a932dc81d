"""`headrace inspect`: what is in a data set, for people and for scripts; nothing in it is believed blindly."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from small_dataset import JOB, chunk, example, make, png, record, varint

from beam_jobs.examples import DamagedRecordError, parse_example, read_record
from beam_jobs.inspect_dataset import inspect, inspect_command, print_inspection
from beam_jobs.tables import Facts, Table, show, visible
from beam_jobs.values import json_of, shown
from schemas import HeadraceError, parse_spec, read_index
from schemas.features import Feature
from schemas.naming import DEAD_LETTERS, MANIFEST

SHARD = "pond-train.tfrecord-00000-of-00004"


def feature(**fields: Any) -> Feature:
    return TypeAdapter(Feature).validate_python(fields)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "pond")
    return tmp_path / "pond"


# --- tf.train.Example ---


def test_an_example_is_read_as_it_was_written() -> None:
    assert parse_example(example(record(7))) == dict(sorted(record(7).items()))


VALUES = st.one_of(
    st.lists(st.binary(max_size=20)),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.floats(width=32, allow_nan=False)),
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5))
def test_any_example_is_read_as_it_was_written(values: dict[str, list[Any]]) -> None:
    assert parse_example(example(values)) == dict(sorted(values.items()))


def test_numbers_need_not_be_packed_and_unknown_fields_are_skipped() -> None:
    loose = b"".join(varint(1 << 3) + varint(n) for n in (3, -4))
    floats = b"".join(varint(1 << 3 | 5) + struct.pack("<f", x) for x in (0.5, 2.0))
    unknown = varint(9 << 3 | 1) + bytes(8) + varint(8 << 3 | 5) + bytes(4) + varint(7 << 3) + varint(300)
    entries = chunk(1, chunk(1, b"n") + chunk(2, chunk(3, loose))) + unknown
    entries += chunk(1, chunk(1, b"x") + chunk(2, chunk(2, floats)))
    assert parse_example(unknown + chunk(1, entries)) == {"n": [3, -4], "x": [0.5, 2.0]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", r"a field of \d+ bytes where 0 are left"),
        (b"\x0a" + b"\xff" * 10, "a number of more than 64 bits"),
        (b"\x0a", "the record ends within a number"),
        (b"\x0b", "no such wire type as 3"),
        (chunk(1, chunk(1, chunk(1, b"\xff"))), "the name of a feature is not UTF-8"),
        (chunk(1, chunk(1, chunk(2, chunk(2, chunk(1, b"abc"))))), "3 bytes are no list of float32"),
        (chunk(1, chunk(1, chunk(2, chunk(3, chunk(1, b"\x80"))))), "the record ends within a number"),
    ],
)
def test_bytes_that_are_no_example_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DamagedRecordError, match=message):
        parse_example(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(DamagedRecordError):
        parse_example(data)


def test_a_damaged_example_is_read_or_refused() -> None:
    whole, rng = example(record(3)), random.Random(0)
    for _ in range(2000):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with contextlib.suppress(DamagedRecordError):
            parse_example(bytes(data[: rng.randrange(len(data) + 1)]))


def test_tensorflow_reads_the_same(tmp_path: Path) -> None:
    import tensorflow as tf

    written = example(record(9))
    parsed = tf.train.Example.FromString(written)
    assert parsed.SerializeToString(deterministic=True) == written
    found = parse_example(written)
    for name, item in parsed.features.feature.items():
        assert list(getattr(item, item.WhichOneof("kind")).value) == found[name]


# --- one record ---


def test_a_record_of_a_shard_is_read(root: Path) -> None:
    index = read_index(root / f"index/{SHARD}.arrow")
    values = [parse_example(read_record(root / SHARD, index, i)) for i in range(len(index))]
    assert all(value["image"][0][1:4] == b"PNG" for value in values)


def test_a_damaged_record_says_where(root: Path) -> None:
    index = read_index(root / f"index/{SHARD}.arrow")
    offset = int(index.offsets[1])
    data = bytearray((root / SHARD).read_bytes())
    data[offset + 40] ^= 1
    (root / SHARD).write_bytes(data)
    with pytest.raises(DamagedRecordError, match=f"the CRC of the record at byte {offset} differs"):
        read_record(root / SHARD, index, 1)
    os.truncate(root / SHARD, offset + 3)
    with pytest.raises(DamagedRecordError, match=f"the file ends within the record at byte {offset}"):
        read_record(root / SHARD, index, 1)


def test_a_record_too_long_to_show_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_index(root / f"index/{SHARD}.arrow")
    monkeypatch.setattr("beam_jobs.examples.MAX_RECORD_BYTES", 100)
    with pytest.raises(DamagedRecordError, match=r"a record of \d+ bytes is too long to show"):
        read_record(root / SHARD, index, 0)


# --- values ---


@pytest.mark.parametrize(
    ("fields", "values", "text", "data"),
    [
        (
            {"type": "image", "formats": ["png"]},
            [png(0)],
            "png 4×5×3, 77 B",
            {"format": "png", "height": 4, "width": 5, "channels": 3, "bytes": 77},
        ),
        ({"type": "image"}, [b"hello"], "no known image, 5 B", {"format": "no known image", "bytes": 5}),
        (
            {"type": "image"},
            [b"\xff\xd8\xff\xe0"],
            "broken jpeg, 4 B",
            {"format": "broken jpeg", "bytes": 4},
        ),
        (
            {"type": "class_label", "names": ["a", "b"]},
            [1],
            "1 (b)",
            {"value": 1, "name": "b"},
        ),
        ({"type": "class_label", "names": ["a", "b"]}, [7], "7", 7),
        ({"type": "int64"}, [-3], "-3", -3),
        ({"type": "int64", "shape": [None]}, [-3], "[-3]", [-3]),
        ({"type": "int64", "shape": [None]}, [], "[]", []),
        (
            {"type": "int64", "shape": [20]},
            list(range(20)),
            "[0, 1, 2, 3, 4, 5, 6, 7, … 20 in all]",
            list(range(20)),
        ),
        ({"type": "float32"}, [struct.unpack("f", struct.pack("f", 0.1))[0]], "0.1", 0.1),
        ({"type": "float32"}, [float("nan")], "nan", "nan"),
        ({"type": "bool"}, [1], "true", True),
        ({"type": "text"}, ["a\nb\xe9".encode()], '"a\\nb\xe9"', "a\nb\xe9"),
        ({"type": "text"}, [b"\xff"], '"\\xff"', "\\xff"),
        ({"type": "bytes"}, [b"\x00\xab"], "00 ab (2 B)", {"bytes": 2, "hex": "00ab"}),
        (
            {"type": "bytes"},
            [bytes(2000)],
            "00 00 00 00 00 00 00 00 00 00 00 00… (2.0 KB)",
            {"bytes": 2000, "hex": "00" * 12},
        ),
    ],
)
def test_a_value_is_shown_and_given(fields: dict[str, Any], values: list[Any], text: str, data: Any) -> None:
    kind = feature(**fields)
    assert shown(kind, values) == text
    assert json_of(kind, values) == data


def test_a_value_of_no_known_feature_is_shown() -> None:
    assert (shown(None, [1, 2]), json_of(None, [1, 2])) == ("[1, 2]", [1, 2])


# --- the whole ---


def test_everything_is_in_the_text(root: Path) -> None:
    out = io.StringIO()
    print_inspection(inspect(root, records=1), out)
    lines = out.getvalue().splitlines()
    for line in (
        "pond 2.0.1",
        "Fish and reeds.",
        "  split  records  share  shards   bytes  a record",
        "  label (label)  class_label         2: fish, reed  values",
        "  ids            int64        [any]                 lengths",
        "  count          int64               -5 to 10,000",
        "  weights        float32      [3]",
        "  photos    48       40     5        3           0  balanced",
        "  photos: tiny  3 dropped",
        "Dead letters: validate.range, 3",
        "  p/4.png  no. 4",
        f"Record 0 of {SHARD}",
    ):
        assert line in lines, line
    assert sum(line.startswith("Record ") for line in lines) == 2


@pytest.mark.parametrize("count", [0, 2, 1000])
def test_as_many_records_of_each_split_are_shown(root: Path, count: int) -> None:
    records = inspect(root, records=count).records
    assert len(records) == 2 * min(count, 20)
    if count == 1000:
        whole = [parse_example(example(record(i))) for i in range(40)]
        assert sorted(r.values["count"] for r in records if r.values) == sorted(w["count"] for w in whole)


def test_fewer_than_no_records_are_refused(root: Path) -> None:
    with pytest.raises(HeadraceError, match="The number of records must not be negative"):
        inspect(root, records=-1)


def test_scripts_get_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_command(str(root), records=1, as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["splits"]["train"] == {"records": 20, "bytes": data["splits"]["train"]["bytes"], "shards": 4}
    assert (data["label"], data["indexed"]) == ("label", ["ids", "label", "title", "wet"])
    assert data["features"]["label"] == {
        "type": "class_label",
        "names": ["fish", "reed"],
        "description": "",
    }
    assert data["books"]["photos"]["dropped"] == {"tiny": 3}
    assert data["dead_letters"]["validate.decode"]["count"] == 2
    assert data["dead_letters"]["validate.decode"]["examples"][0] == {
        "source": "photos",
        "origin": "p/1.png",
        "reason": "no. 1",
    }
    assert data["records"][0]["values"]["label"]["name"] in ("fish", "reed")


def test_only_a_few_dead_letters_are_shown(tmp_path: Path) -> None:
    make(tmp_path / "d")
    table = pq.read_table(tmp_path / "d" / DEAD_LETTERS)
    pq.write_table(pa.concat_tables([table] * 50), tmp_path / "d" / DEAD_LETTERS)
    text = (tmp_path / "d" / MANIFEST).read_text()
    text = text.replace('"validate.range": 3', '"validate.range": 150')
    (tmp_path / "d" / MANIFEST).write_text(text)
    out = io.StringIO()
    print_inspection(inspect(tmp_path / "d"), out)
    assert "Dead letters: validate.range, 150, 3 of them" in out.getvalue()


def test_damage_is_told_and_the_rest_shown(root: Path) -> None:
    (root / f"index/{SHARD}.arrow").unlink()
    (root / DEAD_LETTERS).write_bytes(b"no parquet")
    data = bytearray((root / "pond-test.tfrecord-00000-of-00001").read_bytes())
    data[30] ^= 1
    (root / "pond-test.tfrecord-00000-of-00001").write_bytes(data)
    out = io.StringIO()
    print_inspection(inspect(root, records=1), out)
    assert "A shard's index is missing.; see `headrace verify`" not in out.getvalue()
    assert "A shard's index is missing; see `headrace verify`" in out.getvalue()
    assert "the CRC of the record at byte 0 differs; see `headrace verify`" in out.getvalue()
    assert f"{DEAD_LETTERS} cannot be read" in out.getvalue()
    problem = inspect(root, records=1).to_json()["records"][0]
    assert problem == {"split": "train", "shard": SHARD, "record": 0, "problem": "A shard's index is missing"}


def test_there_is_nothing_to_inspect(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="There is no data set here"):
        inspect(tmp_path)


# --- tables ---


def test_data_cannot_steer_the_terminal() -> None:
    assert visible("plain ünï") == "plain ünï"
    assert visible("\x1b[31m\n\x9b\u202e") == "\\x1b[31m\\n\\x9b\\u202e"
    out = io.StringIO()
    show([Facts("t\x1b", [("n\x07", "v\r")]), Table("t", ["a", ">b"], [("x\x1b", "1")])], out)
    assert out.getvalue().replace("\n", "").isprintable()


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_tables_that_fit(root: Path, width: int) -> None:
    code = (
        "from beam_jobs.inspect_dataset import inspect_command;"
        f"inspect_command({str(root)!r}, records=1, as_json=False)"
    )
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=slave, env=env) as process:
        os.close(slave)
        data = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # EIO: the other end is closed
                break
            data += piece
            if not piece:
                break
        assert process.wait() == 0
    os.close(master)
    text = data.decode().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "────" in text
    assert "[/" not in text
    assert max(len(line.rstrip("\r")) for line in text.split("\n")) <= width


def test_the_job_of_these_tests_is_valid() -> None:
    assert parse_spec(JOB).label == "label"
