from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import tensorflow_datasets as tfds

from beam_jobs import run
from beam_jobs.sources import Source, open_source
from schemas.errors import HeadraceError
from schemas.sources import TfdsSource
from tests.jobs.small_job import make_data, make_job
from tests.small_dataset import example, frame
from tests.sources.tfds_data import Pond, add_shard, row, shards_of, write_folder

from .conformance import SourceSuite, faults_of, read_all, records_of
from .hf_data import png


def folder(path: Path | str, **options: Any) -> Source:
    spec = TfdsSource(kind="tfds", path="${data}", **options)
    return open_source("pond", spec, str(path))


def keys(source: Source) -> list[bytes | None]:
    return [key for batch in read_all(source) for key in batch.keys.to_pylist()]


class TestTfds(SourceSuite):
    def write(self, place: Path, count: int) -> None:
        write_folder(place, {"train": shards_of(range(count))})

    def append(self, place: Path) -> None:
        add_shard(place, [example(row(9999))])

    def spoil(self, place: Path) -> set[str]:
        good = row(5000)
        records = [
            example(good),
            example({**good, "id": [b"r\xff"]}),
            example({**good, "label": [2]}),
            example({**good, "label": [0, 1]}),
            example({**good, "words": [b"one"]}),
            b"\x0a\xff",
            example({**row(5001), "words": []}),
        ]
        add_shard(place, records)
        data = bytearray((place / "added-00000").read_bytes())
        data[20] ^= 1
        (place / "added-00000").write_bytes(bytes(data))
        return {"bad_encoding", "unknown_class", "wrong_value", "bad_example", "bad_crc"}

    def change(self, place: Path) -> None:
        file = sorted(place.glob("pond-train*"))[1]
        records = [
            example({**row(i), "id": [b"r000X" if i == 8 else f"r{i:04d}".encode()]}) for i in range(7, 14)
        ]
        file.write_bytes(b"".join(map(frame, records)))

    def open(self, place: Path) -> Source:
        return folder(place, key="id")

    def test_an_empty_source_is_an_error(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0)
        with pytest.raises(HeadraceError, match="holds no row"):
            self.open(tmp_path).partitions()


class TestPartsOfShards(TestTfds):
    """Several partitions a shard, and keys made of split and row."""

    def change(self, place: Path) -> None:
        pytest.fail("not called")

    def open(self, place: Path) -> Source:
        return folder(place, partition_bytes=500)

    def test_changed_bytes_change_one_identity(self, tmp_path: Path) -> None:
        self.write(tmp_path, 300)
        before = self.open(tmp_path).partitions()
        super().change(tmp_path)
        after = self.open(tmp_path).partitions()
        differ = {
            b.payload["file"][0] for a, b in zip(after, before, strict=True) if a.identity != b.identity
        }
        assert len(before) > 80
        assert differ == {"pond-train.tfrecord-00001-of-00043"}


class TestRemote(TestTfds):
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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data_dir` of TFDS with one data set in two versions, made by TFDS."""
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.utils.gcs_utils, "_is_gcs_disabled", True)
        tfds.disable_progress_bar()
        Pond(data_dir=data_dir).download_and_prepare()
    shutil.copytree(data_dir / "pond/2.3.10", data_dir / "pond/2.3.9")
    return data_dir


@pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated:DeprecationWarning")
def test_what_tfds_prepared_is_what_tfds_reads(prepared: Path) -> None:
    builder = tfds.builder_from_directory(prepared / "pond/2.3.10")
    read = tfds.as_numpy(builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()}))
    expected = list(read)
    source = folder(prepared, name="pond", split="train")
    found = records_of(source)
    assert len(found) == len(expected) == 12
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["image"] == theirs["image"]
        assert ours["label"] == ["cat", "dog"][theirs["label"]]
        assert ours["title"] == theirs["title"].decode()
        assert ours["raw"] == theirs["raw"]
        assert (ours["flag"], ours["small"]) == (theirs["flag"], theirs["small"])
        assert ours["real"] == theirs["real"]
        assert ours["vector"] == theirs["vector"].tolist()
        assert ours["matrix"] == theirs["matrix"].ravel().tolist()
        assert ours["words"] == theirs["words"].tolist()
        assert ours["boxes.box"] == theirs["boxes"]["box"].ravel().tolist()
        assert ours["boxes.kind"] == theirs["boxes"]["kind"].tolist()
        assert ours["deep.er.kind"] == "xyz"[theirs["deep"]["er"]["kind"]]
        assert ours["tags"] == [tag.decode() for tag in theirs["tags"]]
        assert (ours["pair.de"], ours["pair.en"]) == ("eins", "one")
    assert not {"packed", "ragged"} & set(source.columns())
    assert keys(source)[:2] == [b"train:0", b"train:1"]
    (partition,) = source.partitions()
    assert source.origin(partition, 3) == "pond-train.tfrecord-00000-of-00001, record 3 (train[3])"


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        ("", "pond", "2.3.10"),
        ("", "pond:2.3.9", "2.3.9"),
        ("pond", None, "2.3.10"),
        ("pond/2.3.9", None, "2.3.9"),
        ("pond/2.3.9/", None, "2.3.9"),
    ],
)
def test_versions(prepared: Path, path: str, name: str | None, version: str) -> None:
    source = folder(f"{prepared}/{path}", name=name)
    place = f"{prepared}/{path}".rstrip("/") + source.partitions()[0].payload["folder"]
    assert place == f"{prepared}/pond/{version}"
    assert len(keys(source)) == 15


def test_what_headrace_wrote(tmp_path: Path) -> None:
    made = run(make_job(make_data(tmp_path / "data")), tmp_path / "out")
    source = folder(tmp_path / "out", name="cells", split=["train", "test"])
    records = records_of(source)
    splits = made.manifest.splits
    assert len(records) == splits["train"].records + splits["test"].records
    assert {record["label"] for record in records} == {"good", "bad"}
    assert {type(record["image"]) for record in records} == {bytes}
    assert {"sizes", "words", "note", "probability"} < set(source.columns())
    assert faults_of(source) == []


def test_reasons_of_faults(tmp_path: Path) -> None:
    suite = TestTfds()
    suite.write(tmp_path, 2)
    suite.spoil(tmp_path)
    assert faults_of(folder(tmp_path)) == [
        ("added-00000, record 0 (more[0])", "bad_crc", "the CRC of the record at byte 0 differs"),
        ("added-00000, record 1 (more[1])", "bad_encoding", "column 'id' is not UTF-8"),
        ("added-00000, record 2 (more[2])", "unknown_class", "label: 2 is none of 2 classes"),
        ("added-00000, record 3 (more[3])", "wrong_value", "label holds 2 values, not one"),
        ("added-00000, record 4 (more[4])", "wrong_value", "words holds bytes_list, not int64_list"),
        ("added-00000, record 5 (more[5])", "bad_example",
         f"the record at byte {_place_of(tmp_path, 5)}: it is no tf.train.Example"),
    ]  # fmt: skip


def _place_of(place: Path, number: int) -> int:
    data, at = (place / "added-00000").read_bytes(), 0
    for _ in range(number):
        at += int.from_bytes(data[at : at + 8], "little") + 16
    return at


def test_features_that_an_example_lacks_have_no_value(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": [[example({"id": [b"a"]})]]})
    assert records_of(folder(tmp_path)) == [{"id": "a", "image": None, "label": None, "words": None}]


def test_without_names_classes_are_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": shards_of(range(3))})
    (before,) = folder(tmp_path).partitions()
    (tmp_path / "label.labels.txt").unlink()
    assert [record["label"] for record in records_of(folder(tmp_path))] == [0, 1, 0]
    assert folder(tmp_path).partitions()[0].identity != before.identity
    with pytest.raises(HeadraceError, match="changed while the job was reading"):
        list(folder(tmp_path).read(before))


def test_large_records_are_faults_and_batches_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.sources._sets.tf_records.MAX_RECORD_BYTES", 4 << 20)
    sizes = [3, 3, 3, 5, 1, 1]
    records = [example({**row(i), "image": [bytes(size << 20)]}) for i, size in enumerate(sizes)]
    write_folder(tmp_path, {"train": [records]})
    for partition_bytes in (1, 64 << 20):
        source = folder(tmp_path, partition_bytes=partition_bytes)
        assert [rule for _, rule, _ in faults_of(source)] == ["too_large"]
        assert [record["id"] for record in records_of(source)] == [
            "r0000",
            "r0001",
            "r0002",
            "r0004",
            "r0005",
        ]
        assert max(batch.records.nbytes for batch in read_all(source)) < 9 << 20


@pytest.mark.parametrize("partition_bytes", [200, 32 << 20])
def test_damage_is_an_error_or_a_fault_and_never_a_crash(tmp_path: Path, partition_bytes: int) -> None:
    write_folder(tmp_path, {"train": shards_of(range(5))})
    (file,) = tmp_path.glob("pond-train*")
    data, outcomes = file.read_bytes(), []
    for at in range(0, len(data), 7):
        for damaged in (data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :], data[:at]):
            file.write_bytes(damaged)
            try:
                outcomes.append(str(len(faults_of(folder(tmp_path, partition_bytes=partition_bytes)))))
            except HeadraceError as error:
                outcomes.append(str(error))
    assert "0" not in outcomes
    texts = " ".join(outcomes)
    for expected in (
        "so that nothing behind it can be found",
        "the file ends within",
        "cannot hold as many records",
    ):
        assert expected in texts
    assert "1" in outcomes


def _changed(place: Path, file: str, change: dict[str, Any] | str) -> None:
    path = place / file
    known = json.loads(path.read_text())
    path.write_text(change if isinstance(change, str) else json.dumps({**known, **change}))


SPLIT = {"name": "train", "shardLengths": ["3"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fileFormat": "riegeli"}, r"another format.\n(?s:.*)riegeli\n(?s:.*)tfrecord"),
        ({"splits": {}}, r"describes no data set"),
        ({"splits": ["train"]}, r"split is not described(?s:.*)'train'"),
        ({"splits": [{**SPLIT, "shardLengths": ["3", "3"]}]}, r"does not exist.*\n.*\n.*00000-of-00002"),
        ({"splits": [{**SPLIT, "shardLengths": ["9" * 17]}]}, r"cannot hold as many.*(?s:.*)at most"),
        ({"splits": [{**SPLIT, "shardLengths": [-1]}]}, r"cannot hold as many"),
        ({"splits": [{**SPLIT, "shardLengths": ["2"]}]}, r"another number of records(?s:.*)3\n.*2"),
        ({"splits": [{**SPLIT, "filepathTemplate": "../{SPLIT}"}]}, r"does not exist.*\n.*\n.*\.\./train"),
        ("{", r"A file is no JSON.\n.*dataset_info.json"),
    ],
)
def test_broken_info(tmp_path: Path, change: Any, message: str) -> None:
    _check_broken(tmp_path, "dataset_info.json", change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"featuresDict": {"features": {}}}, r"no feature that can be read"),
        ("[" * 100_000, r"A file is no JSON.\n.*features.json"),
    ],
)
def test_broken_features(tmp_path: Path, change: Any, message: str) -> None:
    _check_broken(tmp_path, "features.json", change, message)


def _check_broken(tmp_path: Path, file: str, change: Any, message: str) -> None:
    write_folder(tmp_path / "d", {"train": shards_of(range(3))})
    (tmp_path / "train").write_text("a secret")
    _changed(tmp_path / "d", file, change)
    with pytest.raises(HeadraceError, match=message):
        read_all(folder(tmp_path / "d"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, r"no such split(?s:.*)valid\n(?s:.*)train"),
        ({"key": "ids"}, r"does not exist(?s:.*)Did you mean 'id'"),
        ({"key": "words"}, r"column of lists"),
        ({"name": "lake"}, r"There is no such folder(?s:.*)pond"),
        ({"name": "nothing"}, r"no prepared data set(?s:.*)Headrace downloads nothing"),
        ({"name": "many"}, r"several data sets(?s:.*)cola, rte(?s:.*)Name one"),
        ({"name": "half"}, r"A file of the data set is missing(?s:.*)features.json"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_folder(tmp_path / "pond/1.0.0", {"train": shards_of(range(3))})
    write_folder(tmp_path / "many/cola/1.0.0", {"train": shards_of(range(3))})
    write_folder(tmp_path / "many/rte/1.0.0", {"train": shards_of(range(3))})
    write_folder(tmp_path / "half/1.0.0", {"train": shards_of(range(3))})
    (tmp_path / "half/1.0.0/features.json").unlink()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing/README").write_text("nothing")
    with pytest.raises(HeadraceError, match=message):
        folder(tmp_path, **{"name": "pond", **options}).partitions()


def test_images_are_as_stored(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": shards_of([3])})
    assert records_of(folder(tmp_path)) == [
        {"id": "r0003", "image": png(3), "label": "dog", "words": [0, 1, 2]}
    ]
