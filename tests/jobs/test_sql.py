"""A job on a database: images in PostgreSQL, labels in MariaDB or MySQL, and nothing anywhere that shows a password."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_jobs import Job, load_job, run
from beam_jobs.sources import Partition
from beam_jobs.sources.sql import Sql
from beam_jobs.verify import verify
from schemas import HeadraceError
from tests.jobs.small_job import digests, encoded_image
from tests.sources.sql_work import PASSWORD_ENV, Work, working
from tests.sql_servers import PASSWORD

ROOT = Path(__file__).resolve().parents[2]
RECORDS = 120
COMMAND = "import sys; from beam_jobs.cli import entry; sys.exit(entry())"
JOB = """
name: cells
version: 1.0.0
vars: {photos: unset, labels: unset}
sources:
  photos: {kind: sql, url: "${photos}", password_env: PASSWORD_ENV, table: photos, partition_rows: 16}
  labels:
    kind: sql
    url: "${labels}"
    password_env: PASSWORD_ENV
    query: SELECT photo, grade, score FROM labels WHERE state = :state
    params: {state: used}
    key: photo
    partition_rows: 32
main: photos
join:
  - {table: labels, left_on: id, right_on: photo, unmatched_left: dead_letter, unmatched_right: drop}
features:
  image: {type: image, formats: [jpeg, png], shape: [null, null, 3]}
  label: {type: class_label, names: [good, bad], from: grade}
  score: {type: float32, min: 0, max: 1}
  taken: {type: text}
label: label
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: {train: 2, test: 1}, max_dead_letters: 20%}
""".replace("PASSWORD_ENV", PASSWORD_ENV)


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[Work, Work]]:
    with working("postgresql") as images, working(request.param) as labels:
        yield images, labels


@pytest.fixture
def places(servers: tuple[Work, Work], monkeypatch: pytest.MonkeyPatch) -> tuple[Work, Work]:
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
    images, labels = servers
    rng = np.random.default_rng(5)
    photos = [
        (i, encoded_image(rng) if i % 30 != 7 else b"no image", f"2024-01-{i % 28 + 1:02d}")
        for i in range(RECORDS)
    ]
    images.run(
        "DROP TABLE IF EXISTS photos",
        "CREATE TABLE photos (id bigint PRIMARY KEY, image bytea, taken text)",
        rows=("INSERT INTO photos VALUES (?, ?, ?)", photos),
    )
    graded = [
        (i, ("good", "bad")[i % 2], f"{rng.random():.4f}", "withdrawn" if i == 40 else "used")
        for i in range(RECORDS)
    ]
    labels.run(
        "DROP TABLE IF EXISTS labels",
        "CREATE TABLE labels (photo bigint, grade varchar(9), score decimal(6, 4), state varchar(9))",
        rows=("INSERT INTO labels VALUES (?, ?, ?, ?)", graded),
    )
    return images, labels


def job(places: tuple[Work, Work], folder: Path, version: str = "1.0.0") -> Job:
    folder.mkdir(exist_ok=True)
    file = folder / "job.yaml"
    file.write_text(JOB.replace("version: 1.0.0", f"version: {version}"))
    return load_job(file, {"photos": places[0].url, "labels": places[1].url})


def test_images_and_labels_of_two_databases(places: tuple[Work, Work], tmp_path: Path) -> None:
    result = run(job(places, tmp_path), tmp_path / "out")
    assert verify(result.path).ok
    books = result.manifest.books["photos"]
    assert (books.read, books.written, books.dead_lettered) == (RECORDS, RECORDS - 5, 5)
    letters = pq.read_table(result.path / "dead_letters" / "dead_letters.parquet").to_pylist()
    assert {(letter["key"], letter["rule"]) for letter in letters} == {
        *((str(i), "unknown_format") for i in (7, 37, 67, 97)),
        ("40", "unmatched"),
    }
    assert all(letter["origin"].startswith("photos, id ≥ ") for letter in letters)
    again = run(job(places, tmp_path), tmp_path / "other", ["--direct_num_workers=1"])
    assert digests(again.path) == digests(result.path)


def test_later_version_takes_over_what_is_unchanged(places: tuple[Work, Work], tmp_path: Path) -> None:
    run(job(places, tmp_path), tmp_path / "out")
    places[0].run(
        "UPDATE photos SET taken = 'later' WHERE id = 50",
        "DELETE FROM photos WHERE id = 90",
        "INSERT INTO photos SELECT 9999, image, taken FROM photos WHERE id = 51",
    )
    later = run(job(places, tmp_path, "1.1.0"), tmp_path / "out")
    scratch = run(job(places, tmp_path, "1.1.0"), tmp_path / "scratch")
    assert digests(later.path) == digests(scratch.path)


def test_rows_changed_meanwhile_commit_nothing(
    places: tuple[Work, Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run goes on from there, with the rows as they are then."""
    planned = Sql.partitions

    def changing(source: Sql) -> list[Partition]:
        found = planned(source)
        if source.name == "photos":
            places[0].run("UPDATE photos SET taken = 'later' WHERE id = 60")
        return found

    monkeypatch.setattr(Sql, "partitions", changing)
    with pytest.raises(HeadraceError, match="Rows were changed while the job was reading them"):
        run(job(places, tmp_path), tmp_path / "out")
    assert not (tmp_path / "out" / "cells" / "1.0.0").exists()
    monkeypatch.undo()
    monkeypatch.setenv(PASSWORD_ENV, PASSWORD)
    again = run(job(places, tmp_path), tmp_path / "out")
    assert digests(again.path) == digests(run(job(places, tmp_path), tmp_path / "scratch").path)


def test_no_password_anywhere(
    places: tuple[Work, Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(places, tmp_path)
    monkeypatch.setenv("WHOLE_URL", places[0].url.replace("reader@", f"reader:{PASSWORD}@"))
    text = (tmp_path / "job.yaml").read_text()
    first = f'url: "${{photos}}", password_env: {PASSWORD_ENV}'
    assert first in text
    (tmp_path / "whole.yaml").write_text(text.replace(first, "url_env: WHOLE_URL"))
    (tmp_path / "wrong.yaml").write_text(text.replace("table: photos", "table: nowhere"))
    said = {}
    for name in ("job", "whole", "wrong"):
        values = [f"--var=photos={places[0].url}", f"--var=labels={places[1].url}"]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "run", f"{name}.yaml", "--out", f"out-{name}", *values],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        said[name] = done.stdout + done.stderr
        assert done.returncode == (name == "wrong"), said[name]
    assert "There is no such table" in said["wrong"]
    secret = PASSWORD.encode()
    assert secret not in "".join(said.values()).encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if secret in path.read_bytes()] == []


def test_wrong_password_is_an_error_without_it(
    places: tuple[Work, Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, photos, labels = JOB.rpartition(PASSWORD_ENV)
    for text in (JOB.replace(PASSWORD_ENV, "OTHER", 1), f"{head}OTHER{labels}"):
        assert photos in text
        monkeypatch.setenv("OTHER", "another-Pa55")
        file = tmp_path / "job.yaml"
        file.write_text(text)
        with pytest.raises(HeadraceError, match="The database refuses") as caught:
            run(load_job(file, {"photos": places[0].url, "labels": places[1].url}), tmp_path / "out")
        assert "password_env" in str(caught.value)
        assert "another-Pa55" not in "".join(traceback.format_exception(caught.value))


STORED = """
name: rows
version: 1.0.0
vars: {file: unset}
sources:
  rows: {kind: sql, url: "duckdb:///${file}", table: rows, key: id, partition_rows: 100}
features:
  label: {type: class_label, names: [good, bad]}
  score: {type: float32, min: 0}
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: {train: 2, test: 1}, max_dead_letters: 20%}
"""
FILLED = """CREATE TABLE rows AS SELECT g AS id, g / 8 AS score,
CASE WHEN g % 400 = 7 THEN 'ugly' WHEN g % 2 = 0 THEN 'good' ELSE 'bad' END AS label
FROM range(3000) r(g) ORDER BY """


def stored(folder: Path, order: str, version: str = "1.0.0") -> Job:
    """The job in a folder of its own, with its rows stored in this order."""
    folder.mkdir(exist_ok=True)
    if order:
        Work("duckdb", place=folder).run(FILLED + order)
    (folder / "job.yaml").write_text(STORED.replace("version: 1.0.0", f"version: {version}"))
    return load_job(folder / "job.yaml", {"file": str(folder / "work.duckdb")})


def test_duckdb_rows_give_the_same_shards_however_they_are_stored(tmp_path: Path) -> None:
    """Dead letters too, but for where they were found."""
    found, letters = [], []
    for number, order in enumerate(("id", "hash(id)", "label, id DESC")):
        result = run(stored(tmp_path / str(number), order), tmp_path / str(number) / "out")
        found.append({name: data for name, data in digests(result.path).items() if "tfrecord" in name})
        table = pq.read_table(result.path / "dead_letters" / "dead_letters.parquet")
        letters.append(
            sorted(table.drop_columns(["origin"]).to_pylist(), key=lambda letter: int(letter["key"]))
        )
    assert found[0]
    assert found[0] == found[1] == found[2]
    assert len(letters[0]) == 8
    assert letters[0] == letters[1] == letters[2]


def test_duckdb_rows_that_are_numbered_anew_are_taken_over(tmp_path: Path) -> None:
    """With their dead letters, which say the same in a version made from scratch."""
    file = tmp_path / "work.duckdb"
    run(stored(tmp_path, "hash(id)"), tmp_path / "out")
    for statement in (
        "DELETE FROM rows WHERE rowid < 1500",
        "INSERT INTO rows SELECT 9000 + g, 1, 'good' FROM range(2000) r(g)",
    ):
        with duckdb.connect(str(file)) as connection:
            connection.execute(statement)
    with duckdb.connect(str(file)) as connection:
        ((most,),) = connection.sql("SELECT max(rowid) FROM rows").fetchall()
    assert most == 1500 + 2000 - 1  # numbered anew
    later = run(stored(tmp_path, "", "1.1.0"), tmp_path / "out")
    scratch = run(stored(tmp_path, "", "1.1.0"), tmp_path / "scratch")
    assert later.manifest.books["rows"].dead_lettered > 0
    assert later.taken_over["partitions"] > 3
    assert digests(later.path) == digests(scratch.path)
