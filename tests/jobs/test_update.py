"""A version that takes over what has not changed: the bytes of a build from scratch, and only the rest is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import run
from beam_jobs.job import Result
from beam_jobs.listing import read_partitions
from beam_jobs.local_store import LocalStore
from beam_jobs.preview import preview, preview_lines
from beam_jobs.store_path import StorePath
from beam_jobs.verify import verify
from schemas import HeadraceError
from tests.jobs.small_job import (
    JOB,
    RECORDS,
    digests,
    encoded_image,
    make_data,
    make_job,
    options,
    planted_fault,
)

WIDE = JOB.replace("partition_files: 16", "partition_files: 8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", faults=True)


def prepare(data: Path, out: Path, version: str = "1.0.0", text: str = JOB, **more) -> Result:
    return run(make_job(data, text.replace("version: 1.0.0", f"version: {version}")), out, **more)


def check_update(data: Path, tmp_path: Path, version: str = "2.0.0", text: str = JOB, **more) -> Result:
    """Prepares a later version below `out`, which must be what a build from scratch gives."""
    updated = prepare(data, tmp_path / "out", version, text, **more)
    scratch = tmp_path / f"scratch-{version}"
    assert digests(updated.path) == digests(prepare(data, scratch, version, text).path)
    assert verify(updated.path).ok
    return updated


def photos(data: Path) -> list[Path]:
    return sorted(path for path in (data / "photos").rglob("*") if path.is_file())


def edit_labels(data: Path, edit: Callable[[list[str]], list[str]]) -> None:
    file = data / "labels.csv"
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([head, *edit(rows)]) + "\n")


def test_nothing_changed(data: Path, tmp_path: Path) -> None:
    first = prepare(data, tmp_path / "out")
    second = check_update(data, tmp_path)
    assert second.previous == "1.0.0"
    assert second.taken_over == {"partitions": second.partitions, "records": RECORDS, "shards": 6}
    for shard in first.path.glob("*.tfrecord*"):
        assert shard.stat().st_ino == (second.path / shard.name).stat().st_ino


def test_files_added_changed_and_deleted(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "out", text=WIDE)
    rng = np.random.default_rng(1)
    good = [path for path in photos(data) if path.stat().st_size > 1000]
    (data / "photos/a/new1.png").write_bytes(encoded_image(rng, "png"))
    (data / "photos/new2.jpg").write_bytes(encoded_image(rng))
    new = ["a/new1.png,0.1,3,24,20,used,new", "new2.jpg,0.9,77,24,20,used,new too"]
    edit_labels(data, lambda rows: rows + new)
    for path in good[10:13]:
        path.write_bytes(encoded_image(rng, "jpeg" if path.suffix == ".jpg" else "png"))
    for path in good[40:42]:
        path.unlink()
    updated = check_update(data, tmp_path, text=WIDE)
    # Three changed, two deleted, and the dead letters, which are tried again.
    letters = updated.manifest.books["photos"].dead_lettered
    assert 0 <= RECORDS - 5 - updated.taken_over["records"] <= letters


def test_a_row_of_a_joined_table_changed(data: Path, tmp_path: Path) -> None:
    """The table is another one then, and every run a new one: but only the records of that row are read again."""
    prepare(data, tmp_path / "out")
    edit_labels(data, lambda rows: [rows[0].replace(",used,", ",used,changed "), *rows[1:]])
    updated = check_update(data, tmp_path)
    assert updated.taken_over["partitions"] == 0
    letters = updated.manifest.books["photos"].dead_lettered
    assert updated.taken_over["records"] == RECORDS - letters - 1
    assert 1 <= updated.taken_over["shards"] < 6


def test_rows_added_before_and_taken_away(data: Path, tmp_path: Path) -> None:
    """Places in the table move; what was written, dropped or left unmatched follows."""
    prepare(data, tmp_path / "out")
    edit_labels(data, lambda rows: ["nowhere.png,0.2,1,24,20,used,", *rows[1:5], *rows[6:]])
    check_update(data, tmp_path)


def test_mended_dead_letters_are_read_alone(data: Path, tmp_path: Path) -> None:
    first = prepare(data, tmp_path / "out")
    letters = first.manifest.books["photos"].dead_lettered
    assert letters > 3
    empty = next(path for path in photos(data) if not path.stat().st_size)
    empty.write_bytes(encoded_image(np.random.default_rng(2), "jpeg" if empty.suffix == ".jpg" else "png"))
    edit_labels(
        data, lambda rows: [row.replace("elsewhere/", "").replace(",unknown,", ",0.5,") for row in rows]
    )
    updated = check_update(data, tmp_path)
    assert updated.manifest.books["photos"].dead_lettered == letters - 3
    assert updated.taken_over["records"] == RECORDS - letters


def test_many_versions_of_many_edits(data: Path, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    rng = np.random.default_rng(seed)
    prepare(data, tmp_path / "out")
    for number in range(2, 8):
        for _ in range(int(rng.integers(0, 6))):
            edit(data, rng, number)
        if rng.random() < 0.2:
            shutil.rmtree(tmp_path / f"out/cells/{number - 1}.0.0", ignore_errors=True)
        mode = options("multi_threading", int(rng.integers(1, 4)))
        text = JOB if rng.random() < 0.7 else JOB.replace("train: 3,", "train: 5,")
        check_update(data, tmp_path, f"{number}.0.0", text, options=mode)


def edit(data: Path, rng: np.random.Generator, number: int) -> None:
    """One random change of files and rows."""
    files = photos(data)
    path = files[int(rng.integers(len(files)))]
    kind = int(rng.integers(6))
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(encoded_image(rng, "jpeg" if path.suffix == ".jpg" else "png"))
    elif kind == 2:
        os.utime(path, ns=(1, int(rng.integers(2**40))))  # another time, the same bytes
    elif kind == 3:
        name = f"{'ab'[int(rng.integers(2))]}/new{number}-{int(rng.integers(1000))}.png"
        (data / "photos" / name).write_bytes(encoded_image(rng, "png"))
        row = [name, f"{rng.random():.6f}", str(int(rng.integers(9))), "24", "20", "used", "new"]
        content = (data / "photos" / name).read_bytes()
        content, row = (
            planted_fault(int(rng.integers(30)), content, row, rng) if rng.random() < 0.3 else (content, row)
        )
        (data / "photos" / name).write_bytes(content)
        edit_labels(data, lambda rows: [*rows, ",".join(row)])
    else:

        def change(rows: list[str]) -> list[str]:
            place = int(rng.integers(len(rows)))
            state = ("used", "withdrawn", "again")[int(rng.integers(3))]
            changed = rows[place].replace(",used,", f",{state},")
            return [*rows[:place], *([changed] if kind == 4 else []), *rows[place + 1 :]]

        edit_labels(data, change)


def test_the_version_before_the_last_serves_when_that_is_gone(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "out")
    photos(data)[3].unlink()
    prepare(data, tmp_path / "out", "2.0.0")
    shutil.rmtree(tmp_path / "out/cells/2.0.0")
    photos(data)[5].unlink()
    updated = check_update(data, tmp_path, "3.0.0")
    assert updated.previous == "1.0.0"
    assert updated.taken_over["records"] > RECORDS / 2


def test_an_unfinished_job_whose_version_before_is_gone(data: Path, tmp_path: Path) -> None:
    """Its runs refer to records of that version: they are made anew."""
    prepare(data, tmp_path / "out")
    photos(data)[3].unlink()
    strict = JOB.replace("max_dead_letters: 20%", "max_dead_letters: 0")
    with pytest.raises(HeadraceError, match="Too many dead letters"):
        prepare(data, tmp_path / "out", "2.0.0", strict)
    shutil.rmtree(tmp_path / "out/cells/1.0.0")
    updated = check_update(data, tmp_path)
    assert updated.previous is None


def test_another_number_of_shards(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "out")
    text = JOB.replace("{train: 3, validation: 1, test: 2}", "{train: 2, validation: 3, test: 2}")
    updated = check_update(data, tmp_path, text=text)
    assert updated.taken_over["records"] == RECORDS
    assert updated.taken_over["shards"] == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{train: 0.6, validation: 0.2, test: 0.2}", "{train: 0.5, validation: 0.3, test: 0.2}"),
        ("max: 1}", "max: 0.5}"),
        ("values: [withdrawn]", "values: [withdrawn, again]"),
        ("index: [label, probability, note, words]", "index: [label]"),
        ("label: label\n", "label: label\nseed: 5\n"),
    ],
)
def test_nothing_is_taken_over_by_a_job_that_makes_other_records(data, tmp_path, old, new) -> None:
    prepare(data, tmp_path / "out")
    text = JOB.replace(old, new)
    assert text != JOB
    text = text.replace("max_dead_letters: 20%", "max_dead_letters: 90%")
    updated = check_update(data, tmp_path, text=text)
    assert updated.previous is None
    assert not any(updated.taken_over.values())


def test_from_scratch(data: Path, tmp_path: Path) -> None:
    prepare(data, tmp_path / "out")
    updated = prepare(data, tmp_path / "out", "2.0.0", from_scratch=True)
    assert (updated.previous, updated.taken_over["records"]) == (None, 0)
    third = check_update(data, tmp_path, "3.0.0")
    assert third.previous == "2.0.0"


def test_a_damaged_shard_of_the_version_before_is_no_source(data: Path, tmp_path: Path) -> None:
    first = prepare(data, tmp_path / "out")
    for shard in first.path.glob("*.tfrecord*"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    photos(data)[0].unlink()
    with pytest.raises(HeadraceError, match="not as it was committed") as caught:
        prepare(data, tmp_path / "out", "2.0.0", JOB.replace("train: 3,", "train: 4,"))
    assert "--from-scratch" in (caught.value.hint or "")
    text = JOB.replace("train: 3,", "train: 4,")
    updated = prepare(data, tmp_path / "out", "2.0.0", text, from_scratch=True)
    assert digests(updated.path) == digests(prepare(data, tmp_path / "new", "2.0.0", text).path)


def test_worker_processes(data: Path, tmp_path: Path) -> None:
    mode = options("multi_processing", 2)
    prepare(data, tmp_path / "out", options=mode)
    photos(data)[7].unlink()
    updated = check_update(data, tmp_path, options=mode)
    assert updated.taken_over["records"] > RECORDS / 2


TABLE = """
name: rows
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}/rows.csv", key: id, partition_bytes: 2000}}
features: {id: {type: text}, number: {type: int64}}
write: {shards: {train: 4}, max_dead_letters: 20%}
"""


def test_rows_appended_to_a_table(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"r{number:05d},{number}" for number in range(1000)]
    (data / "rows.csv").write_text("id,number\n" + "\n".join(rows) + "\n")
    prepare(data, tmp_path / "out", text=TABLE)
    more = ["x1,1", "x2,two", "x3,3", "r00500,7"]  # a fault and a repeated key
    with (data / "rows.csv").open("a") as file:
        file.write("\n".join(more) + "\n")
    second = check_update(data, tmp_path, text=TABLE)
    assert second.taken_over["partitions"] >= second.partitions - 2
    assert second.manifest.books["rows"].duplicates == 1
    # The version before holds one of the two of that key: both partitions are read again.
    with (data / "rows.csv").open("a") as file:
        file.write("x4,4\n")
    third = check_update(data, tmp_path, "3.0.0", TABLE)
    assert third.taken_over["partitions"] in range(third.partitions - 4, third.partitions - 1)
    lines = (data / "rows.csv").read_text().splitlines()
    del lines[501]  # the first of the two: now the other one counts
    (data / "rows.csv").write_text("\n".join(lines) + "\n")
    fourth = check_update(data, tmp_path, "4.0.0", TABLE)
    assert fourth.manifest.books["rows"].duplicates == 0


def test_a_dry_run_says_what_would_be_done_and_does_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = make_job(data, WIDE)
    before = preview(job, out)
    assert not out.exists()
    assert (before.state, before.previous, before.unchanged, before.kept) == ("new", None, 0, 0)
    assert (before.records, before.to_read) == (RECORDS, before.bytes)
    assert before.shards == {"train": 3, "validation": 1, "test": 2}
    run(job, out)
    assert preview(job, out).state == "up to date"
    good = [path for path in photos(data) if path.stat().st_size > 1000]
    good[10].unlink()
    good[20].write_bytes(good[21].read_bytes())
    later = make_job(data, WIDE.replace("version: 1.0.0", "version: 2.0.0"))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    found = preview(later, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    done = run(later, out)
    assert (found.previous, found.unchanged) == ("1.0.0", done.taken_over["partitions"])
    kept = found.kept + sum(
        each.partition.records or 0
        for each in read_partitions(StorePath(LocalStore(out / "cells"), ".headrace/partitions-2.0.0.jsonl"))
        if each.committed
    )
    assert kept == done.taken_over["records"]
    assert 0 < found.to_read < found.bytes / 3
    assert any("from 1.0.0" in line for line in preview_lines(found, "photos"))
    assert "in the way" in preview(make_job(data, WIDE.replace("seed: 0", "") + "seed: 9\n"), out).state
