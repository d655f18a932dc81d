"""`headrace verify`: an intact data set is intact, and any difference is found to its place."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import entry_of, frame, make, masked_crc

from beam_jobs import frames
from beam_jobs.check_files import MAX_PROBLEMS, Problem
from beam_jobs.cli import main
from beam_jobs.verify import Report, describe, print_report, verify, verify_command
from schemas import HeadraceError, Manifest, read_index, read_manifest
from schemas.index import encode_index
from schemas.manifest import FileEntry, all_files
from schemas.naming import DATASET_INFO, DEAD_LETTERS, MANIFEST

SHARD = "pond-train.tfrecord-00001-of-00004"
INDEX = f"index/{SHARD}.arrow"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "pond"
    make(root, records=80)
    return root


@pytest.fixture
def root(intact: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "pond"))


def rewrite(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another manifest, sealed: what a faulty writer would have committed."""
    data = json.loads((root / MANIFEST).read_text("utf-8"))
    del data["seal"]
    change(data)
    (root / MANIFEST).write_text(Manifest.model_validate(data).to_json(), "utf-8")


def relist(root: Path) -> None:
    """The manifest with sizes and hashes of the files as they are now."""

    def entry(old: FileEntry) -> FileEntry:
        return old.model_copy(update=dict(entry_of(root, old.path)))

    manifest = read_manifest(root)
    splits = {
        name: split.model_copy(
            update={"shards": [entry(s).model_copy(update={"index": entry(s.index)}) for s in split.shards]}
        )
        for name, split in manifest.splits.items()
    }
    files = [entry(file) for file in manifest.files]
    changed = manifest.model_copy(update={"splits": splits, "files": files})
    (root / MANIFEST).write_text(changed.to_json(), "utf-8")


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def only(report: Report, file: str) -> list[Problem]:
    assert not report.ok
    assert {problem.file for problem in report.problems} == {file}
    return list(report.problems)


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_an_intact_data_set_is_intact(intact: Path, threads: int | None) -> None:
    read: list[int] = []
    report = verify(intact, threads=threads, progress=read.append)
    assert report.problems == ()
    assert (report.ok, report.name, report.version, report.records) == (True, "pond", "2.0.1", 80)
    listed = all_files(read_manifest(intact))
    assert (report.files, report.bytes) == (len(listed), sum(entry.bytes for entry in listed))
    indexes = sum(entry.bytes for entry in listed if entry.path.startswith("index/"))
    assert sum(read) == report.bytes - indexes


def test_empty_shards_are_intact(tmp_path: Path) -> None:
    make(tmp_path / "d", records=2, shards={"train": 4, "test": 1})
    assert verify(tmp_path / "d").problems == ()


def test_a_flipped_byte_anywhere_is_found_in_its_file_and_record(intact: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADRACE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"HEADRACE_TEST_SEED={seed}")
    rng = random.Random(seed)
    root = Path(shutil.copytree(intact, tmp_path / "pond"))
    listed = {entry.path: entry.bytes for entry in all_files(read_manifest(root)) if entry.bytes}
    listed[MANIFEST] = (root / MANIFEST).stat().st_size
    for path, size in sorted(listed.items()):
        for offset in [0, size - 1, *(rng.randrange(size) for _ in range(12))]:
            bit = rng.randrange(8)
            flip(root / path, offset, bit)
            report = verify(root, threads=1)
            assert report.problems, (path, offset, bit)
            # A manifest that was changed may accuse others, but itself first.
            found = report.problems[0] if path == MANIFEST else only(report, path)[0]
            assert found.file == path, (path, offset, bit, report.problems)
            if ".tfrecord" in path and "index" not in path:
                index = read_index(root / f"index/{path}.arrow")
                record = int(np.searchsorted(index.offsets, np.uint64(offset), side="right")) - 1
                assert (found.record, found.offset) == (record, int(index.offsets[record])), (
                    path,
                    offset,
                    bit,
                )
                assert found.key_hash == index.key_hashes[record].tobytes().hex()
            flip(root / path, offset, bit)
    assert verify(root).ok


@pytest.mark.parametrize(
    ("place", "what"),
    [
        (0, "the CRC of its length differs"),
        (9, "the CRC of its length differs"),
        (12, "the CRC of its data differs"),
        (-1, "the CRC of its data differs"),
    ],
)
def test_which_part_of_a_frame_differs_is_said(root: Path, place: int, what: str) -> None:
    index = read_index(root / INDEX)
    start = int(index.offsets[3])
    flip(root / SHARD, start + (place if place >= 0 else int(index.lengths[3]) + place))
    first, second = only(verify(root), SHARD)
    assert (first.record, first.offset, first.what) == (3, start, what)
    assert second.what == "its SHA-256 differs"


def test_several_damaged_records_are_each_found(root: Path) -> None:
    index = read_index(root / INDEX)
    for record in (0, 2, len(index) - 1):
        flip(root / SHARD, int(index.offsets[record]) + 20)
    found = only(verify(root), SHARD)
    assert [problem.record for problem in found] == [0, 2, len(index) - 1, None]


def test_a_frame_of_another_length_is_found_though_its_crcs_fit(root: Path) -> None:
    index = read_index(root / INDEX)
    start, size = int(index.offsets[1]), int(index.lengths[1]) - 16
    data = bytearray((root / SHARD).read_bytes())
    length = struct.pack("<Q", size + 1)
    data[start : start + 12] = length + struct.pack("<I", masked_crc(length))
    (root / SHARD).write_bytes(data)
    found = only(verify(root), SHARD)[0]
    assert (found.record, found.what) == (1, "its length differs from the index")
    assert (found.expected, found.found) == (f"{size} bytes", f"{size + 1} bytes")


def test_a_file_of_other_bytes_is_told_of_in_few_lines(root: Path) -> None:
    size = (root / SHARD).stat().st_size
    (root / SHARD).write_bytes(bytes(size))
    found = only(verify(root), SHARD)
    assert len(found) <= MAX_PROBLEMS + 2
    index = read_index(root / INDEX)
    if len(index) > MAX_PROBLEMS:
        assert found[-2].what == f"{len(index) - MAX_PROBLEMS} more records with such a problem"


@pytest.mark.parametrize("inside", [0, 5, 12, -1])
def test_a_truncated_shard_is_cut_within_a_record(root: Path, inside: int) -> None:
    index = read_index(root / INDEX)
    start = int(index.offsets[4])
    size = start + (inside if inside >= 0 else int(index.lengths[4]) - 1)
    os.truncate(root / SHARD, size)
    first, second, third = only(verify(root), SHARD)
    assert (first.record, first.offset, first.what) == (4, start, "the file ends within it")
    assert first.found == f"{size - start} bytes"
    assert (second.what, second.found) == ("its size differs", f"{size} bytes")
    assert third.what == "its SHA-256 differs"


def test_bytes_after_the_last_record_are_found(root: Path) -> None:
    end = (root / SHARD).stat().st_size
    with open(root / SHARD, "ab") as file:
        file.write(b"xyz")
    found = only(verify(root), SHARD)
    assert (found[0].what, found[0].offset) == ("3 bytes follow its last record", end)


def test_an_emptied_file_is_found(root: Path) -> None:
    os.truncate(root / SHARD, 0)
    assert only(verify(root), SHARD)[0].what == "the file ends within it"


def test_swapped_shards_are_named(root: Path) -> None:
    other = SHARD.replace("00001-of", "00002-of")
    (root / SHARD).rename(root / "x")
    (root / other).rename(root / SHARD)
    (root / "x").rename(root / other)
    report = verify(root)
    assert [(p.file, p.what) for p in report.problems] == [
        (SHARD, f"holds the bytes of {other}"),
        (other, f"holds the bytes of {SHARD}"),
    ]


@pytest.mark.parametrize("path", [SHARD, INDEX, DATASET_INFO, DEAD_LETTERS, "schema.pbtxt"])
def test_a_missing_file_is_named(root: Path, path: str) -> None:
    (root / path).unlink()
    [found] = only(verify(root), path)
    assert found.what == "is missing"


def test_without_its_index_a_shard_is_still_checked(root: Path) -> None:
    start = int(read_index(root / INDEX).offsets[2])
    (root / INDEX).unlink()
    flip(root / SHARD, start + 30)
    report = verify(root)
    assert {p.file for p in report.problems} == {SHARD, INDEX}
    found = next(p for p in report.problems if p.file == SHARD)
    assert (found.record, found.offset, found.key_hash) == (2, start, None)


def test_without_its_index_a_broken_length_ends_the_walk(root: Path) -> None:
    start = int(read_index(root / INDEX).offsets[2])
    (root / INDEX).unlink()
    flip(root / SHARD, start + 7, bit=6)
    found = next(p for p in verify(root).problems if p.file == SHARD)
    assert (found.record, found.offset) == (2, start)
    assert "records after it cannot be found" in found.what


def test_without_its_index_a_hostile_length_is_not_believed(root: Path) -> None:
    (root / INDEX).unlink()
    length = struct.pack("<Q", 1 << 62)
    data = (root / SHARD).read_bytes()
    (root / SHARD).write_bytes(length + struct.pack("<I", masked_crc(length)) + data[12:])
    found = next(p for p in verify(root).problems if p.file == SHARD)
    assert (found.record, found.offset, found.what) == (0, 0, "the file ends within it")


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_regular_file_is_not_read(root: Path, kind: str) -> None:
    (root / SHARD).unlink()
    if kind == "pipe":
        os.mkfifo(root / SHARD)
    else:
        (root / SHARD).mkdir()
    [found] = only(verify(root), SHARD)
    assert found.what == "cannot be opened: not a regular file"


def test_an_unlisted_file_is_named(root: Path) -> None:
    (root / "index" / "notes.txt").write_text("hello")
    [found] = only(verify(root), "index/notes.txt")
    assert found.what == "is not part of the data set"


def test_many_unlisted_files_are_counted(root: Path) -> None:
    for i in range(MAX_PROBLEMS + 7):
        (root / f"more-{i:02}").touch()
    problems = verify(root).problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].what == "7 more files that are not part of the data set"


def index_of(root: Path, lengths: Any = None, hashes: Any = None, columns: Any = None) -> None:
    """Another index for SHARD, with a manifest that agrees: a faulty writer's."""
    index = read_index(root / INDEX)
    data = encode_index(
        index.lengths if lengths is None else lengths,
        index.key_hashes if hashes is None else hashes,
        index.columns if columns is None else columns,
    )
    (root / INDEX).write_bytes(data)
    relist(root)


def test_key_hashes_outside_the_range_of_their_shard_are_found(root: Path) -> None:
    hashes = read_index(root / INDEX).key_hashes.copy()
    hashes[0] = 0
    hashes[-1] = 255
    index_of(root, hashes=hashes)
    found = only(verify(root), INDEX)
    assert [(p.record, p.what) for p in found] == [
        (0, "the key hash is outside the shard's range"),
        (len(hashes) - 1, "the key hash is outside the shard's range"),
    ]
    assert found[0].key_hash == "00" * 16


def test_the_bounds_of_a_shard_are_exact(root: Path) -> None:
    hashes = read_index(root / INDEX).key_hashes.copy()
    hashes[0] = np.frombuffer((1 << 126).to_bytes(16, "big"), np.uint8)
    hashes[-1] = np.frombuffer(((1 << 127) - 1).to_bytes(16, "big"), np.uint8)
    index_of(root, hashes=hashes)
    assert verify(root).ok
    hashes[-1] = np.frombuffer((1 << 127).to_bytes(16, "big"), np.uint8)
    index_of(root, hashes=hashes)
    assert only(verify(root), INDEX)[0].record == len(hashes) - 1


def test_equal_key_hashes_are_found(root: Path) -> None:
    hashes = read_index(root / INDEX).key_hashes.copy()
    hashes[3] = hashes[2]
    index_of(root, hashes=hashes)
    [found] = only(verify(root), INDEX)
    assert (found.record, found.what) == (3, "the key hash is not above the one before")


def test_an_index_that_lies_about_lengths_is_found_at_its_row(root: Path) -> None:
    lengths = read_index(root / INDEX).lengths.copy()
    lengths[2] += 1
    lengths[3] -= 1
    index_of(root, lengths=lengths)
    found = only(verify(root), SHARD)
    assert [(p.record, p.what) for p in found[:1]] == [(2, "its length differs from the index")]


def test_an_index_of_other_rows_is_compared_with_the_frames(root: Path) -> None:
    lengths = read_index(root / INDEX).lengths.copy()
    lengths[2] += 5
    index_of(root, lengths=lengths)
    found = only(verify(root), INDEX)
    assert [p.what for p in found] == [
        "it describes a file of another size",
        "the row is not what the shard holds",
    ]
    assert found[1].record == 2


def test_an_index_of_another_version_is_said_to_be(root: Path) -> None:
    table = pa.ipc.open_file(pa.py_buffer((root / INDEX).read_bytes())).read_all()
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema.with_metadata({"headrace_index_version": "9"})) as writer:
        writer.write_table(table)
    (root / INDEX).write_bytes(sink.getvalue())
    relist(root)
    [found] = only(verify(root), INDEX)
    assert found.what == "The index was written by another version of Headrace."


def test_an_index_with_other_columns_than_the_manifest_says_is_found(root: Path) -> None:
    columns = dict(read_index(root / INDEX).columns)
    del columns["feature/wet"]
    columns["feature/label"] = columns["feature/label"].cast(pa.float32())
    index_of(root, columns=columns)
    [found] = [p for p in only(verify(root), INDEX) if p.field is None]
    assert found.what == "its columns are not the manifest's"
    assert found.expected is not None
    assert found.expected.startswith("feature/label: int64, ")
    assert found.found == "feature/label: float, feature/title: large_string, length/ids: int32"


@pytest.mark.parametrize(
    ("column", "value", "feature", "expected", "said"),
    [
        ("feature/label", 7, "label", "[01]", "7"),
        ("feature/wet", None, "wet", "(True|False)", "(True|False)"),
        ("feature/title", "no such", "title", "'N.*fish'", "'no such'"),
        ("length/ids", 99, "ids", "[0-3]", "99"),
    ],
)
def test_an_index_that_lies_about_a_feature_is_found_at_its_record(
    root: Path, column: str, value: Any, feature: str, expected: str, said: str
) -> None:
    columns = dict(read_index(root / INDEX).columns)
    values = columns[column].to_pylist()
    values[2] = not values[2] if value is None else value
    index_of(root, columns={**columns, column: pa.array(values, columns[column].type)})
    [found] = only(verify(root), INDEX)
    assert (found.record, found.field) == (2, feature)
    assert found.what == "it differs from the record's own value"
    assert re.fullmatch(expected, str(found.expected))
    assert re.fullmatch(said, str(found.found))


def test_records_that_the_shard_does_not_hold_are_found(root: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["splits"]["train"]["shards"][1]["records"] += 1

    rewrite(root, change)
    assert {p.file for p in verify(root).problems} >= {INDEX, SHARD, MANIFEST}


def test_a_shard_longer_than_the_buffer_is_checked_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "d", records=16, shards={"train": 2}, padding=5000)
    size = sum(f.stat().st_size for f in (tmp_path / "d").glob("*.tfrecord*"))
    shard = "pond-train.tfrecord-00001-of-00002"
    index = read_index(tmp_path / "d" / f"index/{shard}.arrow")
    record = len(index) // 2
    start, length = int(index.offsets[record]), int(index.lengths[record])
    # Smaller than a record, about as large as one, as a few, as all.
    for buffer in (64, 1000, 5390, 5400, 12_000, size):
        monkeypatch.setattr(frames, "BUFFER_BYTES", buffer)
        assert verify(tmp_path / "d").ok, buffer
        for place in (3, 10, 13, length // 2, length - 2):
            flip(tmp_path / "d" / shard, start + place)
            found = only(verify(tmp_path / "d"), shard)
            assert [p.record for p in found] == [record, None], (buffer, place)
            flip(tmp_path / "d" / shard, start + place)


def test_a_truncated_large_record_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "d", records=4, shards={"train": 1}, padding=5000)
    monkeypatch.setattr(frames, "BUFFER_BYTES", 1000)
    shard = tmp_path / "d" / "pond-train.tfrecord-00000-of-00001"
    os.truncate(shard, shard.stat().st_size - 700)
    found = only(verify(tmp_path / "d"), shard.name)[0]
    assert (found.record, found.what) == (3, "the file ends within it")


MANIFEST_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "records": (lambda d: d["splits"]["test"].update(records=7), "splits.test.records: is not the sum"),
    "bytes": (lambda d: d["splits"]["test"].update(bytes=7), "splits.test.bytes: is not the sum"),
    "books": (lambda d: d["books"]["extra"].update(read=99), "books.extra: the books do not balance"),
    "written": (
        lambda d: d["books"]["photos"].update(read=87, written=79),
        "books.photos.written: is not what the splits hold (expected 80, found 79)",
    ),
    "letters": (
        lambda d: d["dead_letters"].update({"validate.range": 4}),
        "dead_letters: are not as many as the books say (expected 5, found 6)",
    ),
    "fingerprint": (
        lambda d: d.update(fingerprint="0" * 32),
        "fingerprint: is not that of its spec and shards",
    ),
    "spec": (lambda d: d["spec"].pop("features"), "spec: the job in it is not valid: Field required"),
    "names": (
        lambda d: d["splits"]["train"]["shards"].reverse(),
        "splits.train.shards.0.path: names another file",
    ),
    "twice": (lambda d: d["files"].append(d["files"][0]), "lists a file more than once"),
    "letters file": (
        lambda d: d["files"].pop(next(i for i, f in enumerate(d["files"]) if f["path"] == DEAD_LETTERS)),
        "files: counts dead letters but lists no file of them",
    ),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_manifest_that_contradicts_itself_is_found(root: Path, fault: str) -> None:
    change, what = MANIFEST_FAULTS[fault]
    rewrite(root, change)
    texts = [describe(p) for p in verify(root).problems if p.file == MANIFEST]
    assert any(text.startswith(what) for text in texts), texts
    assert not any("changed after it was written" in text for text in texts)


def test_a_manifest_changed_by_hand_is_found(root: Path) -> None:
    text = (root / MANIFEST).read_text("utf-8")
    (root / MANIFEST).write_text(text.replace("Fish and reeds.", "Fish and weeds.", 1), "utf-8")
    [found] = only(verify(root), MANIFEST)
    assert "was changed after it was written" in found.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"format": "headrace", "format_version": 9}', "written by another version of Headrace"),
        ('{"format": "headrace", "format_version": 1}', "The manifest is damaged: Field required."),
        ("{", "The manifest is not JSON."),
        ("[]", "This manifest.json is not a Headrace manifest."),
    ],
)
def test_a_manifest_that_cannot_be_read_is_the_one_problem(root: Path, text: str, what: str) -> None:
    (root / MANIFEST).write_text(text)
    [found] = only(verify(root), MANIFEST)
    assert what in found.what


def test_no_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="There is no data set here: no manifest"):
        verify(tmp_path)


def test_dead_letters_are_counted_by_rule(root: Path) -> None:
    table = pq.read_table(root / DEAD_LETTERS)
    pq.write_table(table.slice(1), root / DEAD_LETTERS)
    relist(root)
    [found] = only(verify(root), DEAD_LETTERS)
    assert describe(found) == (
        "validate.range: are not as many rows as the manifest counts (expected 3, found 2)"
    )


def test_dead_letters_that_are_no_parquet_are_found(root: Path) -> None:
    (root / DEAD_LETTERS).write_bytes(b"PAR1 hello PAR1")
    relist(root)
    [found] = only(verify(root), DEAD_LETTERS)
    assert found.what == "is not the Parquet file of the dead letters"


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '{"splits": [{"shardLengths": ["a"]}]}'])
def test_tfds_metadata_that_tfds_cannot_read_is_found(root: Path, text: str) -> None:
    (root / DATASET_INFO).write_text(text)
    relist(root)
    assert only(verify(root), DATASET_INFO)[0].what == "is not what TFDS reads"


def test_tfds_metadata_with_other_counts_is_found(root: Path) -> None:
    info = json.loads((root / DATASET_INFO).read_text())
    info["splits"][0]["shardLengths"][0] = "1"
    (root / DATASET_INFO).write_text(json.dumps(info))
    relist(root)
    assert only(verify(root), DATASET_INFO)[0].field == "splits.test.shardLengths"


def test_the_report_reads_well_and_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_command(str(root), as_json=False) == 0
    assert "pond 2.0.1 is intact: 80 records in 15 files" in capsys.readouterr().out
    start = int(read_index(root / INDEX).offsets[3])
    flip(root / SHARD, start + 20)
    assert verify_command(str(root), as_json=False) == 1
    out = capsys.readouterr().out
    assert "pond 2.0.1 is damaged: 2 problems" in out
    assert f"\n{SHARD}\n  record 3, byte {start:,}, key hash " in out
    assert verify_command(str(root), as_json=True) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["ok"], data["problems"][0]["file"], data["problems"][0]["record"]) == (False, SHARD, 3)


def test_frames_are_walked_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(frame(b"abc") + frame(b"") + frame(b"x" * 100))
    with open(path, "rb") as file:
        offsets, lengths, fault = frames.walk_frames(file, path.stat().st_size)
    assert (offsets.tolist(), lengths.tolist(), fault) == ([0, 19, 35], [19, 16, 116], None)


def test_print_report_names_each_file_once(root: Path) -> None:
    flip(root / SHARD, 20)
    (root / "zz").touch()
    out = io.StringIO()
    print_report(verify(root), out)
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line in (SHARD, "zz")] == [SHARD, "zz"]


def test_a_large_data_set_shows_progress_on_a_terminal(
    intact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("beam_jobs.verify._BAR_BYTES", 1)
    monkeypatch.setattr("sys.stderr", terminal)
    assert verify_command(str(intact), as_json=True) == 0
    assert "Verifying" in terminal.getvalue()
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_data_set_in_a_bucket_is_refused_by_name(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "gs://bucket/pond/1.0.0"]) == 1
    assert "data sets of this machine only" in capsys.readouterr().err
