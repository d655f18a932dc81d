from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.sources import Source, open_source
from schemas.errors import HeadraceError
from schemas.sources import HuggingFaceSource

from . import hf_data
from .conformance import SourceSuite, faults_of, read_all, records_of
from .hf_data import add_exported, add_saved, bad_table, dataset, export, png, save, table


def folder(path: Path | str, **options: Any) -> Source:
    spec = HuggingFaceSource(kind="huggingface", path="${data}", **options)
    return open_source("photos", spec, str(path))


def keys(source: Source) -> list[bytes | None]:
    return [key for batch in read_all(source) for key in batch.keys.to_pylist()]


class TestSaved(SourceSuite):
    def write(self, place: Path, count: int) -> None:
        save(place, count)

    def append(self, place: Path) -> None:
        add_saved(place, table([9999]))

    def spoil(self, place: Path) -> set[str]:
        add_saved(place, bad_table(), "bad.arrow")
        return {"not_embedded", "bad_encoding", "unknown_class"}

    def change(self, place: Path) -> None:
        file = sorted(place.glob("*.arrow"))[1]
        data = file.read_bytes()
        assert b"r0008" in data
        file.write_bytes(data.replace(b"r0008", b"r000X"))

    def open(self, place: Path) -> Source:
        return folder(place, key="id")


class TestExported(TestSaved):
    """Files of Parquet, with the place of a record as its key."""

    def write(self, place: Path, count: int) -> None:
        export(place, count)

    def append(self, place: Path) -> None:
        add_exported(place, table([9999]))

    def spoil(self, place: Path) -> set[str]:
        add_exported(place, bad_table())
        return {"not_embedded", "bad_encoding", "unknown_class"}

    def change(self, place: Path) -> None:
        file = sorted(place.glob("data/*.parquet"))[1]
        rows = table(range(7, 14), id=pa.array([f"r{i:04d}" if i != 8 else "r000X" for i in range(7, 14)]))
        pq.write_table(rows, file)

    def open(self, place: Path) -> Source:
        return folder(place)


class TestRemote(TestSaved):
    """The same behind fsspec."""

    @pytest.fixture(autouse=True)
    def _bucket(self, tmp_path: Path) -> Iterator[None]:
        self.fs = fsspec.filesystem("memory")
        self.bucket = f"/{tmp_path.name}"
        yield
        if self.fs.exists(self.bucket):
            self.fs.rm(self.bucket, recursive=True)

    def open(self, place: Path) -> Source:
        for file in sorted(place.rglob("*")):
            target = f"{self.bucket}/{file.relative_to(place)}"
            if file.is_file() and not (self.fs.exists(target) and self.fs.cat(target) == file.read_bytes()):
                self.fs.pipe(target, file.read_bytes())
        return folder(f"memory:/{self.bucket}{'' if place.exists() else '/nowhere'}", key="id")

    def test_an_empty_source_is_an_error(self, tmp_path: Path) -> None:
        self.fs.pipe(f"{self.bucket}/README.md", b"text")
        with pytest.raises(HeadraceError, match="holds no file of a data set"):
            self.open(tmp_path).partitions()


@pytest.mark.parametrize(("write", "kind"), [(save, "arrow"), (export, "parquet")])
def test_columns_and_values(tmp_path: Path, write: Any, kind: str) -> None:
    write(tmp_path / "d", 9)
    source = folder(tmp_path / "d")
    names = ["id", "image", "image.path", "label", "meta.width", "meta.kind", "words"]
    assert source.columns() == [*names, "objects.box", "objects.area"]
    records = records_of(source)
    assert records[5] == {
        "id": "r0005",
        "image": png(5),
        "image.path": "5.png",
        "label": "dog",
        "meta.width": 5,
        "meta.kind": "z",
        "words": [0],
        "objects.box": [[0, 0, 1, 0], [0, 0, 1, 1]],
        "objects.area": [0, 1],
    }
    assert keys(source) == [f"train:{i}".encode() for i in range(9)]
    _, second = source.partitions()
    row = 8 - second.payload["row"]
    assert source.origin(second, 8).endswith(f"-00001-of-00002.{kind}, row {row} (train[8])")


def test_reasons_of_faults(tmp_path: Path) -> None:
    save(tmp_path, 3)
    add_saved(tmp_path, bad_table(), "bad.arrow")
    assert faults_of(folder(tmp_path)) == [
        ("bad.arrow, row 1 (train[4])", "not_embedded",
         "image: the data set holds the path '/etc/hostname' only, not the file's bytes"),
        ("bad.arrow, row 2 (train[5])", "bad_encoding", "column 'id' is not UTF-8"),
        ("bad.arrow, row 3 (train[6])", "unknown_class", "label: 9 is none of 2 classes"),
    ]  # fmt: skip
    assert [record["label"] for record in records_of(folder(tmp_path))] == ["cat", "dog", "cat", "cat", None]


def test_splits(tmp_path: Path) -> None:
    parts = {"train": dataset(range(5)), "test": dataset(range(5, 8))}
    hf_data.datasets.DatasetDict(parts).save_to_disk(tmp_path)
    assert keys(folder(tmp_path)) == [b"train:%d" % i for i in range(5)] + [b"test:%d" % i for i in range(3)]
    assert keys(folder(tmp_path, split="test")) == [b"test:0", b"test:1", b"test:2"]
    assert len(keys(folder(tmp_path, split=["test", "train"], key="id"))) == 8
    with pytest.raises(HeadraceError, match=r"There is no such split(?s:.*)valid\n(?s:.*)train, test"):
        folder(tmp_path, split="valid").partitions()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.parquet", "test.parquet"], ["test", "train"]),
        (["train/0000.parquet", "test/0000.parquet"], ["test", "train"]),
        (["default/train/0000.parquet", "default/train/0001.parquet"], ["train"]),
        (["0000.parquet"], ["train"]),
        (["data/validation-00000-of-00001.parquet", ".cache/x.parquet"], ["validation"]),
        (["mine-train.arrow", "mine-test-00000-of-00001.arrow", "cache-0123.arrow"], ["test", "train"]),
    ],
)
def test_splits_by_the_names_of_files(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(table([1]), tmp_path / name)
        else:
            with pa.ipc.new_stream(tmp_path / name, table([1]).schema) as writer:
                writer.write_table(table([1]))
    found = [key.partition(b":")[0].decode() for key in keys(folder(tmp_path)) if key]
    assert sorted(set(found)) == expected
    assert len(found) == sum(not name.startswith((".", "cache")) for name in names)


def test_several_configurations_are_an_error(tmp_path: Path) -> None:
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        pq.write_table(table([1]), tmp_path / name / "train-00000-of-00001.parquet")
    with pytest.raises(HeadraceError, match=r"several folders(?s:.*)large, small"):
        folder(tmp_path).partitions()
    assert len(keys(folder(tmp_path / "small"))) == 1


def test_names_of_classes_from_the_info_beside_the_files(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (file,) = tmp_path.glob("*.arrow")
    with pa.ipc.open_stream(file.read_bytes()) as reader:
        rows = reader.read_all().replace_schema_metadata()
    with pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows)
    assert [record["label"] for record in records_of(folder(tmp_path))] == ["cat", "dog", "cat"]
    before = folder(tmp_path).partitions()
    info = tmp_path / "dataset_info.json"
    info.write_text(info.read_text().replace('"cat"', '"cow"'))
    assert folder(tmp_path).partitions()[0].identity != before[0].identity
    with pytest.raises(HeadraceError, match="changed while the job was reading"):
        list(folder(tmp_path).read(before[0]))
    info.unlink()
    assert [record["label"] for record in records_of(folder(tmp_path))] == [0, 1, 0]


@pytest.mark.parametrize("write", [save, export])
def test_partitions_are_whole_batches_and_row_groups(tmp_path: Path, write: Any) -> None:
    write(tmp_path, 3)
    (file,) = [*tmp_path.glob("*.arrow"), *tmp_path.glob("data/*.parquet")]
    rows = table(range(40))
    if file.suffix == ".arrow":
        with pa.ipc.new_stream(file, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=4)
    else:
        pq.write_table(rows, file, row_group_size=4)
    partitions = folder(tmp_path, partition_bytes=3000).partitions()
    assert 3 < len(partitions) <= 10
    assert all((partition.records or 0) % 4 == 0 for partition in partitions)
    source = folder(tmp_path, partition_bytes=3000, key="id")
    assert keys(source) == [f"r{i:04d}".encode() for i in range(40)]
    assert faults_of(source) == []


def test_large_batches_are_cut(tmp_path: Path) -> None:
    big = {"id": [str(i) for i in range(10)], "data": [bytes(3 << 20)] * 10}
    hf_data.datasets.Dataset.from_dict(big).save_to_disk(tmp_path)
    batches = read_all(folder(tmp_path))
    assert max(batch.records.nbytes for batch in batches) <= 9 << 20
    assert [row for batch in batches for row in batch.rows.tolist()] == list(range(10))


@pytest.mark.parametrize("how", ["touched", "shorter", "gone"])
@pytest.mark.parametrize("write", [save, export])
def test_files_that_change_after_listing(tmp_path: Path, write: Any, how: str) -> None:
    write(tmp_path, 3)
    (file,) = [*tmp_path.glob("*.arrow"), *tmp_path.glob("data/*.parquet")]
    source = folder(tmp_path)
    (partition,) = source.partitions()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: -5 if how == "shorter" else None])
    with pytest.raises(HeadraceError, match=r"changed while the job was|cannot be read"):
        list(source.read(partition))


@pytest.mark.parametrize("write", [save, export])
def test_damage_is_an_error_or_a_fault_and_never_a_crash(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "good", 4)
    (name,) = [*(tmp_path / "good").glob("*.arrow"), *(tmp_path / "good").glob("data/*.parquet")]
    data = name.read_bytes()
    place = tmp_path / "bad"
    shutil.copytree(tmp_path / "good", place)
    file = place / name.relative_to(tmp_path / "good")
    places = []
    for at in range(0, len(data), max(1, len(data) // 150)):
        for damaged in (data[:at] + b"\xff\xff" + data[at + 2 :], data[:at]):
            file.write_bytes(damaged)
            try:
                read_all(folder(place))
            except HeadraceError as error:
                places.append(error.where or "")
    assert len(places) > 100
    assert all(file.name in place or "sources.photos" in place for place in places)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("state.json", {"_data_files": [{"filename": "../secret.arrow"}]}, r"does not exist.\n.*\n.*secret"),
        (
            "state.json",
            {"_data_files": [{"filename": "gone.arrow"}]},
            r"does not exist.\n.*state.json\n.*gone",
        ),
        ("state.json", {"_indices_files": [{"filename": "i.arrow"}]}, r"list of indices"),
        ("state.json", {"_data_files": []}, r"holds no row"),
        ("state.json", None, r"is no JSON"),
        ("dataset_dict.json", {"splits": ["valid"]}, r"no state.json.\n.*\n.*valid"),
        ("dataset_dict.json", {"splits": 3}, r"`splits` is no list of names"),
    ],
)
def test_broken_folders(tmp_path: Path, file: str, change: dict[str, Any] | None, message: str) -> None:
    place = tmp_path / "d"
    save(place, 3)
    (tmp_path / "secret.arrow").write_bytes(b"secret")
    path = place / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text("{" if change is None else json.dumps({**known, **change}))
    with pytest.raises(HeadraceError, match=message):
        folder(place).partitions()


def test_files_of_other_columns_are_an_error(tmp_path: Path) -> None:
    save(tmp_path, 3)
    add_saved(tmp_path, table([7]).drop_columns("words"))
    with pytest.raises(HeadraceError, match=r"different columns.\n.*more.arrow\n.*no words"):
        folder(tmp_path).partitions()


def test_a_key_that_does_not_exist(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(HeadraceError, match=r"does not exist(?s:.*)Did you mean 'image'"):
        folder(tmp_path, key="imag").partitions()
    with pytest.raises(HeadraceError, match="column of lists"):
        folder(tmp_path, key="words").partitions()


def test_dictionaries_are_refused(tmp_path: Path) -> None:
    rows = pa.table({"a": pa.array(["x", "y"]).dictionary_encode()})
    with pa.ipc.new_stream(tmp_path / "d-train.arrow", rows.schema) as writer:
        writer.write_table(rows)
    with pytest.raises(HeadraceError, match="dictionaries are not read: export it as Parquet"):
        folder(tmp_path).partitions()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_text_that_is_stored_once_is_not_held_for_every_row(
    nested: bool, groups: int, tmp_path: Path
) -> None:
    count, size = 600, 1 << 20
    text = pa.array(["x" * size, "y"]).take(pa.array([0] * count))
    column = pa.StructArray.from_arrays([text], ["bytes"]) if nested else text
    rows = pa.table({"id": range(count), "text": column})
    place = tmp_path / "data" / "train-00000-of-00001.parquet"
    place.parent.mkdir()
    pq.write_table(rows, place, row_group_size=count // groups)
    assert place.stat().st_size < groups * 2 * size
    source = folder(tmp_path)
    before, seen = pa.total_allocated_bytes(), 0
    for partition in source.partitions():
        for batch in source.read(partition):
            assert batch.records.nbytes <= 16 * size
            assert pa.total_allocated_bytes() - before <= 64 * size
            seen += batch.records.num_rows
    assert seen == count
