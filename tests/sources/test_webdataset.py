from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import load_job, run
from beam_jobs.sources import Source, open_source
from schemas.errors import HeadraceError
from schemas.sources import WebDatasetSource

from .conformance import SourceSuite, faults_of, read_all, records_of, same

PER_SHARD = 10


def webdataset(place: Path | str, **options: object) -> Source:
    spec = WebDatasetSource(kind="webdataset", path="${data}", **options)  # type: ignore[arg-type]
    return open_source("samples", spec, str(place))


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(file: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file


def sample(number: int, text: str = "good") -> list[tuple[tarfile.TarInfo, bytes]]:
    return [
        member(f"{number:06d}.jpg", b"%06d" % number * 20),
        member(f"{number:06d}.cls", b"%d" % (number % 7)),
        member(f"{number:06d}.json", json.dumps({"text": text}).encode()),
    ]


class TestWebDataset(SourceSuite):
    suffix = ".tar"

    def shard(self, place: Path, first: int, count: int, text: str = "good") -> None:
        parts = [part for number in range(first, first + count) for part in sample(number, text)]
        tar(place / f"part-{first:06d}{self.suffix}", *parts)

    def write(self, place: Path, count: int) -> None:
        place.mkdir(exist_ok=True)
        for first in range(0, max(count, 1), PER_SHARD):
            self.shard(place, first, min(PER_SHARD, count - first))

    def append(self, place: Path) -> None:
        self.shard(place, 999_990, 1)

    def spoil(self, place: Path) -> set[str]:
        bad = [
            member("bad/1.cls", b"many"),
            member("bad/2.json", b"[" * 100_000),
            member("bad/3.jpg", bytes(5000)),
            member("bad/4.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("../../bad/5.jpg"),
            member("bad/6"),
            member("bad/7.mp3"),
        ]
        file = tar(place / f"part-900000{self.suffix}", *bad, *sample(900_000))
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        data = data[: data.index(b"900000.cls") + 512 + 100]
        file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
        return {
            "bad_type", "too_large", "not_a_file", "unsafe_name", "no_extension", "unexpected_field", "truncated_tar"
        }  # fmt: skip

    def change(self, place: Path) -> None:
        self.shard(place, 20, PER_SHARD, "GOOD")

    def open(self, place: Path) -> Source:
        return webdataset(f"{place}/*{self.suffix}", partition_bytes=100_000, max_sample_bytes=4000)


class TestPackedWebDataset(TestWebDataset):
    suffix = ".tar.gz"

    def test_partitions_say_how_much_they_hold(self, tmp_path: Path) -> None:
        """They cannot know."""
        self.write(tmp_path, 50)
        assert {partition.records for partition in self.open(tmp_path).partitions()} == {None}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_columns_of_a_record(tmp_path: Path, form: int) -> None:
    long = "ordner/" + "ü" * (20 if form == tarfile.USTAR_FORMAT else 90)
    tar(
        tmp_path / "a.tar",
        member("ordner", type=tarfile.DIRTYPE),
        member(f"{long}.seg.PNG", b"\xff"),
        member(f"{long}.cls", b" 12\n"),
        member(".hidden.jpg", b"no"),
        member("__MACOSX/._x.jpg", b"no"),
        member("x.y/b.txt", "grün".encode()),
        member("x.y/b.json", b"{}"),
        form=form,
    )
    nothing = dict.fromkeys(("cls", "json", "seg.png", "txt"))
    assert records_of(webdataset(tmp_path / "a.tar")) == [
        nothing | {"__key__": long, "__url__": "a.tar", "cls": 12, "seg.png": b"\xff"},
        nothing | {"__key__": "x.y/b", "__url__": "a.tar", "json": "{}", "txt": "grün"},
    ]
    fields = {"txt": "bytes", "CLS": "text"}
    assert records_of(webdataset(tmp_path / "a.tar", fields=fields)) == [
        {"__key__": long, "__url__": "a.tar", "cls": " 12\n", "txt": None},
        {"__key__": "x.y/b", "__url__": "a.tar", "cls": None, "txt": "grün".encode()},
    ]


def test_ranges_are_cut_where_samples_begin(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    parts = []
    for number in range(200):
        parts += [member(f"{number:04d}.jpg", chance.randbytes(chance.randrange(5000)))]
        parts += [member(f"{number:04d}.{name}", b"1") for name in ("cls", "id") if chance.random() < 0.7]
    tar(tmp_path / "a.tar", *parts)
    whole = webdataset(tmp_path / "a.tar", fields={"jpg": "bytes", "id": "int64"})
    cut = webdataset(tmp_path / "a.tar", fields={"jpg": "bytes", "id": "int64"}, partition_bytes=20_000)
    partitions = cut.partitions()
    assert 10 < len(partitions) <= 1 + (tmp_path / "a.tar").stat().st_size // 20_000
    assert records_of(cut) == records_of(whole)
    assert sum(partition.records or 0 for partition in partitions) == 200
    ends = [partition.payload["range"] for partition in partitions]
    assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]]


def test_batches_stay_small(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", *(member(f"{n}.bin", bytes(3 << 20)) for n in range(7)))
    batches = read_all(webdataset(tmp_path / "a.tar"))
    assert [len(batch.rows) for batch in batches] == [2, 2, 2, 1]


def raw(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A header with a size as it is given, and the right checksum."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


GOOD = raw("good.txt", b"2") + b"ok".ljust(512, b"\0")
END = bytes(1024)
HOSTILE: dict[str, tuple[bytes, list[tuple[int, str, str]]]] = {
    "a size beyond the end": (
        GOOD + raw("a.txt", b"77777777777") + b"x",
        [(1024, "truncated_tar", "'a.txt' at byte 1024: the archive ends in its 8589934591 bytes")],
    ),
    "a size of 2^88": (
        GOOD + raw("a.txt", b"\x80" + b"\xff" * 11) + b"x",
        [
            (
                1024,
                "truncated_tar",
                "'a.txt' at byte 1024: the archive ends in its 309485009821345068724781055 bytes",
            )
        ],
    ),
    "a size that is negative": (
        GOOD + raw("a.txt", b"-1") + GOOD + END,
        [(1024, "damaged_tar", "the archive at byte 1024: there is no header at byte 1024")],
    ),
    "a size of other digits": (
        GOOD + raw("a.txt", b"\xff" * 12) + GOOD + END,
        [(1024, "damaged_tar", "there is no header at byte 1024; what follows cannot be read")],
    ),
    "a damaged checksum": (
        GOOD + GOOD.replace(b"good", b"evil") + END,
        [(1024, "damaged_tar", "there is no header at byte 1024")],
    ),
    "half a header": (GOOD + GOOD[:300], [(1024, "truncated_tar", "there is no header at byte 1024")]),
    "a pax header of a gigabyte": (
        GOOD + raw("x", b"10000000000", b"x") + b"y" * 600,
        [(1024, "truncated_tar", "the archive ends in a header, at byte 1536")],
    ),
    "a pax header of 2 MiB": (
        GOOD + raw("x", b"10000000", b"x") + b"y" * (2 << 20) + raw("a.txt", b"0") + END,
        [(1024, "damaged_tar", "'a.txt' at byte 1024: a header of 2097152 bytes extends its own; 1048576")],
    ),
    "a pax header that lies about its lengths": (
        raw("x", b"20", b"x") + b"999 path=b.txt\n".ljust(512, b"\0") + raw("a.txt", b"0") + GOOD + END,
        [(0, "damaged_tar", "its extended header cannot be read")],
    ),
    "a pax size of many digits": (
        raw("x", b"60", b"x")
        + (b"48 size=" + b"9" * 39 + b"\n").ljust(512, b"\0")
        + raw("a.txt", b"0")
        + GOOD
        + END,
        [(0, "damaged_tar", "its extended header cannot be read")],
    ),
    "a thousand pax headers": (
        (raw("x", b"14", b"x") + b"12 path=../\n".ljust(512, b"\0")) * 1000 + raw("b", b"0") + GOOD + END,
        [(0, "unsafe_name", "member '../' at byte 0: its name leads out")],
    ),
    "an old sparse file": (
        raw("a.txt", b"0", b"S") + GOOD + END,
        [(0, "not_a_file", "member 'a.txt' at byte 0: it is a sparse file")],
    ),
    "a device with a size": (
        raw("a.txt", b"7777", b"3") + GOOD + END,
        [(0, "not_a_file", "member 'a.txt' at byte 0: it is a device")],
    ),
    "a hard link": (raw("a.txt", b"2", b"1") + GOOD + END, [(0, "not_a_file", "it is a hard link")]),
    "an unknown kind": (
        raw("a.txt", b"2", b"Z") + b"ok".ljust(512, b"\0") + GOOD + END,
        [(0, "not_a_file", "of the unknown kind b'Z'")],
    ),
    "a name that leads out": (
        raw("a/../../b.txt", b"0") + raw("/etc/b.txt", b"0") + GOOD + END,
        [
            (0, "unsafe_name", "member 'a/../../b.txt' at byte 0: its name leads out of the archive"),
            (512, "unsafe_name", "member '/etc/b.txt' at byte 512"),
        ],
    ),
    "a member twice": (
        raw("a.txt", b"0") + raw("a.TXT", b"0") + GOOD + END,
        [(0, "duplicate_member", "member 'a.TXT' at byte 512: the sample has .txt already")],
    ),
    "a sample of too many members": (
        b"".join(raw(f"a.{n}", b"0") for n in range(1001)) + GOOD + END,
        [(0, "too_many_members", "a sample has at most 1000")],
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tars(tmp_path: Path, case: str, packed: bool) -> None:
    data, expected = HOSTILE[case]
    file = tmp_path / ("a.tar.gz" if packed else "a.tar")
    file.write_bytes(gzip.compress(data) if packed else data)
    source = webdataset(file, fields={"txt": "text"})
    assert [record["txt"] for record in records_of(source)] == ["ok"]
    found = faults_of(source)
    assert len(found) == len(expected)
    for (origin, rule, reason), (offset, wanted, part) in zip(found, expected, strict=True):
        assert origin == (f"a.tar.gz, byte {offset} unpacked" if packed else f"a.tar, byte {offset}")
        if packed and rule == "too_large":  # where a stream ends, it does not know beforehand
            continue
        assert rule == wanted
        assert part in reason


def test_no_cut_and_no_flip_goes_unnoticed(tmp_path: Path) -> None:
    """Every sample that is read is one that was written; what is missing is told of by a fault."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    data = tar(tmp_path / "good.tar", *(part for n in range(3) for part in sample(n))).read_bytes()
    data = data[: data.rindex(b"}") + 512]
    good = records_of(webdataset(tmp_path / "good.tar"))
    fields = {"jpg": "bytes", "cls": "bytes", "json": "bytes"}
    for _ in range(100):
        bad = bytearray(data)
        if chance.random() < 0.5:
            del bad[chance.randrange(1, 9) * 512 + chance.randrange(1, 512) :]
        else:
            header = chance.randrange(9) * 1024
            bad[header + chance.randrange(100)] ^= 1 << chance.randrange(8)
        (tmp_path / "bad.tar").write_bytes(bad)
        source = webdataset(tmp_path / "bad.tar", fields=fields)
        found = [batch for partition in source.partitions() for batch in source.read(partition)]
        assert sum(len(batch.faults) for batch in found) in (1, 2)
        assert sum(len(batch.rows) for batch in found) < len(good)


def test_gzip_that_breaks_off_is_a_fault(tmp_path: Path) -> None:
    file = tar(
        tmp_path / "a.tar.gz", *(member(f"{n}.bin", random.Random(n).randbytes(9000)) for n in range(9))
    )
    file.write_bytes(file.read_bytes()[:-20_000])
    source = webdataset(file)
    assert len(records_of(source)) == 6
    assert [rule for _, rule, _ in faults_of(source)] == ["truncated_tar"]


def test_a_shard_that_changes_is_an_error(tmp_path: Path) -> None:
    file = tar(tmp_path / "a.tar", *sample(1))
    source = webdataset(file)
    (partition,) = source.partitions()
    tar(file, *sample(1, "else"))
    with pytest.raises(HeadraceError, match=r"(?s)A file was changed.*a\.tar"):
        list(source.read(partition))


def test_shards_of_nothing_are_an_error(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", member(".hidden", b"x"))
    with pytest.raises(HeadraceError, match=r"(?s)holds no file.*0001\.jpg"):
        webdataset(tmp_path / "a.tar").partitions()
    with pytest.raises(HeadraceError, match="holds no sample"):
        webdataset(tmp_path / "a.tar", fields={"jpg": "bytes"}).partitions()


def test_packed_shards_hold_the_same(tmp_path: Path) -> None:
    parts = [part for number in range(30) for part in sample(number)]
    plain, packed = tar(tmp_path / "a.tar", *parts), tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.rename(tmp_path / "b.tar.gz.tar")
    batches = read_all(webdataset(packed)), read_all(webdataset(tmp_path / "b.tar.gz.tar"))
    for batch in batches[1]:
        url = batch.records.schema.get_field_index("__url__")
        renamed = batch.records.set_column(url, "__url__", batches[0][0].records.column("__url__"))
        object.__setattr__(batch, "records", renamed)
    assert same(*batches)


JOB = """
name: digits
version: 1.0.0
vars: {data: unset}
sources:
  digits: {kind: webdataset, path: "${data}/*.tar", partition_bytes: 20_000}
features:
  image: {type: bytes, from: jpg}
  label: {type: int64, from: cls}
  meta: {type: text, from: json}
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: 2, max_dead_letters: 10%}
"""


def test_a_job_of_shards(tmp_path: Path) -> None:
    for first in (0, 50):
        parts = [part for number in range(first, first + 50) for part in sample(number)]
        tar(tmp_path / f"{first:02d}.tar", *parts, member("bad.cls", b"x"))
    (tmp_path / "job.yaml").write_text(JOB)
    result = run(load_job(tmp_path / "job.yaml", {"data": str(tmp_path)}), tmp_path / "out")
    books = result.manifest.books["digits"]
    assert (books.read, books.written, books.dead_lettered) == (102, 100, 2)
    assert (
        result.manifest.dead_letters == {"read.bad_type": 2}
        or sum(result.manifest.dead_letters.values()) == 2
    )
