"""Promise 2: every record read is written, dead-lettered, dropped by name, or a duplicate."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_jobs import leaks, run
from beam_jobs.inspect_dataset import inspect
from beam_jobs.verify import verify
from schemas import HeadraceError
from tests.jobs.small_job import FAULTS, JOB, RECORDS, make_data, make_job


def test_every_planted_fault_is_in_the_books(tmp_path: Path) -> None:
    result = run(make_job(make_data(tmp_path, faults=True)), tmp_path / "out")
    manifest = result.manifest
    photos, labels = manifest.books["photos"], manifest.books["labels"]
    planted = RECORDS // 20
    dropped = sum(book == "drop" for _, book in FAULTS)
    assert photos.read == labels.read == RECORDS
    assert photos.dead_lettered == planted - dropped
    assert photos.dropped == {"tests.jobs.small_job:grade": 1, "withdrawn cells": 1}
    assert photos.written == RECORDS - planted == sum(split.records for split in manifest.splits.values())
    assert photos.balanced
    assert labels.balanced
    assert labels.dead_lettered == 2  # the row whose file is elsewhere, and that of the empty file
    expected = Counter(book for _, book in FAULTS if book != "drop")
    expected["join.unmatched"] += 2
    assert Counter(manifest.dead_letters) == expected


def test_dead_letters_say_where_and_why(tmp_path: Path) -> None:
    result = run(make_job(make_data(tmp_path, faults=True)), tmp_path / "out")
    letters = pq.read_table(result.path / "dead_letters" / "dead_letters.parquet").to_pylist()
    assert len(letters) == sum(result.manifest.dead_letters.values())
    by_rule = {
        f"{letter['stage']}.{letter['rule']}": letter for letter in letters if letter["source"] == "photos"
    }
    assert by_rule["validate.out_of_range"]["origin"].endswith("photo0087.png")
    assert by_rule["validate.out_of_range"]["reason"] == "probability: '1.5' is not in [0.0, 1.0]"
    assert "'unknown'" in by_rule["clean.tests.jobs.small_job:grade"]["reason"]
    assert by_rule["read.empty_file"]["origin"].endswith("photo0027.png")
    of_empty_file, of_stray_row = [letter for letter in letters if letter["source"] == "labels"]
    assert of_empty_file["origin"] == "labels.csv, row 28"
    assert of_stray_row["origin"] == "labels.csv, row 148"
    assert of_stray_row["key"] == "elsewhere/b/photo0147.png"


def test_duplicate_keys_keep_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(f"k{n},{n}\n" for n in range(500)))
    (tmp_path / "b.csv").write_text("id,x\n" + "".join(f"k{n},{n + 1000}\n" for n in range(490, 600)))
    result = run(make_job(tmp_path, TABLE), tmp_path / "out")
    books = result.manifest.books["rows"]
    assert (books.read, books.written, books.duplicates) == (610, 600, 10)
    letters = pq.read_table(result.path / "dead_letters" / "dead_letters.parquet").to_pylist()
    assert [letter["origin"] for letter in letters][:2] == ["b.csv, row 1", "b.csv, row 10"]
    assert letters[0]["reason"] == "has the key of a.csv, row 491"


def test_budget_stops_the_job_and_commits_nothing(tmp_path: Path) -> None:
    job = make_job(make_data(tmp_path, faults=True), **{"max_dead_letters: 20%": "max_dead_letters: 1%"})
    with pytest.raises(
        HeadraceError, match=r"Too many dead letters: 8 of 200 records of 'photos' \(4.00%\)"
    ) as caught:
        run(job, tmp_path / "out")
    assert "1 truncated_image, such as b/photo0007.jpg" in caught.value.what
    assert not (tmp_path / "out" / "cells" / "1.0.0").exists()
    letters = tmp_path / "out" / "cells" / ".headrace" / "dead_letters-1.0.0.parquet"
    assert str(letters) in (caught.value.hint or "")
    assert pq.read_table(letters).num_rows == 8


def test_raising_the_budget_goes_on_from_the_runs(tmp_path: Path) -> None:
    data = make_data(tmp_path, faults=True)
    with pytest.raises(HeadraceError, match="Too many dead letters"):
        run(make_job(data, **{"max_dead_letters: 20%": "max_dead_letters: 1%"}), tmp_path / "out")
    result = run(make_job(data), tmp_path / "out")
    assert result.partitions_reused == result.partitions > 1


def test_partitions_of_which_nothing_is_left(tmp_path: Path) -> None:
    """The user's function adds the label, and has no record to add it to."""
    job = make_job(make_data(tmp_path, faults=True), **{"partition_files: 16": "partition_files: 1"})
    result = run(job, tmp_path / "out")
    assert result.partitions > RECORDS // 2
    assert result.manifest.books["photos"].written == RECORDS - RECORDS // 20


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    job = make_job(make_data(tmp_path), **{"values: [withdrawn]": "values: [used]"})
    with pytest.raises(HeadraceError, match="No record is left to write"):
        run(job, tmp_path / "out")


def test_unmatched_rows_can_be_an_error(tmp_path: Path) -> None:
    job = make_job(
        make_data(tmp_path, faults=True), **{"unmatched_right: dead_letter": "unmatched_right: error"}
    )
    with pytest.raises(HeadraceError, match="2 rows of labels match no record"):
        run(job, tmp_path / "out")


def test_groups_stay_together(tmp_path: Path) -> None:
    result = run(make_job(make_data(tmp_path)), tmp_path / "out")
    assert JOB.count("by: module") == 1
    seen: dict[int, str] = {}
    for split, module in _modules(result.path):
        assert seen.setdefault(module, split) == split
    assert set(seen.values()) == {"train", "validation", "test"}


def _modules(version: Path) -> list[tuple[str, int]]:
    return [
        (record.split, int(record.values["module"][0]))
        for record in inspect(version, records=RECORDS).records
        if record.values is not None
    ]


@pytest.mark.parametrize("chunk", [4_000_000, 7])
def test_a_key_in_two_splits_is_a_leak(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_CHUNK_RECORDS", chunk)
    job = TABLE.replace("{fractions: {train: 1}}", "{fractions: {train: 0.5, test: 0.5}, by: x}")
    rows = [f"k{n},{n % 20}\n" for n in range(200)]
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(rows))
    assert run(make_job(tmp_path, job), tmp_path / "good", IN_MEMORY).manifest.books["rows"].written == 200
    (tmp_path / "a.csv").write_text(
        "id,x\n" + "".join(rows) + "".join(f"k{n},{(n + 1) % 20}\n" for n in range(50))
    )
    with pytest.raises(HeadraceError, match="keys have records in two splits"):
        run(make_job(tmp_path, job), tmp_path / "bad", IN_MEMORY)
    assert not (tmp_path / "bad" / "rows" / "1.0.0").exists()
    # Its shards were written already: another number of them must not find its way into the version.
    assert list((tmp_path / "bad" / "rows" / ".headrace" / "stage-1.0.0").glob("*-of-00001"))
    other = TABLE.replace("{train: 1}}", "{train: 0.5, test: 0.5}}\nwrite: {shards: 2}")
    result = run(make_job(tmp_path, other), tmp_path / "bad", IN_MEMORY)
    assert result.manifest.books["rows"].duplicates == 50
    assert verify(result.path).ok


IN_MEMORY = ["--direct_running_mode=in_memory"]

TABLE = """
name: rows
version: 1.0.0
vars: {data: unset}
sources:
  rows: {kind: csv, path: "${data}/*.csv", key: id, partition_bytes: 1000}
features:
  x: {type: int64}
split: {fractions: {train: 1}}
"""
