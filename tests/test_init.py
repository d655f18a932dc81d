"""`headrace init`: for every kind of data a job file that runs as it is and loses no record."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import random
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from beam_jobs import load_job, run
from beam_jobs.cli import main
from beam_jobs.init_job import init_job
from beam_jobs.preview import preview
from beam_jobs.starter import sample
from beam_jobs.starter.place import without_secrets
from loader import load
from schemas import HeadraceError, JobSpec
from schemas.load import parse_spec
from tests import servers
from tests.sources import hf_data
from tests.sources.web import WebServer

COUNT = 60


def rows(count: int = COUNT) -> list[dict[str, Any]]:
    return [
        {"id": f"r{i:04d}", "size": i * 3 - 5, "weight": i / 7, "wet": i % 2 == 0, "label": ("cat", "dog")[i % 2],
         "remark": f"remark number {i}, \"of {count}\""}
        for i in range(count)
    ]  # fmt: skip


def image(path: Path, number: int, size: tuple[int, int] = (9, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, number % 256 if mode == "L" else (number % 256, number // 256, 7)).save(path)


def write_csv(path: Path, records: list[dict[str, Any]], **style: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]), **style)
        writer.writeheader()
        writer.writerows(records)


def table(count: int = COUNT) -> pa.Table:
    return pa.Table.from_pylist([row | {"box": [i, 1, 2, 3]} for i, row in enumerate(rows(count))])


def folder_of_images(data: Path) -> None:
    for i in range(COUNT):
        image(data / ("cats", "dogs", "a bird's")[i % 3] / f"{i}.png", i)


def plain_csv(data: Path) -> None:
    write_csv(data / "rows.csv", rows())


def semicolons(data: Path) -> None:
    write_csv(data / "rows.csv", rows(), delimiter=";")


def tabs(data: Path) -> None:
    write_csv(data / "rows.tsv", rows(), delimiter="\t")


def parts_of_csv(data: Path) -> None:
    for part in range(3):
        write_csv(data / f"part-{part}.csv", rows()[part::3])


def no_header(data: Path) -> None:
    (data / "rows.csv").write_text("".join(f"{i},{i / 3},{'ab'[i % 2]}\n" for i in range(COUNT)))


def packed_csv(data: Path) -> None:
    write_csv(data / "rows.csv", rows())
    (data / "rows.csv.gz").write_bytes(gzip.compress((data / "rows.csv").read_bytes()))
    (data / "rows.csv").unlink()


def json_lines(data: Path) -> None:
    lines = [json.dumps(row | {"user": {"name": f"u{i % 5}"}, "box": [1, i]}) for i, row in enumerate(rows())]
    (data / "rows.jsonl").write_text("\n".join(lines))


def parquet(data: Path) -> None:
    pq.write_table(table(), data / "rows.parquet")


def parquet_folder(data: Path) -> None:
    for part in range(3):
        place = data / f"year=200{part}" / "part.parquet"
        place.parent.mkdir()
        pq.write_table(table().slice(part * 20, 20), place)


def arrow(data: Path) -> None:
    pyarrow.feather.write_feather(table(), data / "rows.feather")


def orc(data: Path) -> None:
    pyarrow.orc.write_table(table().drop(["wet"]), data / "rows.orc")


def shards(data: Path) -> None:
    for shard in range(2):
        with tarfile.open(data / f"train-{shard:04d}.tar", "w") as tar:
            for i in range(shard * 30, shard * 30 + 30):
                for name, content in (
                    ("png", hf_data.png(i)),
                    ("cls", str(i % 4).encode()),
                    ("txt", b"words"),
                ):
                    member = tarfile.TarInfo(f"{i:05d}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def saved(data: Path) -> None:
    hf_data.save(data, COUNT)


def avro(data: Path) -> None:
    import fastavro

    fields = [
        {"name": name, "type": kind}
        for name, kind in (("id", "string"), ("size", "long"), ("label", "string"))
    ]
    records = [{name: row[name] for name in ("id", "size", "label")} for row in rows()]
    with (data / "rows.avro").open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, records)


def tfrecords(data: Path) -> None:
    for shard in range(2):
        with tf.io.TFRecordWriter(str(data / f"old-train.tfrecord-0000{shard}-of-00002")) as writer:
            for i in range(shard * 30, shard * 30 + 30):
                values = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[hf_data.png(i)])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i % 3])),
                    "words": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"words {i}".encode()])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=values))
                writer.write(example.SerializeToString())


def texts(data: Path) -> None:
    for i in range(COUNT):
        place = data / ("pos", "neg")[i % 2] / f"{i}.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"text {i} ends\nhere")


def mixed(data: Path) -> None:
    for i in range(COUNT):
        image(data / "photos" / f"p{i}.png", i)
    write_csv(data / "labels.csv", [{"file": f"photos/p{i}.png", "label": "ab"[i % 2]} for i in range(COUNT)])


def two_tables(data: Path) -> None:
    users = [{"id": f"u{i}", "age": 20 + i, "note": "x" * i} for i in range(12)]
    ratings = [
        {"rating_id": i, "user_id": f"u{i % 12}", "stars": i % 5 + 1, "note": f"said {i}"}
        for i in range(COUNT)
    ]
    write_csv(data / "users.csv", users)
    write_csv(data / "ratings.csv", ratings)


def gaps(data: Path) -> None:
    write_csv(
        data / "rows.csv",
        [row | {name: "" for name in ("size", "weight", "wet", "remark") if i % 7 == 3} | {"kind": "xy"[i % 2]
         if i % 9 else ""} for i, row in enumerate(rows())],
    )  # fmt: skip


def odd_images(data: Path) -> None:
    for i in range(COUNT):
        image(data / f"{i}.{'png' if i % 3 else 'jpg'}", i, (9 + i % 3, 8), "RGB" if i % 4 else "L")


KINDS = [
    folder_of_images, plain_csv, semicolons, tabs, parts_of_csv, no_header, packed_csv, json_lines, parquet,
    parquet_folder, arrow, orc, shards, saved, texts, mixed, two_tables, gaps, odd_images, avro, tfrecords,
]  # fmt: skip


def spec_of(*data: Path | str) -> JobSpec:
    return parse_spec(init_job([str(one) for one in data]))


def _main(spec: JobSpec) -> Any:
    return spec.sources[spec.main_names[0]]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_is_written_runs_and_loses_nothing(make: Callable[[Path], None], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    make(data)
    assert main(["init", str(data), "--output", str(tmp_path / "job.yaml")]) == 0
    job = load_job(tmp_path / "job.yaml")
    assert preview(job, tmp_path / "out").state == "new"
    result = run(job, tmp_path / "out")
    books = result.manifest.books
    letters = {name: book.dead_lettered for name, book in books.items()}
    assert set(letters.values()) == {0}, (tmp_path / "job.yaml").read_text()
    assert books[job.spec.main_names[0]].written == COUNT
    loaded = load(result.path, "train", batch_size=None, label=False, shuffle=False)
    assert sum(1 for _ in loaded) == result.manifest.splits["train"].records


def feature(spec: JobSpec, name: str) -> dict[str, Any]:
    return spec.features[name].model_dump(by_alias=True, exclude_defaults=True)


class TestWhatIsInferred:
    def test_folders_are_classes(self, tmp_path: Path) -> None:
        folder_of_images(tmp_path)
        spec = spec_of(tmp_path)
        assert spec.label == "label"
        assert feature(spec, "label")["names"] == "folders"
        assert feature(spec, "image") == {"type": "image", "formats": ["png"], "shape": (8, 9, 3)}

    def test_types_ranges_and_vocabularies(self, tmp_path: Path) -> None:
        plain_csv(tmp_path)
        spec = spec_of(tmp_path)
        assert spec.sources["rows"].key == "id"
        assert spec.label == "label"
        assert feature(spec, "label") == {"type": "class_label", "names": ["cat", "dog"]}
        assert feature(spec, "size") == {"type": "int64"}
        assert feature(spec, "weight") == {"type": "float32", "min": 0.0}
        assert feature(spec, "wet") == {"type": "bool"}
        assert feature(spec, "remark") == {"type": "text"}
        assert "id" not in spec.features

    def test_marks_for_no_value(self, tmp_path: Path) -> None:
        lines = [f"{'?' if i % 9 == 0 else i},{i / 3}" for i in range(60)]
        (tmp_path / "rows.csv").write_text("a,b\n" + "\n".join(lines))
        spec = spec_of(tmp_path)
        assert spec.sources["rows"].nulls[-1] == "?"
        assert feature(spec, "a") == {"type": "int64", "min": 0, "default": 0}

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (["1", "-2", "30"], "int64"),
            (["1.5", "-2e3", ".5"], "float32"),
            (["nan", "inf", "1.5"], "float32"),
            (["007", "008", "1.5"], "text"),
            (["99999999999999999999", "1", "2"], "text"),
            (["1,5", "2,5", "3,5"], "text"),
            (["yes", "No", "yes"], "bool"),
            (["2020-01-01", "2020-01-02", "2020-01-03"], "text"),
        ],
    )
    def test_texts(self, values: list[str], kind: str, tmp_path: Path) -> None:
        write_csv(tmp_path / "rows.csv", [{"name": f"n{i}", "v": value} for i, value in enumerate(values)])
        (tmp_path / "job.yaml").write_text(init_job([str(tmp_path / "rows.csv")]))
        job = load_job(tmp_path / "job.yaml")
        assert job.spec.features["v"].type == kind
        assert run(job, tmp_path / "out").manifest.books["rows"].written == 3

    def test_sentences_are_no_keys(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "rows.csv", [{"said": f"so {i}", "label": "ab"[i % 2]} for i in range(60)])
        spec = spec_of(tmp_path)
        assert spec.sources["rows"].key is None
        assert list(spec.features) == ["said", "label"]

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
    def test_encodings(self, encoding: str, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_bytes("größe,n\nklein,1\nüber,2\n".encode(encoding))
        (tmp_path / "job.yaml").write_text(init_job([str(tmp_path / "rows.csv")]))
        job = load_job(tmp_path / "job.yaml")
        assert job.spec.features["grosse"].source == "größe"
        assert preview(job, tmp_path / "out").state == "new"

    def test_rows_that_cannot_be_read_get_room(self, tmp_path: Path) -> None:
        lines = [f"{i},{i}" + (",3" if i % 20 == 1 else "") for i in range(100)]
        (tmp_path / "rows.csv").write_text("a,b\n" + "\n".join(lines))
        text = init_job([str(tmp_path)])
        assert parse_spec(text).write.max_dead_letters == pytest.approx(0.06)
        assert "ragged_row" in text

    def test_delimiters(self, tmp_path: Path) -> None:
        texts = {
            ";": "a;b\n1,5;x\n2,5;y\n",
            "\t": "a\tb\n1, 2\tx\n",
            "|": "a|b\n1|2\n",
            "whitespace": "a  b\n1    2\n",
        }
        for number, (delimiter, text) in enumerate(texts.items()):
            place = tmp_path / f"{number}" / "rows.csv"
            place.parent.mkdir()
            place.write_text(text)
            assert spec_of(place).sources["rows"].delimiter == delimiter

    def test_lists(self, tmp_path: Path) -> None:
        parquet(tmp_path)
        assert feature(spec_of(tmp_path), "box") == {"type": "int64", "shape": (4,)}

    def test_shards(self, tmp_path: Path) -> None:
        shards(tmp_path)
        spec = spec_of(tmp_path)
        assert _main(spec).kind == "webdataset"
        assert spec.label == "cls"
        assert feature(spec, "cls")["names"] == ["0", "1", "2", "3"]
        assert feature(spec, "png")["type"] == "image"

    def test_codes_that_begin_with_zero_stay_text(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").write_text("zip,n\n" + "".join(f"{i:05d},{i}\n" for i in range(60)))
        assert feature(spec_of(tmp_path), "n")["type"] == "int64"
        assert "key: zip" in init_job([str(tmp_path)])

    def test_columnar_files_of_two_shapes_are_two_tables(self, tmp_path: Path) -> None:
        for part in range(2):
            pq.write_table(
                pa.table({"user_id": [part * 2, part * 2 + 1], "n": [1, 2]}), tmp_path / f"a-{part}.parquet"
            )
        pq.write_table(pa.table({"id": [0, 1, 2, 3], "age": [5, 6, 7, 8]}), tmp_path / "user.parquet")
        text = init_job([str(tmp_path)])
        assert "${data}/a-*.parquet" in text or "a*.parquet" in text
        assert parse_spec(text).join[0].right_on == "id"

    def test_a_label_is_named_only_where_one_column_can_be_it(self, tmp_path: Path) -> None:
        records = [{"a": "xyz"[i % 3], "b": i % 2, "c": i / 9} for i in range(60)]
        write_csv(tmp_path / "rows.csv", records)
        text = init_job([str(tmp_path)])
        assert parse_spec(text).label is None
        assert "it may be a or b" in text
        write_csv(tmp_path / "rows.csv", [{"a": row["a"], "c": row["c"]} for row in records])
        assert spec_of(tmp_path).label == "a"

    def test_a_number_is_a_label_by_its_name(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "rows.csv", [{"target": i / 7, "c": "xy"[i % 2]} for i in range(60)])
        spec = spec_of(tmp_path)
        assert (spec.label, spec.features["target"].type) == ("target", "float32")

    def test_records_without_a_label_are_left_out_by_name(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "rows.csv", [{"n": i, "label": "ab"[i % 2] if i % 6 else ""} for i in range(60)])
        (tmp_path / "job.yaml").write_text(init_job([str(tmp_path / "rows.csv")]))
        books = run(load_job(tmp_path / "job.yaml"), tmp_path / "out").manifest.books["rows"]
        assert (books.written, books.dropped) == (50, {"no label": 10})

    def test_records_without_an_image_are_left_out_by_name(self, tmp_path: Path) -> None:
        images = [hf_data.png(i) if i % 6 else None for i in range(60)]
        pq.write_table(pa.table({"image": images, "n": range(60)}), tmp_path / "rows.parquet")
        (tmp_path / "job.yaml").write_text(init_job([str(tmp_path / "rows.parquet")]))
        books = run(load_job(tmp_path / "job.yaml"), tmp_path / "out").manifest.books["rows"]
        assert (books.written, books.dropped) == (50, {"no image": 10})

    def test_broken_images_get_room(self, tmp_path: Path) -> None:
        for i in range(40):
            image(tmp_path / f"{i}.png", i)
        for i in range(4):
            (tmp_path / f"bad{i}.png").write_bytes(b"no image")
        (tmp_path / "job.yaml").write_text(init_job([str(tmp_path)]))
        result = run(load_job(tmp_path / "job.yaml"), tmp_path / "out")
        books = next(iter(result.manifest.books.values()))
        assert (books.written, books.dead_lettered) == (40, 4)

    def test_splits_that_there_are_get_named(self, tmp_path: Path) -> None:
        for i in range(40):
            image(tmp_path / ("train", "test")[i % 2] / ("a", "b")[i // 20] / f"{i}.jpg", i)
        text = init_job([str(tmp_path)])
        assert feature(parse_spec(text), "label")["names"] == "folders"
        assert 'exclude: ["**/test/**"]' in text

    def test_masks_are_no_records(self, tmp_path: Path) -> None:
        for i in range(10):
            image(tmp_path / "images" / f"{i}.jpg", i)
            image(tmp_path / "masks" / f"{i}.png", i, mode="L")
        text = init_job([str(tmp_path)])
        assert _main(parse_spec(text)).include == ["images/*.jpg"]  # type: ignore[union-attr]
        assert "masks/0.png" in text

    def test_versions_that_headrace_wrote_are_no_data(self, tmp_path: Path) -> None:
        plain_csv(tmp_path)
        text = init_job([str(tmp_path)])
        (tmp_path / "job.yaml").write_text(text)
        run(load_job(tmp_path / "job.yaml"), tmp_path / "out")
        (tmp_path / "job.yaml").unlink()
        assert init_job([str(tmp_path)]) == text


class TestJoins:
    @pytest.mark.parametrize(
        ("names", "left"),
        [
            (lambda i: f"photos/p{i}.png", "path"),
            (lambda i: f"p{i}.png", "path"),
            (lambda i: f"p{i}", "stem"),
        ],
    )
    def test_images_with_a_table(self, names: Callable[[int], str], left: str, tmp_path: Path) -> None:
        for i in range(COUNT):
            image(tmp_path / f"photos/p{i}.png", i)
        write_csv(
            tmp_path / "t.csv", [{"what": names(i), "path": i, "label": "ab"[i % 2]} for i in range(COUNT)]
        )
        spec = spec_of(tmp_path)
        (join,) = spec.join
        assert (join.table, join.left_on, join.right_on) == ("t", left, "what")
        assert join.unmatched_left == "dead_letter"
        assert _main(spec).kind == "image_folder"
        # `path` is a column of images, so the table's is called anew.
        assert feature(spec, "t_path")["type"] == "int64"

    def test_images_without_a_row_are_dropped(self, tmp_path: Path) -> None:
        mixed(tmp_path)
        image(tmp_path / "photos/more.png", 1)
        (join,) = spec_of(tmp_path).join
        assert join.unmatched_left == "drop"

    def test_two_arguments(self, tmp_path: Path) -> None:
        mixed(tmp_path)
        (tmp_path / "labels.csv").rename(tmp_path / "other.csv")
        spec = spec_of(tmp_path / "photos", tmp_path / "other.csv")
        assert [join.table for join in spec.join] == ["other"]

    def test_tables_need_names_and_values(self, tmp_path: Path) -> None:
        two_tables(tmp_path)
        spec = spec_of(tmp_path)
        (join,) = spec.join
        assert (spec.main_names[0], join.table, join.left_on, join.right_on) == (
            "ratings",
            "users",
            "user_id",
            "id",
        )
        write_csv(tmp_path / "planets.csv", [{"planet": i, "mass": i} for i in range(1, 9)])
        text = init_job([str(tmp_path)])
        assert "planets.csv" in text
        assert len(parse_spec(text).join) == 1

    def test_a_test_set_is_no_table_to_look_up_in(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "train.csv", rows())
        write_csv(tmp_path / "test.csv", [{k: v for k, v in row.items() if k != "label"} for row in rows(20)])
        text = init_job([str(tmp_path)])
        assert "its columns are those of train but for label: test.csv" in text
        assert parse_spec(text).join == []

    def test_a_table_with_several_rows_of_an_image_is_named(self, tmp_path: Path) -> None:
        mixed(tmp_path)
        captions = [{"file": f"photos/p{i // 2}.png", "text": f"t {i}"} for i in range(COUNT)]
        write_csv(tmp_path / "captions.csv", captions)
        text = init_job([str(tmp_path)])
        assert [join.table for join in parse_spec(text).join] == ["labels"]
        assert "several rows have the same file" in text


def test_elpv(tmp_path: Path) -> None:
    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    assert main(["init", str(data), "--output", str(tmp_path / "job.yaml")]) == 0
    job = load_job(tmp_path / "job.yaml")
    (join,) = job.spec.join
    assert (join.table, join.left_on, join.right_on) == ("labels", "path", "file")
    labels = job.spec.sources["labels"]
    assert (labels.header, labels.delimiter) == (False, "whitespace")
    assert feature(job.spec, "image")["shape"] == (300, 300, 1)
    result = run(job, tmp_path / "out")
    assert result.manifest.books["images"].written == 2624
    assert result.manifest.books["labels"].written == 2624


HOSTILE = [
    'quote"s', "back\\slash", "a: b", "# c", "- d", "{e}", "[f]", "*g*", "é ü", "&h", "!i", "%j", "y", "null", "1.0",
    "'k'", "${data}", "l\nm", "n\tp", "\u2028q", "😀", "\x7f",
]  # fmt: skip


class TestHostileNames:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_of_files_and_folders(self, name: str, tmp_path: Path) -> None:
        data = tmp_path / name
        for i in range(6):
            image(data / name / f"{name}{i}.png", i)
            image(data / "other" / f"{i}.png", i)
        write_csv(tmp_path / f"{name}.csv", [{"id": i, "x": i} for i in range(6)])
        for place, count in ((data, 12), (tmp_path / f"{name}.csv", 6)):
            text = init_job([str(place)])
            (tmp_path / "job.yaml").write_text(text)
            found = preview(load_job(tmp_path / "job.yaml"), tmp_path / "out")
            assert found.records == count

    def test_of_columns_and_values(self, tmp_path: Path) -> None:
        data = tmp_path / "rows.csv"
        values = [f"{value}0" for value in HOSTILE]
        columns = [name for name in HOSTILE if name != "1.0"]  # a number is no header
        write_csv(data, [dict.fromkeys(columns, value) for value in values for _ in "abc"])
        (tmp_path / "job.yaml").write_text(init_job([str(data)]))
        job = load_job(tmp_path / "job.yaml")
        assert {feature.source or name for name, feature in job.spec.features.items()} == set(columns)
        assert feature(job.spec, "e")["names"] == sorted(values)
        result = run(job, tmp_path / "out")
        assert result.manifest.books["rows"].dead_lettered == 0

    def test_nothing_of_data_ends_a_comment(self, tmp_path: Path) -> None:
        (tmp_path / "evil\nname: other.xyz").write_text("x")
        plain_csv(tmp_path)
        text = init_job([str(tmp_path)])
        assert parse_spec(text).name != "other.xyz"
        assert "evil" in text


def test_the_same_text_for_any_order_of_listings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(tmp_path)
    two_tables(tmp_path)
    (tmp_path / "notes.docx").write_text("x")
    expected = init_job([str(tmp_path)])
    real, seed = os.scandir, random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)

    class Shuffled:
        def __init__(self, place: Any) -> None:
            with real(place) as entries:
                self._entries = list(entries)
            chance.shuffle(self._entries)

        def __enter__(self) -> Any:
            return iter(self._entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    for _ in range(3):
        assert init_job([str(tmp_path)]) == expected


class TestErrors:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(HeadraceError, match="The folder holds no file"):
            init_job([str(tmp_path)])

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(HeadraceError, match="There is no such folder"):
            init_job([str(tmp_path / "nowhere")])

    def test_nothing_usable(self, tmp_path: Path) -> None:
        (tmp_path / "a.docx").write_text("x")
        with pytest.raises(
            HeadraceError, match=r"Nothing here can be read as records(.|\n)*no source reads \.docx"
        ):
            init_job([str(tmp_path)])

    def test_an_existing_file_stays(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plain_csv(tmp_path)
        job = tmp_path / "job.yaml"
        job.write_text("mine")
        assert main(["init", str(tmp_path), "--output", str(job)]) == 1
        assert "The file exists already; nothing was written." in capsys.readouterr().err
        assert job.read_text() == "mine"
        assert main(["init", str(tmp_path), "--output", str(job), "--force"]) == 0
        assert _main(load_job(job).spec).kind == "csv"

    def test_to_standard_output(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plain_csv(tmp_path)
        assert main(["init", str(tmp_path), "--output", "-"]) == 0
        assert parse_spec(capsys.readouterr().out).label == "label"

    @pytest.mark.parametrize(
        "content", [b"", b"\0\1\2" * 50, b"[1, 2]", b"{", b"\n\n\n", b"PAR1", b'{"a": [{']
    )
    def test_files_that_are_not_what_they_are_called(self, content: bytes, tmp_path: Path) -> None:
        plain_csv(tmp_path)
        for suffix in ("jsonl", "json", "parquet", "arrow", "orc", "tar", "tar.gz", "png", "tsv"):
            (tmp_path / f"bad.{suffix}").write_bytes(content)
        text = init_job([str(tmp_path)])
        assert parse_spec(text).main_names[0] == "rows"
        assert "bad.parquet" in text


class TestUrls:
    def test_without_secrets(self) -> None:
        files = fsspec.filesystem("memory")
        files.pipe("/bucket/rows.csv", b"id,x\n" + b"".join(b"%d,%d\n" % (i, i) for i in range(60)))
        text = init_job(["memory://bucket/rows.csv"])
        assert "data: memory://bucket" in text
        assert parse_spec(text).sources["rows"].path == "${data}/rows.csv"

    @pytest.mark.parametrize(("user", "query"), [("", "?X-Signature=abc123"), ("user:pass-word@", "")])
    def test_secrets_are_not_written(self, user: str, query: str, tmp_path: Path) -> None:
        plain_csv(tmp_path)
        with servers.FileServer(tmp_path) as server:
            text = init_job([f"http://{user}127.0.0.1:{server.port}/rows.csv{query}"])
            assert "abc123" not in text
            assert "pass-word" not in text
            assert "credentials were left out" in text
            (tmp_path / "job.yaml").write_text(text)
            # With the whole URL as the variable it reads the file.
            full = f"http://127.0.0.1:{server.port}" + (f"/rows.csv{query}" if query else "")
            assert preview(load_job(tmp_path / "job.yaml", {"data": full}), tmp_path / "out").state == "new"

    def test_secrets_are_not_in_errors(self) -> None:
        with pytest.raises(HeadraceError) as caught:
            init_job(["https://user:pass-word@127.0.0.1:1/rows.csv?signature=abc123"])
        assert "pass-word" not in str(caught.value)
        assert "abc123" not in str(caught.value)

    def test_a_bucket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mixed(tmp_path)
        local = parse_spec(init_job([str(tmp_path)]))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with servers.s3_server() as port:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            servers.upload_s3(port, tmp_path, "set")
            text = init_job([f"s3://{servers.BUCKET}/set"])
        spec = parse_spec(text)
        assert spec.vars == {"data": f"s3://{servers.BUCKET}/set"}
        assert (spec.sources, spec.join, spec.features) == (local.sources, local.join, local.features)


def test_a_large_text_is_not_read_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_BYTES", 64 << 10)
    monkeypatch.setattr(sample, "_PIECE", 8 << 10)
    lines = (f"{i},{'early' if i < 19_900 else 'late'},{i / 7}\n" for i in itertools.count())
    (tmp_path / "rows.csv").write_text("id,label,x\n" + "".join(itertools.islice(lines, 20_000)))
    text = init_job([str(tmp_path)])
    spec = parse_spec(text)
    assert "looked at" in text
    assert feature(spec, "x") == {"type": "float32"}, "a bound of a part is none of all"
    assert spec.sources["rows"].key == "id"


def written_by_excel(path: Path, encoding: str) -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, dialect="excel-tab")
        writer.writerow(["ID", "Température", "Label"])
        writer.writerows([n, n / 2, ("a", "b")[n % 2]] for n in range(COUNT))


class TestWhatPeopleHave:
    @pytest.mark.parametrize(
        ("name", "encoding"),
        [("t.txt", "utf-16"), ("t.txt", "utf-8-sig"), ("t.tsv", "utf-8-sig"), ("t.txt", "latin-1")],
    )
    def test_tables_of_spreadsheets(self, name: str, encoding: str, tmp_path: Path) -> None:
        """A single text with tabs is a table; names keep their letters without the accents."""
        written_by_excel(tmp_path / name, encoding)
        text = init_job([str(tmp_path / name)])
        assert feature(parse_spec(text), "Temperature")["from"] == "Température"
        (tmp_path / "job.yaml").write_text(text)
        result = run(load_job(tmp_path / "job.yaml"), tmp_path / "out")
        assert result.manifest.books["t"].written == COUNT

    def test_a_text_without_tabs_is_a_text(self, tmp_path: Path) -> None:
        (tmp_path / "t.txt").write_text("It is, as ever,\na text, with, commas,\n")
        assert _main(parse_spec(init_job([str(tmp_path / "t.txt")]))).kind == "files"

    def test_zip_archives(self, tmp_path: Path) -> None:
        """Of one file, of a folder of images and the file of a table within."""
        folder_of_images(tmp_path / "pets")
        plain_csv(tmp_path / "data")
        archive = tmp_path / "all.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for place in sorted((tmp_path / "pets").rglob("*.png")):
                file.write(place, place.relative_to(tmp_path))
            file.write(tmp_path / "data/rows.csv", "data/rows.csv")
        for given, kind in (
            (archive, "image_folder"),
            (f"zip://pets::{archive}", "image_folder"),
            (f"zip://data/rows.csv::{archive}", "csv"),
            (f"zip://data::{archive}", "csv"),
        ):
            text = init_job([str(given)])
            assert _main(parse_spec(text)).kind == kind
            job = tmp_path / "job.yaml"
            job.write_text(text.replace("\nname: ", f"\nname: n{abs(len(str(given)))}"))
            books = run(load_job(job), tmp_path / "out").manifest.books
            assert [book.written for book in books.values()] == [COUNT]

    def test_folders_of_web_servers(self, tmp_path: Path) -> None:
        folder_of_images(tmp_path / "pets")
        (tmp_path / "rows").mkdir()
        parquet_folder(tmp_path / "rows")
        with WebServer(tmp_path) as server:
            for folder, kind in (("pets", "image_folder"), ("rows", "parquet")):
                spec = parse_spec(init_job([f"http://127.0.0.1:{server.port}/{folder}/"]))
                assert _main(spec).kind == kind
                assert spec.vars == {"data": f"http://127.0.0.1:{server.port}/{folder}"}

    def test_no_secret_of_an_archive(self, tmp_path: Path) -> None:
        assert without_secrets("zip://a/b::https://me:hush@h/a.zip?sig=hush") == "zip://a/b::https://h/a.zip"
        assert without_secrets("zip://::data/a.zip") == "zip://::data/a.zip"

    def test_databases(self, tmp_path: Path) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection:
            connection.execute("CREATE TABLE t (id INTEGER)")
        wanted = rf"(?s)read by table: `kind: sql, url: sqlite:///{tmp_path}/shop\.sqlite, table: NAME`"
        with pytest.raises(HeadraceError, match=wanted):
            init_job([str(tmp_path / "shop.sqlite")])
