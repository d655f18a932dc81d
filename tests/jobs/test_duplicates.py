"""Duplicates: what is planted is found, one of each cluster survives; books, bytes and later versions stay right."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_jobs import run
from beam_jobs.diff import diff
from beam_jobs.job import Result
from beam_jobs.verify import verify
from schemas import HeadraceError
from schemas.hashing import split_of, split_positions
from schemas.naming import DUPLICATES, signatures_name
from tests.jobs.small_job import digests, make_job, options

JOB = """
name: pictures
version: 1.0.0
vars: {data: unset}
sources: {photos: {kind: image_folder, path: "${data}/photos", partition_files: 16}}
features:
  image: {type: image}
duplicates:
  checks: [{exact: [image]}, {near: {feature: image}}]
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2}
"""
PICTURES = 60


def picture(rng: np.random.Generator, height: int = 240, width: int = 320) -> Image.Image:
    """A picture with structure of all sizes, as photos have."""
    image = np.zeros((height, width, 3))
    for size in (3, 6, 12, 24):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        image += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64) / size
    return Image.fromarray((255 * (image - image.min()) / np.ptp(image)).astype(np.uint8))


def varied(image: Image.Image, how: str, rng: np.random.Generator) -> bytes:
    """The picture as a copy, encoded anew, resized or cropped."""
    if how == "cropped":
        left, top, right, bottom = rng.uniform(0.02, 0.1, 4)
        width, height = image.size
        image = image.crop(
            (
                round(left * width),
                round(top * height),
                round(width - right * width),
                round(height - bottom * height),
            )
        )
    if how == "resized":
        scale = rng.uniform(0.5, 2)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=90 if how == "same" else int(rng.integers(30, 80)))
    return sink.getvalue()


def split_of_key(name: str) -> str:
    """The split that a picture of the job below is in."""
    return ("train", "test")[int(split_of(split_positions([name.encode()], 0), [0.5, 0.5])[0])]


HOW = ("same", "encoded anew", "resized", "cropped")


def make_photos(folder: Path, *, planted: int = 16, seed: int = 7) -> dict[str, str]:
    """Photos below `folder`; gives the name of each planted duplicate, and what it is one of."""
    rng = np.random.default_rng(seed)
    pairs = {}
    (folder / "photos").mkdir(parents=True)
    for number in range(PICTURES):
        image = picture(rng)
        name = f"p{number:03d}.jpg"
        (folder / "photos" / name).write_bytes(varied(image, "same", rng))
        if number < planted:
            again = f"q{number:03d}.jpg"
            (folder / "photos" / again).write_bytes(varied(image, HOW[number % 4], rng))
            pairs[again] = name
    return pairs


def check_rows(rows: list[dict[str, Any]], pairs: dict[str, str]) -> None:
    """Every planted pair is listed, and no other; what lies in the first split survives, else the first in order."""
    listed = {frozenset((row["origin"], row["survivor_origin"])) for row in rows}
    assert listed == {frozenset(pair) for pair in pairs.items()}
    assert len(listed) == len(rows)
    for row in rows:
        if row["split"] == row["survivor_split"]:
            assert row["survivor_origin"] < row["origin"]
        else:
            assert row["survivor_split"] == "train"


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def report(version: Path) -> list[dict[str, Any]]:
    return pq.read_table(version / DUPLICATES).to_pylist()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    data = tmp_path_factory.mktemp("data")
    return data, make_photos(data)


@pytest.fixture(scope="module")
def first(planted: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(make_job(planted[0], JOB), tmp_path_factory.mktemp("out"), options("in_memory", 1))


def test_all_planted_are_found_and_only_they(first: Result, planted: tuple[Path, dict[str, str]]) -> None:
    pairs = planted[1]
    rows = report(first.path)
    check_rows(rows, pairs)
    assert all(row["left_out"] for row in rows)
    kinds = {row["origin"][1:]: row["kind"] for row in rows}
    assert kinds == {
        again[1:]: "exact: image" if number % 4 == 0 else "near: image"
        for number, again in enumerate(sorted(pairs))
    }
    assert any(row["split"] != row["survivor_split"] for row in rows)
    books = first.manifest.books["photos"]
    assert books.dropped == {"exact duplicate": 4, "near-duplicate": 12}
    assert books.written == PICTURES
    assert books.balanced
    found = first.manifest.duplicates
    assert found is not None
    assert (found.records, found.clusters, found.left_out) == (PICTURES + 16, 16, 16)
    assert found.pairs_across_splits == 0
    assert verify(first.path).ok


@pytest.mark.parametrize(("mode", "workers"), [("multi_threading", 4), ("multi_processing", 2)])
def test_same_bytes(
    mode: str, workers: int, first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    again = run(make_job(planted[0], JOB), tmp_path, options(mode, workers))
    assert digests(again.path) == digests(first.path)


def changed(job: str, **pieces: str) -> str:
    for old, new in pieces.items():
        assert old in job
        job = job.replace(old, new)
    return job


def test_a_report_leaves_everything_where_it_is(planted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    text = changed(JOB, **{"split:": "  action: report\nsplit:"})
    result = run(make_job(planted[0], text), tmp_path)
    rows = report(result.path)
    check_rows(rows, planted[1])
    assert not any(row["left_out"] for row in rows)
    found = result.manifest.duplicates
    assert found is not None
    assert (found.clusters, found.left_out) == (16, 0)
    assert found.pairs_across_splits == sum(row["split"] != row["survivor_split"] for row in rows) > 0
    assert result.manifest.books["photos"].dropped == {}


def test_only_what_straddles_splits_is_left_out(
    first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    text = changed(JOB, **{"split:": "  action: keep_within_split\nsplit:"})
    result = run(make_job(planted[0], text), tmp_path)
    rows = report(result.path)
    across = [row for row in rows if row["split"] != row["survivor_split"]]
    assert [row for row in rows if row["left_out"]] == across
    assert 0 < len(across) < 16
    found = result.manifest.duplicates
    assert found is not None
    assert (found.left_out, found.pairs_across_splits) == (len(across), 0)
    assert result.manifest.books["photos"].written == PICTURES + 16 - len(across)


def test_the_survivor_is_chosen_by_the_rule(planted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    text = changed(JOB, **{"split:": "  keep: largest\nsplit:"})
    rows = report(run(make_job(planted[0], text), tmp_path).path)
    sizes = {path.name: path.stat().st_size for path in (planted[0] / "photos").iterdir()}
    assert len(rows) == 16
    within = [row for row in rows if row["split"] == row["survivor_split"]]
    assert within
    assert all(sizes[row["survivor_origin"]] >= sizes[row["origin"]] for row in within)
    text = changed(JOB, **{"split:": "  keep: hash\nsplit:"})
    rows = report(run(make_job(planted[0], text), tmp_path / "hash").path)
    within = [row for row in rows if row["split"] == row["survivor_split"]]
    assert within
    assert all(row["survivor_key_hash"] < row["key_hash"] for row in within)


def test_a_later_version_is_what_a_build_from_scratch_gives(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_photos(data, planted=8)
    run(make_job(data, JOB), tmp_path / "out")
    rng = np.random.default_rng(11)
    # One survivor goes, so that what was left out for it comes back; another picture gets a duplicate.
    (data / "photos/p002.jpg").unlink()
    again = opened(data / "photos/p050.jpg")
    (data / "photos/a_new.jpg").write_bytes(varied(again, "cropped", rng))
    text = changed(JOB, **{"version: 1.0.0": "version: 2.0.0"})
    updated = run(make_job(data, text), tmp_path / "out")
    assert updated.previous == "1.0.0"
    assert updated.taken_over["records"] > PICTURES // 2
    scratch = run(make_job(data, text), tmp_path / "scratch")
    assert digests(updated.path) == digests(scratch.path)
    pairs = {frozenset((row["origin"], row["survivor_origin"])) for row in report(updated.path)}
    assert len(pairs) == 8
    assert {"a_new.jpg", "p050.jpg"} in pairs
    assert not any("q002.jpg" in pair for pair in pairs)
    assert verify(updated.path).ok


def test_no_record_of_another_split_changes_the_first(
    first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Not even one that two records of `train` are like, or that comes before what it is like."""
    data, rng = tmp_path / "data", np.random.default_rng(13)
    (data / "photos").mkdir(parents=True)
    test = {row["origin"] for row in report(first.path) if row["split"] == "test"}
    for path in (planted[0] / "photos").iterdir():
        if path.name not in test:
            (data / "photos" / path.name).write_bytes(path.read_bytes())
    train = [path for path in sorted((data / "photos").iterdir()) if split_of_key(path.name) == "train"]
    for number, path in enumerate(train[:6]):
        added = [
            name
            for name in (f"a{number}{letter}.jpg" for letter in "bcdefghijkl")
            if split_of_key(name) == "test"
        ]
        (data / "photos" / added[0]).write_bytes(varied(opened(path), HOW[number % 4], rng))
    result = run(make_job(data, JOB), tmp_path)
    for shard, again in zip(
        first.manifest.splits["train"].shards, result.manifest.splits["train"].shards, strict=True
    ):
        assert shard.sha256 == again.sha256
        assert (first.path / signatures_name(shard.path)).read_bytes() == (
            result.path / signatures_name(shard.path)
        ).read_bytes()
    left = {row["origin"] for row in report(result.path) if row["left_out"] and row["split"] == "test"}
    assert len([name for name in left if name.startswith("a")]) == 6


def test_what_an_earlier_version_has_is_left_out(
    first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data, rng = tmp_path / "data", np.random.default_rng(12)
    (data / "photos").mkdir(parents=True)
    for number in range(12):
        if number < 6:  # of pictures that the earlier version has, under other names
            image = opened(planted[0] / f"photos/p{30 + number:03d}.jpg")
            found = (
                varied(image, HOW[number % 4], rng)
                if number
                else (planted[0] / "photos/p030.jpg").read_bytes()
            )
        else:
            found = varied(picture(rng), "same", rng)
        (data / f"photos/n{number:03d}.jpg").write_bytes(found)
    # The same record in both is no duplicate of itself.
    (data / "photos/p040.jpg").write_bytes((planted[0] / "photos/p040.jpg").read_bytes())
    text = changed(
        JOB,
        **{
            "split:": '  against: ["${old}"]\nsplit:',
            "vars: {data: unset}": f"vars: {{data: unset, old: {first.path}}}",
        },
    )
    result = run(make_job(data, text), tmp_path)
    rows = report(result.path)
    assert [row["origin"] for row in rows] == [f"n{number:03d}.jpg" for number in range(6)]
    assert {row["survivor_source"] for row in rows} == {"${old}"}
    assert rows[0]["kind"] == "exact: image"
    assert result.manifest.books["photos"].written == 7
    entry = result.manifest.duplicates
    assert entry is not None
    assert entry.against == {"${old}": first.manifest.fingerprint}


def test_a_version_without_signatures_cannot_be_compared_with(
    planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    plain = changed(JOB, **{JOB[JOB.index("duplicates:") : JOB.index("split:")]: ""})
    old = run(make_job(planted[0], plain), tmp_path / "old")
    assert old.manifest.duplicates is None
    assert '"duplicates": {' not in (old.path / "manifest.json").read_text()
    compared = run(make_job(planted[0], JOB), tmp_path / "new")
    assert {change.field for change in diff(old.path, compared.path).duplicates} > {"clusters", "left_out"}
    text = changed(JOB, **{"split:": f"  against: [{old.path}]\nsplit:"})
    with pytest.raises(HeadraceError, match="does not have the signatures of these checks"):
        run(make_job(planted[0], text), tmp_path)


def test_a_stopped_job_goes_on_to_the_same_bytes(
    first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("stopped")

    for place in ("beam_jobs.duplicates.decide.write_report", "beam_jobs.assemble.sign_shard"):
        monkeypatch.setattr(place, fail)
        with pytest.raises(Exception, match="stopped"):
            run(make_job(planted[0], JOB), tmp_path, options("in_memory", 1))
        monkeypatch.undo()
    result = run(make_job(planted[0], JOB), tmp_path, options("in_memory", 1))
    assert result.partitions_reused == result.partitions
    assert digests(result.path) == digests(first.path)


def guide() -> list[str]:
    """The blocks of the guide that say `duplicates:`."""
    page = (Path(__file__).parents[2] / "docs/duplicates.md").read_text("utf-8")
    return re.findall(r"```yaml\n(duplicates:\n.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("block", guide())
def test_what_the_guide_says_runs(
    block: str, first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    if "body" in block:
        words = [f"word{n}" for n in range(50)]
        rows = [
            "id,body,topic",
            f"a,{' '.join(words)},t",
            f"b,{' '.join([*words, 'more'])},t",
            "c,other words,t",
        ]
        (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
        text = TEXTS[: TEXTS.index("duplicates:")] + block + TEXTS[TEXTS.index("split:") :]
        assert run(make_job(tmp_path, text), tmp_path).manifest.books["rows"].dropped == {"near-duplicate": 1}
        return
    text = JOB[: JOB.index("duplicates:")] + block + JOB[JOB.index("split:") :]
    if "against" in block:
        text = text.replace("[1.0.0]", f"[{first.path}]").replace("version: 1.0.0", "version: 2.0.0")
    found = run(make_job(planted[0], text), tmp_path).manifest.duplicates
    assert found is not None
    assert found.pairs_across_splits == 0
    assert found.clusters == (4 if "near" not in block else 16)


TEXTS = """
name: texts
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}/rows.csv", key: id, partition_bytes: 4000}}
features:
  body: {type: text}
  topic: {type: text}
duplicates:
  checks:
    - exact: [body, topic]
    - near: {feature: body, similarity: 0.8}
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 1}
"""


def test_texts_that_are_nearly_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows, expected = ["id,body,topic"], {}
    for number in range(120):
        words = [f"word{n}" for n in rng.integers(0, 2000, 60)]
        rows.append(f"a{number},{' '.join(words)},t{number % 3}")
        if number < 20:
            if number % 2:
                words[30] = "edited"
            rows.append(f"b{number},{' '.join(words)},t{number % 3}")
            expected[f"b{number}"] = "near: body" if number % 2 else "exact: body, topic"
    rows += [f"c{number},,t0" for number in range(5)]  # no text, which is like no other
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    text = changed(TEXTS, **{"body: {type: text}": 'body: {type: text, default: ""}'})
    text = changed(text, **{"    - exact: [body, topic]\n": ""}) + ""
    result = run(make_job(tmp_path, text), tmp_path / "near")
    assert result.manifest.books["rows"].dropped == {"near-duplicate": 20}
    result = run(
        make_job(tmp_path, changed(TEXTS, **{"body: {type: text}": 'body: {type: text, default: ""}'})),
        tmp_path,
    )
    listed = report(result.path)
    kinds = [row["kind"] for row in listed]
    assert sorted(kinds) == sorted([*expected.values(), *["exact: body, topic"] * 4])
    assert result.manifest.books["rows"].dropped == {"exact duplicate": 14, "near-duplicate": 10}
    assert all(row["distance"] <= 0.2 for row in listed)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("exact: [image]", "exact: [picture]", "no feature is called 'picture'"),
        ("near: {feature: image}", "near: {feature: image, similarity: 0.9}", "not for image features"),
        ("{exact: [image]}", "{exact: [image], near: {feature: image}}", "a check is either"),
        ("near: {feature: image}", "near: {feature: number}", "neither an image nor a text"),
    ],
)
def test_checks_that_cannot_be(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = changed(
        JOB, **{old: new, "  image: {type: image}": "  image: {type: image}\n  number: {type: int64}"}
    )
    with pytest.raises(HeadraceError, match=message):
        make_job(tmp_path, text)


def test_exact_fractions_are_of_what_is_left(planted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    text = changed(JOB, **{"test: 0.5}}": "test: 0.5}, exact: true}"})
    result = run(make_job(planted[0], text), tmp_path)
    assert [split.records for split in result.manifest.splits.values()] == [PICTURES // 2, PICTURES // 2]
    assert {row["origin"]: row["survivor_origin"] for row in report(result.path)} == planted[1]
    found = result.manifest.duplicates
    assert found is not None
    assert found.pairs_across_splits == 0
    with pytest.raises(HeadraceError, match="not `exact` or `stratify`"):
        make_job(tmp_path, changed(text, **{"split:": "  action: keep_within_split\nsplit:"}))
    listed = run(
        make_job(planted[0], changed(text, **{"split:": "  action: report\nsplit:"})), tmp_path / "listed"
    )
    assert listed.manifest.duplicates is not None
    assert listed.manifest.duplicates.pairs_across_splits > 0


def test_a_damaged_file_of_signatures_is_noticed(
    first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(first.path, old)
    file = next((old / "signatures").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    text = changed(JOB, **{"split:": f"  against: [{old}]\nsplit:"})
    with pytest.raises(HeadraceError, match="file of signatures is not as it was committed"):
        run(make_job(planted[0], text), tmp_path)
