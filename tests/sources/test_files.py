from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_jobs import load_job, run
from beam_jobs.sources import Source, open_source
from beam_jobs.sources.files import Listing
from schemas.errors import HeadraceError
from schemas.sources import FilesSource, ImageFolderSource

from .conformance import SourceSuite, faults_of, records_of
from .test_image_folder import put


def files(place: Path | str, **options: object) -> Source:
    spec = FilesSource(kind="files", path="${data}", **options)  # type: ignore[arg-type]
    return open_source("texts", spec, str(place))


class TestFiles(SourceSuite):
    def write(self, place: Path, count: int) -> None:
        place.mkdir(exist_ok=True)
        for i in range(count):
            put(place, f"class{i % 3}/{i:04d}.txt", f"{i:04d} é".encode())

    def append(self, place: Path) -> None:
        put(place, "zz/last.txt")

    def spoil(self, place: Path) -> set[str]:
        put(place, "class1/latin.txt", b"caf\xe9")
        put(place, "class1/stray name.txt")
        put(place, "class2/large.txt", bytes(2000))
        (place / "class0/lost.txt").symlink_to("nowhere.txt")
        return {"invalid_utf8", "no_match", "too_large", "unreadable"}

    def change(self, place: Path) -> None:
        put(place, "class1/0004.txt", "#### é".encode())

    def open(self, place: Path) -> Source:
        pattern = r"(?P<label>\w+)/(?P<id>\w+)\.txt"
        return files(place, partition_files=10, max_file_bytes=1000, text=True, pattern=pattern)


def test_columns_of_a_record(tmp_path: Path) -> None:
    put(tmp_path, "a/b/bark.tar.WAV", b"wuff\xff")
    put(tmp_path, "empty", b"")
    assert records_of(files(tmp_path)) == [
        {
            "path": "a/b/bark.tar.WAV",
            "data": b"wuff\xff",
            "size": 5,
            "folder": "b",
            "name": "bark.tar.WAV",
            "stem": "bark.tar",
            "suffix": ".WAV",
        },
        {
            "path": "empty",
            "data": b"",
            "size": 0,
            "folder": "",
            "name": "empty",
            "stem": "empty",
            "suffix": "",
        },
    ]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("{label}/{id}.jpg", "cat/1.jpg", {"label": "cat", "id": "1"}),
        ("{label}/{id}.jpg", "cat/dog/1.jpg", None),
        ("**/{label}/{id}.jpg", "cat/dog/1.jpg", {"label": "dog", "id": "1"}),
        ("**/{label}/{id}.jpg", "dog/1.jpg", {"label": "dog", "id": "1"}),
        ("{label}_{id}.*", "great_white_shark_007.jpeg", {"label": "great_white_shark", "id": "007"}),
        ("{split}/**", "train/x/y.png", {"split": "train"}),
        ("{label}/{n}.jpg", "a.b/1xjpg", None),
        ("?{rest}", "köln", {"rest": "öln"}),
        ("{a}\n{b}", "1\n2", {"a": "1", "b": "2"}),
        (r"(?P<label>[a-z]+)(?:-(?P<n>\d+))?\.jpg", "cat-12.jpg", {"label": "cat", "n": "12"}),
        (r"(?P<label>[a-z]+)(?:-(?P<n>\d+))?\.jpg", "cat.jpg", {"label": "cat", "n": ""}),
        (r"(?P<label>[a-z]+)", "cat.jpg", None),
        (r"(?P<label>cat)|(?P<other>dog)", "dog", {"label": "", "other": "dog"}),
    ],
)
def test_patterns_name_columns(
    tmp_path: Path, pattern: str, path: str, expected: dict[str, str] | None
) -> None:
    put(tmp_path, path)
    source = files(tmp_path, pattern=pattern)
    columns = source.columns()[7:]
    found = [{name: record[name] for name in columns} for record in records_of(source)]
    assert found == ([] if expected is None else [expected])
    if expected is None:
        reason = f"the path does not match the pattern {pattern!r}"
        assert faults_of(source) == [(path, "no_match", reason)]
        with pytest.raises(HeadraceError, match=re.escape(pattern)):
            list(files(tmp_path, pattern=pattern, unmatched="exclude").partitions())


def test_image_folders_have_patterns_too(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.jpg")
    put(tmp_path, "README.md")
    spec = ImageFolderSource(
        kind="image_folder", path="x", pattern="{split}/{label}/*.jpg", unmatched="exclude"
    )
    (record,) = records_of(open_source("photos", spec, str(tmp_path)))
    assert list(record) == ["path", "image", "folder", "name", "stem", "split", "label"]
    assert (record["split"], record["label"]) == ("train", "cat")


def test_no_pattern_takes_long(tmp_path: Path) -> None:
    """What would take a backtracking engine for ever; the suite's own time limit is the judge."""
    put(tmp_path, "a" * 240)
    source = files(tmp_path, pattern=r"(?:(?P<a>(?:a*)*)*(?P<b>(?:a|aa)+)+)+b")
    assert [rule for _, rule, _ in faults_of(source)] == ["no_match"]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("*.jpg", "names no column"),
        ("{name}.jpg", "'name', which is a column already"),
        ("{a}/{a}", "'a', which is a column already"),
        ("{1}/x", "a name begins with a letter"),
    ],
)
def test_patterns_that_name_no_new_column(pattern: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        FilesSource(kind="files", path="x", pattern=pattern)


@pytest.mark.parametrize("pattern", [r"(?P<a>[)", r"(?P<a>x)(?=y)", r"(?P<a>(((x{999}){999}){999}))"])
def test_patterns_that_cannot_be_read(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(
        HeadraceError, match=r"(?s)The pattern of paths cannot be read.*sources\.texts\.pattern"
    ):
        files(tmp_path, pattern=pattern)


def test_text_that_is_no_utf8_says_where(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "grün".encode())
    put(tmp_path, "b.txt", b"gr\xfcn")
    put(tmp_path, "c.txt", b"")
    source = files(tmp_path, text=True)
    assert [record["text"] for record in records_of(source)] == ["grün", ""]
    assert faults_of(source) == [("b.txt", "invalid_utf8", "byte 0xfc at offset 2 is not UTF-8")]


JOB = """
name: notes
version: 1.0.0
vars: {data: unset}
sources:
  notes: {kind: files, path: "${data}/notes", text: true, pattern: "{label}/{writer}_*.txt", partition_files: 8}
features:
  text: {type: text}
  label: {type: class_label, names: [good, bad]}
  writer: {type: text}
  size: {type: int64}
label: label
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: 2, max_dead_letters: 10%}
"""


def test_a_job_of_text_files(tmp_path: Path) -> None:
    for i in range(60):
        put(tmp_path, f"notes/{'good' if i % 3 else 'bad'}/w{i % 7}_{i}.txt", f"note {i}".encode())
    put(tmp_path, "notes/good/w1_broken.txt", b"\xff")
    put(tmp_path, "notes/good/nobody.txt")
    (tmp_path / "job.yaml").write_text(JOB)
    result = run(load_job(tmp_path / "job.yaml", {"data": str(tmp_path)}), tmp_path / "out")
    books = result.manifest.books["notes"]
    assert (books.read, books.written, books.dead_lettered) == (62, 60, 2)
    letters = pq.read_table(Path(result.path) / "dead_letters/dead_letters.parquet").to_pylist()
    assert {(letter["origin"], letter["rule"]) for letter in letters} == {
        ("good/w1_broken.txt", "invalid_utf8"),
        ("good/nobody.txt", "no_match"),
    }


@pytest.mark.parametrize(
    "paths",
    [
        ["a.txt"],
        ["a/b.txt", "\u65e5\u672c/\udcff\udc80.txt", " ", "\n"],
        ["nul\0 in a bucket", "\1", "\0", "{"],
    ],
)
def test_listings_come_back_as_they_were(paths: list[str]) -> None:
    """Of a bucket, and with a file that cannot be looked at."""
    for version in ("12 34", {"ETag": '"a\0b"', "updated": "now"}, 40, ""):
        listing = Listing(paths, list(range(-1, len(paths) - 1)), ["1 2"] * (len(paths) - 1) + [version])
        assert Listing.decode(listing.encode()) == listing
