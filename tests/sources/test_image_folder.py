from __future__ import annotations

import os
import random
import shutil
import stat
import tracemalloc
import uuid
from pathlib import Path

import fsspec
import pytest

from beam_jobs.listing import PartitionList
from beam_jobs.sources import Source, open_source
from beam_jobs.sources._places import listing, reading
from beam_jobs.sources.image_folder import ImageFolder
from schemas.errors import HeadraceError
from schemas.sources import ImageFolderSource

from .conformance import SourceSuite, faults_of, read_all, records_of, same


def folder(place: Path | str, **options: object) -> ImageFolder:
    spec = ImageFolderSource(kind="image_folder", path="${data}", **options)  # type: ignore[arg-type]
    source = open_source("photos", spec, str(place))
    assert isinstance(source, ImageFolder)
    return source


def put(place: Path, name: str, data: bytes = b"data") -> Path:
    file = place / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def paths(source: Source) -> list[str]:
    return sorted(record["path"] for record in records_of(source))


class TestImageFolder(SourceSuite):
    def write(self, place: Path, count: int) -> None:
        place.mkdir(exist_ok=True)
        for i in range(count):
            put(place, f"class{i % 3}/{i:04d}.jpg", b"%04d" % i * 100)

    def append(self, place: Path) -> None:
        put(place, "zz/last.jpg")

    def spoil(self, place: Path) -> set[str]:
        put(place, "class1/empty.jpg", b"")
        put(place, "class2/large.jpg", bytes(2000))
        (place / "class0/lost.jpg").symlink_to("nowhere.jpg")
        return {"empty_file", "too_large", "unreadable"}

    def change(self, place: Path) -> None:
        file = place / "class1/0004.jpg"
        before = file.stat()
        file.write_bytes(b"####" * 100)
        # As `rsync -t` leaves it: the change time must be enough to notice.
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def open(self, place: Path) -> Source:
        return folder(place, partition_files=10, max_file_bytes=1000)


class TestRemoteImageFolder(SourceSuite):
    """The same behind fsspec."""

    @pytest.fixture(autouse=True)
    def _bucket(self) -> object:
        self.bucket = f"memory://{uuid.uuid4().hex}"
        yield
        fs, path = fsspec.core.url_to_fs(self.bucket)
        if fs.exists(path):
            fs.rm(path, recursive=True)

    def put(self, name: str, data: bytes) -> None:
        with fsspec.open(f"{self.bucket}/{name}", "wb") as file:
            file.write(data)

    def write(self, place: Path, count: int) -> None:
        fsspec.filesystem("memory").makedirs(self.bucket.removeprefix("memory:/"), exist_ok=True)
        for i in range(count):
            self.put(f"class{i % 3}/{i:04d}.jpg", b"%04d" % i * 100)

    def append(self, place: Path) -> None:
        self.put("zz/last.jpg", b"data")

    def spoil(self, place: Path) -> set[str]:
        self.put("class1/empty.jpg", b"")
        self.put("class2/large.jpg", bytes(2000))
        return {"empty_file", "too_large"}

    def change(self, place: Path) -> None:
        self.put("class1/0004.jpg", b"####" * 100)

    def open(self, place: Path) -> Source:
        root = f"{self.bucket}/nowhere" if place.name == "nowhere" else self.bucket
        return folder(root, partition_files=10, max_file_bytes=1000)


def test_columns_of_a_record(tmp_path: Path) -> None:
    put(tmp_path, "a/b/cat.tar.JPG", b"meow")
    put(tmp_path, "flat.png", b"x")
    assert records_of(folder(tmp_path)) == [
        {
            "path": "a/b/cat.tar.JPG",
            "image": b"meow",
            "folder": "b",
            "name": "cat.tar.JPG",
            "stem": "cat.tar",
        },
        {"path": "flat.png", "image": b"x", "folder": "", "name": "flat.png", "stem": "flat"},
    ]


def test_folders_are_the_sorted_names_of_parents(tmp_path: Path) -> None:
    for name in ("flat.jpg", "dog/1.jpg", "cat/2.jpg", "deep/cat/3.jpg"):
        put(tmp_path, name)
    source = folder(tmp_path)
    assert source.folders(source.partitions()) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["**/*"], ["**/.*", "**/.*/**"], ["a.JPG", "a.txt", "x/b.jpg", "x/y/c.jpeg"]),
        (["*.jpg"], [], ["a.JPG"]),
        (["**/*.jpg", "x/**"], [], [".git/h.jpg", "a.JPG", "x/.hidden.jpg", "x/b.jpg", "x/y/c.jpeg"]),
        (["x/*"], ["**/.*"], ["x/b.jpg"]),
        (["x/"], ["**/.*", "**/y/**"], ["x/b.jpg"]),
        (["**/[a-b].*"], [], ["a.JPG", "a.txt", "x/b.jpg"]),
        (["**/[!a].jp*g"], ["**/.*/**"], ["x/b.jpg", "x/y/c.jpeg"]),
        (["?.txt"], [], ["a.txt"]),
    ],
)
def test_patterns(tmp_path: Path, include: list[str], exclude: list[str], expected: list[str]) -> None:
    for name in ("a.JPG", "a.txt", "x/b.jpg", "x/y/c.jpeg", "x/.hidden.jpg", ".git/h.jpg"):
        put(tmp_path, name)
    assert paths(folder(tmp_path, include=include, exclude=exclude)) == expected


def test_names_with_newlines_blanks_and_unicode(tmp_path: Path) -> None:
    names = ["two\nlines.jpg", " blank .jpg", "köln/日本.jpg", "a*b[c].jpg", 'q"uote.jpg', "back\\slash.jpg"]
    for name in names:
        put(tmp_path, name, name.encode())
    source = folder(tmp_path)
    records = records_of(source)
    assert sorted(record["path"] for record in records) == sorted(names)
    assert all(record["image"] == record["path"].encode() for record in records)
    keys = [key for batch in read_all(source) for key in batch.keys.to_pylist()]
    assert sorted(keys) == sorted(name.encode() for name in names)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    for name in (b"caf\xe9.jpg", b"caf\xe8.jpg", rb"caf\xe9.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    source = folder(tmp_path)
    batches = read_all(source)
    keys = [key for batch in batches for key in batch.keys.to_pylist()]
    assert sorted(keys) == sorted([b"caf\xe9.jpg", b"caf\xe8.jpg", rb"caf\xe9.jpg"])
    assert {record["path"] for record in records_of(source)} == {r"caf\xe9.jpg", r"caf\xe8.jpg"}
    assert all(record["image"] in keys for record in records_of(source))
    assert same(batches, read_all(folder(tmp_path)))


def test_loops_of_links_end(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/here").symlink_to(".")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert paths(folder(tmp_path)) == ["a/1.jpg"]
    assert [(origin, rule) for origin, rule, _ in faults_of(folder(tmp_path))] == [("self.jpg", "unreadable")]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "real/1.jpg", b"one")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.jpg").symlink_to("../real/1.jpg")
    (root / "cat").symlink_to("../real")
    (root / "dog").symlink_to("../real")
    assert paths(folder(root)) == ["cat/1.jpg", "dog/1.jpg", "link.jpg"]
    assert {record["image"] for record in records_of(folder(root))} == {b"one"}


def test_pipes_and_sockets_are_no_records(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert stat.S_ISFIFO((tmp_path / "pipe.jpg").stat().st_mode)
    assert paths(folder(tmp_path)) == ["a.jpg"]


def test_a_file_that_becomes_a_pipe_blocks_nobody(tmp_path: Path) -> None:
    file = put(tmp_path, "a.jpg")
    source = folder(tmp_path)
    (partition,) = source.partitions()
    file.unlink()
    os.mkfifo(file)
    (batch,) = source.read(partition)
    assert [fault.rule for fault in batch.faults] == ["changed_while_reading"]


@pytest.mark.parametrize("how", ["gone", "shorter", "longer", "touched", "replaced"])
def test_files_that_change_after_listing_are_faults(tmp_path: Path, how: str) -> None:
    put(tmp_path, "a.jpg", b"aaaa")
    file = put(tmp_path, "b.jpg", b"bbbb")
    put(tmp_path, "c.jpg", b"cccc")
    source = folder(tmp_path)
    (partition,) = source.partitions()
    if how == "gone":
        file.unlink()
    elif how == "replaced":
        status = file.stat()
        put(tmp_path, "new", b"BBBB").replace(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        file.write_bytes({"shorter": b"b", "longer": b"bbbbb", "touched": b"bbbb"}[how])
    (batch,) = source.read(partition)
    assert batch.records.column("image").to_pylist() == [b"aaaa", b"cccc"]
    assert batch.rows.tolist() == [0, 2]
    (fault,) = batch.faults
    assert (fault.row, fault.rule) == (1, "changed_while_reading")
    assert source.origin(partition, fault.row) == "b.jpg"


@pytest.mark.parametrize("how", ["gone", "shorter", "longer"])
def test_remote_files_that_change_after_listing_are_faults(how: str) -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    fs.pipe({f"{root}/a.jpg": b"aaaa", f"{root}/b.jpg": b"bbbb"})
    source = folder(f"memory:/{root}")
    (partition,) = source.partitions()
    if how == "gone":
        fs.rm(f"{root}/b.jpg")
    else:
        fs.pipe(f"{root}/b.jpg", b"b" if how == "shorter" else b"bbbbb")
    (batch,) = source.read(partition)
    fs.rm(root, recursive=True)
    assert batch.records.column("image").to_pylist() == [b"aaaa"]
    assert [fault.rule for fault in batch.faults] == ["changed_while_reading"]


def test_unreadable_files_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.jpg")
    put(tmp_path, "b.jpg")
    real = os.open

    def refusing(path: str, *args: int) -> int:
        if path.endswith("b.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args)

    # Not by chmod: the tests may run as root.
    monkeypatch.setattr(reading.os, "open", refusing)
    assert faults_of(folder(tmp_path)) == [("b.jpg", "unreadable", "Permission denied")]
    assert paths(folder(tmp_path)) == ["a.jpg"]


def test_unreadable_folders_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/b.jpg")
    put(tmp_path, ".hidden/c.jpg")
    real = os.open

    def refusing(path: str, *arguments: int) -> int:
        if path.endswith(("a/", ".hidden/")):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *arguments)

    # Not by chmod: the tests may run as root.
    monkeypatch.setattr(listing.os, "open", refusing)
    with pytest.raises(
        HeadraceError, match=r"A folder cannot be read\.\n.*/a\n.*Permission denied\n.*exclude"
    ):
        list(folder(tmp_path).partitions())
    with pytest.raises(HeadraceError, match="The folder holds no file"):
        list(folder(tmp_path, exclude=["a/**", "**/.*/**"]).partitions())


def test_a_missing_folder_says_what_is_there(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg")
    with pytest.raises(HeadraceError, match=r"(?s)There is no such folder.*holds images/\."):
        list(folder(tmp_path / "imgs").partitions())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="is a file, not a folder"):
        list(folder(put(tmp_path, "a.jpg")).partitions())


def test_no_match_says_what_was_found(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.txt", "LICENSE"):
        put(tmp_path, name)
    with pytest.raises(HeadraceError, match=r"(?s)No file.*2 × \.png.*1 × \.txt.*the first is 'LICENSE'"):
        list(folder(tmp_path, include=["**/*.jpg"]).partitions())


def test_patterns_that_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    with pytest.raises(HeadraceError, match=r"(?s)A file pattern cannot be read.*\[z-a\].*ranges"):
        list(folder(tmp_path, include=["[z-a].jpg"]).partitions())


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "photos/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths(folder("~/photos")) == ["a.jpg"]


def test_large_files_have_batches_of_their_own(tmp_path: Path) -> None:
    sizes = {"a": 5 << 20, "b": 5 << 20, "c": 9 << 20, "d": 1 << 20, "e": 1 << 20}
    for name, size in sizes.items():
        put(tmp_path, f"{name}.jpg", bytes(size))
    (partition,) = folder(tmp_path).partitions()
    batches = list(folder(tmp_path).read(partition))
    assert [batch.records.column("name").to_pylist() for batch in batches] == [
        ["a.jpg"],
        ["b.jpg"],
        ["c.jpg"],
        ["d.jpg", "e.jpg"],
    ]


def test_an_added_file_disturbs_only_its_own_chunk(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    names = [f"{random.Random(seed + i).getrandbits(64):016x}.jpg" for i in range(600)]
    for name in names:
        put(tmp_path, name)
    partitions = list(folder(tmp_path, partition_files=16).partitions())
    assert max(partition.records or 0 for partition in partitions) <= 64
    before = [partition.identity for partition in partitions]
    assert 10 < len(before) < 150
    put(tmp_path, "8added.jpg")
    after = [partition.identity for partition in folder(tmp_path, partition_files=16).partitions()]
    lost = [identity for identity in before if identity not in after]
    # One chunk, or two where the file begins a chunk of its own or splits one that was full.
    assert len(lost) <= 1
    assert len([identity for identity in after if identity not in before]) <= 3


@pytest.mark.parametrize(("options", "most"), [({}, 64 << 20), ({"partition_bytes": "25 MiB"}, 25 << 20)])
def test_chunks_are_capped_by_bytes(options: dict[str, str], most: int, tmp_path: Path) -> None:
    for i in range(40):
        with open(tmp_path / f"{i}.jpg", "wb") as file:
            file.truncate(10 << 20)
    partitions = list(folder(tmp_path, **options).partitions())
    assert sum(partition.records or 0 for partition in partitions) == 40
    assert most // 2 < max(partition.bytes for partition in partitions) <= most


def test_a_file_above_the_cap_is_a_chunk_by_itself(tmp_path: Path) -> None:
    for i in range(5):
        put(tmp_path, f"{i}.jpg")
    assert [p.records for p in folder(tmp_path, partition_bytes=1).partitions()] == [1] * 5


def test_moving_the_folder_keeps_keys_and_chunks(tmp_path: Path) -> None:
    for i in range(30):
        put(tmp_path, f"a/{i}.jpg", b"%d" % i)
    source = folder(tmp_path / "a", partition_files=5)
    before = list(source.partitions())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    after = list(folder(tmp_path / "b", partition_files=5).partitions())
    names = [
        [[source.origin(partition, row) for row in range(partition.records or 0)] for partition in some]
        for some in (before, after)
    ]
    assert names[0] == names[1]


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """Of what lists them; the command that submits a job would hold a billion names."""
    for number in range(40):
        for name in range(250):
            put(tmp_path, f"{number:02}/{name:03}.jpg")

    def peak(folders: str) -> int:
        tracemalloc.start()
        listed = PartitionList(folder(tmp_path, include=[folders], partition_files=64).partitions())
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(partition.records or 0 for partition in listed) == (2500 if folders == "0*/*" else 10_000)
        return used

    peak("0*/*")  # what is loaded once
    assert peak("**/*") < 1.5 * peak("0*/*")
