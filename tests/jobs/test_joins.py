"""Joins: several keys, left, one to many, chained, broadcast and shuffled: same bytes, balanced books."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_jobs import join, run
from beam_jobs.inspect_dataset import inspect
from beam_jobs.job import Result, summary_lines
from beam_jobs.planning import plan_job
from beam_jobs.preview import preview, preview_lines
from beam_jobs.verify import verify
from schemas import HeadraceError
from tests.jobs.small_job import digests, encoded_image, make_job, options

JOB = """
name: frames
version: 1.0.0
vars: {data: unset}
sources:
  frames: {kind: csv, path: "${data}/frames.csv", key: id, partition_bytes: 1000}
  shots: {kind: csv, path: "${data}/shots.csv", partition_bytes: 500}
  lenses: {kind: csv, path: "${data}/lenses.csv", key: lens}
main: frames
join:
  - {table: shots, by: [camera, number], unmatched_left: keep, unmatched_right: dead_letter}
  - {table: lenses, left_on: lens, right_on: lens, prefix: lens_, unmatched_left: keep}
features:
  id: {type: text}
  exposure: {type: float32, default: -1}
  lens: {type: text, default: none}
  maker: {type: text, from: lens_maker, default: none}
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2, max_dead_letters: 50%}
"""
SHUFFLED = JOB.replace("number], ", "number], broadcast: 0, ").replace(
    "prefix: lens_,", "prefix: lens_, broadcast: 0,"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    frames = [f"f{n},c{n % 3},{n // 3}" for n in range(300)]
    frames[7] = "f7,,2"  # a key of which a part is missing
    frames[8] = "f8,c|1,2"  # and one that could be mistaken for another
    (tmp_path / "frames.csv").write_text("id,camera,number\n" + "\n".join(frames) + "\n")
    shots = [f"{0.5 * n},{n // 3},c{n % 3},{'wide' if n % 2 else 'tele'}" for n in range(250)]
    shots[20] = "1,,c1,tele"
    shots[30] = "ragged"
    shots += ["9,2,c1|,tele", "7,1,c1,wide"]  # the last repeats a key
    (tmp_path / "shots.csv").write_text("exposure,number,camera,lens\n" + "\n".join(shots) + "\n")
    (tmp_path / "lenses.csv").write_text("lens,maker\nwide,Acme\nfish,Other\n")
    return tmp_path


def records(result: Result) -> dict[str, dict[str, Any]]:
    assert verify(Path(result.path)).ok
    assert all(book.balanced for book in result.manifest.books.values())
    found = inspect(Path(result.path), records=100_000).records
    return {
        str(r.values["id"][0], "utf-8"): {**r.values, "split": r.split} for r in found if r.values is not None
    }


def letters(result: Result) -> list[dict[str, str]]:
    return pq.read_table(Path(result.path) / "dead_letters/dead_letters.parquet").to_pylist()


@pytest.mark.parametrize("text", [JOB, SHUFFLED], ids=["broadcast", "shuffled"])
def test_keys_of_several_columns_and_a_chain(
    text: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_BUCKET_BYTES", 1000)
    result = run(make_job(data, text), tmp_path / "out", options("multi_threading", 1))
    four = run(make_job(data, text), tmp_path / "four", options("multi_threading", 4))
    assert digests(Path(result.path)) == digests(Path(four.path))
    assert (result.shuffled != {}) == (text is SHUFFLED)
    found = records(result)
    assert len(found) == 300
    assert found["f10"]["exposure"][0] == 5
    assert (found["f10"]["lens"][0], found["f10"]["maker"][0]) == (b"tele", b"none")
    assert (found["f11"]["lens"][0], found["f11"]["maker"][0]) == (b"wide", b"Acme")
    for missing in ("f7", "f8", "f20", "f30", "f299"):
        assert found[missing]["exposure"][0] == -1
    shots, lenses = result.manifest.books["shots"], result.manifest.books["lenses"]
    unmatched = 3  # of f7, of f8, and one that no frame asks for
    assert (shots.read, shots.duplicates, shots.dead_lettered) == (252, 1, 2 + unmatched)
    assert (lenses.written, lenses.dropped) == (1, {"unmatched in frames": 1})
    of_shots = [letter for letter in letters(result) if letter["source"] == "shots"]
    assert [letter["origin"] for letter in of_shots] == [
        f"shots.csv, row {row}" for row in (21, 31, 252, 8, 9, 251)
    ]
    assert of_shots[2]["reason"] == "camera, number 'c1', '1' occurred before; the first row is used"
    assert of_shots[3]["key"] == "c1, 2"


def test_shuffled_and_broadcast_give_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_BUCKET_BYTES", 1000)
    held = run(make_job(data, JOB), tmp_path / "held")
    shuffled = run(make_job(data, SHUFFLED), tmp_path / "shuffled", options("multi_processing", 2))
    assert shuffled.shuffled == {"shots": 8, "lenses": 2}
    ours, theirs = digests(Path(held.path)), digests(Path(shuffled.path))
    assert {name for name in ours if ours[name] != theirs[name]} == {"manifest.json"}
    assert any("shuffled by key into 8 files" in line for line in summary_lines(shuffled))
    text = "\n".join(preview_lines(preview(make_job(data, SHUFFLED), tmp_path / "new"), "frames"))
    assert "a table, read in full and shuffled by key into 8 files" in text
    assert "held by every worker" in "\n".join(
        preview_lines(preview(make_job(data, JOB), tmp_path / "new"), "frames")
    )


MANY = """
name: words
version: 1.0.0
vars: {data: unset}
sources:
  images: {kind: csv, path: "${data}/images.csv", key: id, partition_bytes: 300}
  captions: {kind: csv, path: "${data}/captions.csv", partition_bytes: 300, types: {score: int64}}
main: [{source: images, limit: 1000}]
join:
  - {table: captions, left_on: id, right_on: image, many: list, unmatched_left: keep, unmatched_right: dead_letter}
clean: [{compute: {text: "array_to_string(text, '; ')"}}]
features:
  id: {type: text}
  score: {type: int64, shape: [null]}
  text: {type: text}
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2, max_dead_letters: 90%}
"""
EXPLODED = (
    MANY.replace("many: list", "many: explode")
    .replace("{type: int64, shape: [null]}", "{type: int64, default: 0}")
    .replace("array_to_string(text, '; ')", "coalesce(text, 'none')")
)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    (tmp_path / "images.csv").write_text("id\n" + "".join(f"i{n}\n" for n in range(100)))
    # Image n has n % 4 captions, which lie apart.
    rows = [(n, c) for c in range(4) for n in range(110) if c < n % 4]
    (tmp_path / "captions.csv").write_text(
        "image,score,text\n" + "".join(f"i{n},{100 * c + n},caption {c} of {n}\n" for n, c in rows)
    )
    return tmp_path


def broadcast(text: str, limit: str) -> str:
    return text.replace("many:", f"broadcast: {limit}, many:")


@pytest.mark.parametrize("limit", ["64MB", "0"])
def test_one_to_many_as_lists(
    limit: str, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_BUCKET_BYTES", 500)
    result = run(make_job(captions, broadcast(MANY, limit)), tmp_path / "out")
    found = records(result)
    assert len(found) == 100
    for n in range(100):
        assert list(found[f"i{n}"]["score"]) == [
            100 * c + n for c in range(n % 4)
        ]  # in the order of the source
        text = "; ".join(f"caption {c} of {n}" for c in range(n % 4))
        assert found[f"i{n}"]["text"][0] == text.encode()
    book = result.manifest.books["captions"]
    assert (book.read, book.written, book.dead_lettered) == (163, 150, 13)
    # Without a limit of its source that is small enough to cut; now with one.
    cut = run(
        make_job(captions, broadcast(MANY, limit).replace("limit: 1000", "limit: 10")), tmp_path / "cut"
    )
    kept = records(cut)
    book = cut.manifest.books["captions"]
    assert len(kept) == 10
    assert book.written == sum(len(record["score"]) for record in kept.values())
    assert book.dropped == {"its records were not written": 150 - book.written}


@pytest.mark.parametrize("limit", ["64MB", "0"])
def test_one_to_many_as_records(
    limit: str, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_BUCKET_BYTES", 500)
    job = make_job(captions, broadcast(EXPLODED, limit))
    result = run(job, tmp_path / "out", options("multi_threading", 1))
    assert digests(Path(result.path)) == digests(
        Path(run(job, tmp_path / "two", options("multi_threading", 4)).path)
    )
    book = result.manifest.books["images"]
    assert (book.read, book.added, book.written) == (100, 75, 175)
    assert result.manifest.books["captions"].written == 150
    assert "75 added by joins" in "\n".join(summary_lines(result))
    assert verify(Path(result.path)).ok
    rows, splits = defaultdict(list), defaultdict(set)
    for record in inspect(Path(result.path), records=1000).records:
        assert record.values is not None
        name = str(record.values["id"][0], "utf-8")
        rows[name].append(int(record.values["score"][0]))
        splits[name].add(record.split)
    for n in range(100):
        assert sorted(rows[f"i{n}"]) == ([100 * c + n for c in range(n % 4)] or [0])
        assert len(splits[f"i{n}"]) == 1  # what was one record stays in one split
    assert {next(iter(found)) for found in splits.values()} == {"train", "test"}


def test_one_to_many_that_must_not_be(captions: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="A key occurs more than once in the table 'captions'") as caught:
        run(make_job(captions, MANY.replace("many: list", "many: error")), tmp_path / "out")
    assert caught.value.value == "i2, again in captions.csv, row 83"
    job = make_job(captions, MANY.replace("unmatched_left: keep", "unmatched_left: error"))
    with pytest.raises(HeadraceError, match="A record matches no row of captions"):
        run(job, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("by: [camera, number]", "by: [camera, frame]", "There is no such column"),
        ("left_on: lens, right_on: lens", "left_on: lens, right_on: name", "There is no such column"),
        ("left_on: lens, right_on: lens", "left_on: [lens, id], right_on: lens", "as many columns"),
        ("left_on: lens, right_on: lens", "left_on: lens", "needs `by`, or both"),
        ("by: [camera, number]", "by: []", "at least one"),
        ("by: [camera, number]", "left_on: camera, right_on: camera", "both have a column of the same name"),
        ("by: [camera, number]", "by: camera, many: all", "'all' is not known here"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(
    old: str, new: str, message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeadraceError, match=message):
        plan_job(make_job(data, JOB, **{old: new}), tmp_path / "out")


@pytest.mark.parametrize("many", ["first", "list", "explode"])
@pytest.mark.parametrize("limit", ["64MB", "0"])
def test_updates_are_as_from_scratch(
    many: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a changed table the records change that use a changed row, or all rows of a key that has one more."""
    monkeypatch.setattr(join, "_BUCKET_BYTES", 300)
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    rng = np.random.default_rng(seed)
    data = tmp_path / "data"
    (data / "photos").mkdir(parents=True)
    for n in range(60):
        (data / f"photos/{n}.png").write_bytes(encoded_image(rng, "png"))
    rows = [f"{n % 70}.png,{n},{'abc'[n % 3]}" for n in range(120)]
    (data / "tags.csv").write_text("file,value,kind\n" + "\n".join(rows) + "\n")
    (data / "kinds.csv").write_text("kind,weight\na,1\nb,2\nc,3\n")
    kinds = "" if many == "list" else "  - {table: kinds, by: kind, unmatched_left: keep}\n"
    source = "" if many == "list" else '  kinds: {kind: csv, path: "${data}/kinds.csv"}\n'
    weight = "" if many == "list" else "  weight: {type: int64, default: 0}\n"
    shape = ", shape: [null]" if many == "list" else ", default: 0"
    text = (
        "name: photos\nversion: 1.0.0\nvars: {data: unset}\nsources:\n"
        '  photos: {kind: image_folder, path: "${data}/photos", partition_files: 8}\n'
        '  tags: {kind: csv, path: "${data}/tags.csv", partition_bytes: 200}\n'
        f"{source}main: photos\njoin:\n"
        f"  - {{table: tags, left_on: path, right_on: file, many: {many}, broadcast: {limit}, unmatched_left: keep}}\n"
        f"{kinds}features:\n  image: {{type: image}}\n  value: {{type: int64{shape}}}\n{weight}"
        "write: {shards: 3, max_dead_letters: 90%}\n"
    )
    run(make_job(data, text), tmp_path / "out")
    for number in range(2, 5):
        if rng.random() < 0.7:
            place = int(rng.integers(len(rows)))
            rows[place] = f"{rng.integers(70)}.png,{rng.integers(1000)},{'abc'[int(rng.integers(3))]}"
        if rng.random() < 0.5:
            rows.append(f"{rng.integers(70)}.png,{rng.integers(1000)},a")
        if rng.random() < 0.5:
            (data / f"photos/{rng.integers(60)}.png").write_bytes(encoded_image(rng, "png"))
        if rng.random() < 0.5:
            (data / "kinds.csv").write_text(f"kind,weight\na,1\nb,{rng.integers(100)}\nc,3\n")
        (data / "tags.csv").write_text("file,value,kind\n" + "\n".join(rows) + "\n")
        job = make_job(data, text.replace("version: 1.0.0", f"version: {number}.0.0"))
        updated = run(job, tmp_path / "out")
        fresh = run(job, tmp_path / f"fresh{number}")
        assert digests(Path(updated.path)) == digests(Path(fresh.path))
        assert updated.previous == f"{number - 1}.0.0"
        if many != "explode" and updated.partitions > updated.taken_over["partitions"]:
            assert updated.taken_over["records"] > 30


def test_a_table_that_is_shuffled_already_is_not_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: what is finished stays."""
    monkeypatch.setattr(join, "_BUCKET_BYTES", 1000)
    strict = SHUFFLED.replace("max_dead_letters: 50%", "max_dead_letters: 0")
    with pytest.raises(HeadraceError, match="Too many dead letters"):
        run(make_job(data, strict), tmp_path / "out")
    tables = tmp_path / "out/frames/.headrace/tables"
    before = {path.name: path.stat().st_mtime_ns for path in tables.iterdir()}
    assert sum(name.startswith("part-") for name in before) > 8
    next(path for path in tables.iterdir() if not path.name.startswith("part-")).unlink()
    with pytest.raises(HeadraceError, match="Too many dead letters"):
        run(make_job(data, strict), tmp_path / "out")
    after = {path.name: path.stat().st_mtime_ns for path in tables.iterdir()}
    assert before.keys() == after.keys()
    assert sum(before[name] != after[name] for name in before) == 1
    result = run(make_job(data, SHUFFLED), tmp_path / "out")
    fresh = run(make_job(data, SHUFFLED), tmp_path / "fresh")
    assert digests(Path(result.path)) == digests(Path(fresh.path))
    assert not list(tables.glob("*"))  # after the commit nobody needs them


def test_a_column_that_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(encoded_image(np.random.default_rng(0), "png"))
    (tmp_path / "tags.csv").write_text("file,value\na.png,1\n")
    text = (
        "name: photos\nversion: 1.0.0\nvars: {data: unset}\nsources:\n"
        '  photos: {kind: image_folder, path: "${data}/photos"}\n'
        '  tags: {kind: csv, path: "${data}/tags.csv"}\n'
        "join: [{table: tags, left_on: image, right_on: file}]\n"
        "features: {value: {type: int64}}\n"
    )
    with pytest.raises(HeadraceError, match="A column to join by has values that are no text"):
        run(make_job(tmp_path, text), tmp_path / "out")
