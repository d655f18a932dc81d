"""Archives that lie, and files inside of archives that do not."""

from __future__ import annotations

import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.sources import Source, open_source
from beam_jobs.sources._places import zip as _zip
from beam_jobs.sources._places.listing import list_files
from schemas.errors import HeadraceError
from schemas.sources import FilesSource

from .conformance import SourceSuite, faults_of, records_of


def inside(place: Path | str, folder: str = "", **options: Any) -> Source:
    spec = FilesSource(kind="files", path="${data}", **options)
    return open_source("files", spec, f"zip://{folder}::{place}")


def archive(place: Path, members: dict[str, bytes]) -> Path:
    file = place / "all.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return file


class TestFilesOfAnArchive(SourceSuite):
    members: dict[str, bytes]

    def write(self, place: Path, count: int) -> None:
        self.members = {f"class{i % 3}/{i:04d}.txt": b"%04d" % i * 50 for i in range(count)}
        archive(place, self.members)

    def append(self, place: Path) -> None:
        archive(place, {**self.members, "zz/last.txt": b"data"})

    def spoil(self, place: Path) -> set[str]:
        self.members |= {"class1/latin.txt": b"caf\xe9", "class2/large.txt": bytes(2000)}
        file = archive(place, {**self.members, "class1/broken.txt": b"0123456789" * 20})
        data = bytearray(file.read_bytes())
        data[data.index(b"class1/broken.txt") + 20] ^= 1
        file.write_bytes(data)
        return {"invalid_utf8", "too_large", "unreadable"}

    def change(self, place: Path) -> None:
        archive(place, {**self.members, "class1/0004.txt": b"####" * 50})

    def open(self, place: Path) -> Source:
        return inside(place / "all.zip", text=True, partition_files=10, max_file_bytes=1000)

    def test_a_missing_source_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(HeadraceError, match="There is no such file"):
            list(self.open(tmp_path / "nowhere").partitions())
        with pytest.raises(HeadraceError, match="There is no such folder"):
            list(inside(archive(tmp_path, {"a": b""}), "b").partitions())


def entry(
    name: bytes, at: int, stored: bytes, size: int, crc: int = 0, method: int = 8, flags: int = 0
) -> bytes:
    sizes = (crc, len(stored), size, len(name), 0, 0, 0, 0, 0, at)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, flags, method, 0, 33, *sizes) + name


def local(name: bytes, stored: bytes, size: int, crc: int = 0, method: int = 8) -> bytes:
    sizes = (crc, len(stored), size, len(name), 0)
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 33, *sizes) + name + stored


def ending(entries: int, length: int, at: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, length, at, 0)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


def hand_made(file: Path, name: bytes, stored: bytes, size: int, count: int = 1, **fields: int) -> Path:
    """An archive of one member, to which `count` entries of the directory point."""
    body = local(name, stored, size, fields.get("crc", 0))
    names = [name] if count == 1 else [b"%s%d" % (name, number) for number in range(count)]
    directory = b"".join(entry(each, 0, stored, size, **fields) for each in names)
    file.write_bytes(body + directory + ending(count, len(directory), len(body)))
    return file


@pytest.mark.parametrize(
    ("name", "stored", "size", "fields", "problem"),
    [
        (b"../../etc/passwd", b"x", 1, {}, "member '../../etc/passwd'"),
        (b"/etc/passwd", b"x", 1, {}, "member '/etc/passwd'"),
        (b"a\\..\\b", b"x", 1, {}, "names that stay within"),
        (b"a\0b", b"x", 1, {}, "names that stay within"),
        (b"a//b", b"x", 1, {}, "names that stay within"),
        (b"bomb", deflated(bytes(100_000)), 3 << 30, {}, "unpack to 3221225472"),
        (b"bomb", b"x", 1 << 20, {"method": 0}, "1 bytes that unpack to 1048576"),
        (b"secret", b"x" * 20, 8, {"flags": 1}, "not encrypted"),
        (b"other", b"x" * 20, 8, {"method": 14}, "stored or deflated"),
        (b"many", deflated(bytes(100_000)), 100_000, {"count": 100}, "do not overlap"),
    ],
)
def test_archives_that_could_do_harm_are_refused(
    tmp_path: Path, name: bytes, stored: bytes, size: int, fields: dict[str, int], problem: str
) -> None:
    file = hand_made(tmp_path / "all.zip", name, stored, size, **fields)
    with pytest.raises(HeadraceError) as caught:
        list(inside(file).partitions())
    assert caught.value.what == "The archive is not read, as it could do harm."
    assert problem in f"{caught.value.value} {caught.value.allowed}"


def test_links_and_repeated_names_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(HeadraceError, match="a symbolic link"):
        list(inside(tmp_path / "link.zip").partitions())
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as opened:
        opened.writestr("a", "1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("a", "2")
    with pytest.raises(HeadraceError, match="member 'a' twice"):
        list(inside(tmp_path / "twice.zip").partitions())


@pytest.mark.parametrize("says", [10, 90_000])
def test_a_member_that_is_larger_than_it_says_is_a_fault(tmp_path: Path, says: int) -> None:
    """What it unpacks to beyond what was said is never held."""
    file = hand_made(
        tmp_path / "all.zip", b"bomb", deflated(bytes(64 << 20)), says, crc=zlib.crc32(bytes(says))
    )
    source = inside(file)
    (partition,) = source.partitions()
    tracemalloc.start()
    (batch,) = source.read(partition)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(batch.rows) + len(batch.faults) == 1
    assert peak < 16 << 20


def test_directories_of_any_length_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zip, "_MAX_DIRECTORY_BYTES", 1000)
    file = archive(tmp_path, {f"{number}": b"" for number in range(100)})
    with pytest.raises(HeadraceError, match=r"(?s)a directory of \d+ bytes.*at most 1000"):
        list(inside(file).partitions())


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"no archive at all" * 10, ending(5, 500, 0), ending(1, 46, 0) * 9]
)
def test_what_is_no_archive_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "all.zip").write_bytes(data)
    with pytest.raises(HeadraceError, match=r"(?s)The archive cannot be read.*all\.zip"):
        list(inside(tmp_path / "all.zip").partitions())


def test_paths_into_archives(tmp_path: Path) -> None:
    file = archive(tmp_path, {"a/b/c.txt": b"1", "a/d.txt": b"2", "ä.txt": b"3", "empty/": b""})
    assert [record["path"] for record in records_of(inside(file, "a"))] == ["b/c.txt", "d.txt"]
    assert sorted(record["path"] for record in records_of(inside(file))) == ["a/b/c.txt", "a/d.txt", "ä.txt"]
    assert faults_of(inside(file)) == []
    for wrong, problem in (
        ("zip://a.zip", "place is missing"),
        (f"zip://a::zip://b::{file}", "in an archive"),
    ):
        spec = FilesSource(kind="files", path="x")
        with pytest.raises(HeadraceError, match=problem):
            list(open_source("files", spec, wrong).partitions())


def test_what_is_listed_is_sorted_and_not_held(tmp_path: Path) -> None:
    numbers = sorted(range(3000), key=lambda number: number % 7)
    file = archive(tmp_path, {f"some/{number:05d}.txt": b"text" for number in numbers})
    root = f"zip://some::{file}"
    assert next(list_files(root, lambda _: False)).path == "00000.txt"  # the archive's directory is read now
    tracemalloc.start()
    try:
        last, count = "", 0
        for each in list_files(root, lambda _: False):
            assert each.path > last
            last, count = each.path, count + 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 3000
    assert peak < 100 * count
