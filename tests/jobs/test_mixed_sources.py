"""One job from a bucket, a database, JSON lines and Parquet: the bytes of the same job from local copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from beam_jobs import load_job, run
from beam_jobs.job import Result
from schemas.naming import DEAD_LETTERS
from tests.jobs.small_job import digests, encoded_image, options
from tests.servers import BUCKET, s3_server, upload_s3
from tests.sources.sql_work import PASSWORD_ENV, Work
from tests.sql_servers import PASSWORD, postgresql

RECORDS = 150
JOB = """
name: birds
version: 1.0.0
vars: {data: unset, db: unset}
sources:
  photos: {kind: image_folder, path: "${data}/photos", partition_files: 16}
  labels: LABELS
  captions: {kind: jsonl, path: "${data}/captions-*.jsonl", key: file}
  metadata: {kind: parquet, path: "${data}/metadata.parquet", key: photo}
join:
  - {table: labels, left_on: path, right_on: file, unmatched_right: dead_letter}
  - {table: captions, left_on: path, right_on: file, unmatched_left: keep}
  - {table: metadata, left_on: path, right_on: photo}
features:
  image: {type: image, formats: [jpeg], shape: [20, 24, 3]}
  label: {type: class_label, names: [hawk, owl, wren]}
  caption: {type: text, default: ""}
  year: {type: int64, min: 1990}
  weight: {type: float32, min: 0}
label: label
split: {fractions: {train: 0.8, test: 0.2}}
write: {shards: {train: 3, test: 1}, max_dead_letters: 10%}
"""
SQL = (
    '{kind: sql, url: "${db}", password_env: '
    + PASSWORD_ENV
    + ", table: labels, key: file, partition_rows: 40}"
)
CSV = '{kind: csv, path: "${data}/labels.csv", key: file}'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos have no label, and a label no photo; half have no caption; one has no metadata."""
    place = tmp_path_factory.mktemp("birds")
    rng = np.random.default_rng(7)
    names = [f"{'abc'[number % 3]}/{number:03}.jpg" for number in range(RECORDS)]
    for name in names:
        path = place / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded_image(rng))
    labels = pa.table(
        {
            "file": [*names[3:], "gone.jpg"],
            "label": [["hawk", "owl", "wren"][number % 3] for number in range(RECORDS - 2)],
        }
    )
    pyarrow.csv.write_csv(labels, place / "labels.csv")
    for part in range(2):
        lines = [{"file": name, "caption": f"seen — {name}"} for name in names[part : RECORDS // 2 : 2]]
        (place / f"captions-{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metadata: dict[str, Any] = {
        "photo": names[:-1],
        "year": pa.array([1990 + number % 30 for number in range(RECORDS - 1)], pa.int32()),
        "weight": [number / 8 for number in range(RECORDS - 1)],
    }
    pa.parquet.write_table(pa.table(metadata), place / "metadata.parquet", row_group_size=50)
    return place


def prepare(place: Path, data: str, labels: str, db: str, workers: int) -> Result:
    place.mkdir()
    job = place / "job.yaml"
    job.write_text(JOB.replace("LABELS", labels))
    return run(load_job(job, {"data": data, "db": db}), place / "out", options("multi_threading", workers))


def contents(result: Result) -> dict[str, Any]:
    """What is in all files but what must differ: the job within the manifest, and where in `labels` a row was."""
    found: dict[str, Any] = digests(result.path)
    del found["manifest.json"]
    letters = pa.parquet.read_table(Path(result.path) / DEAD_LETTERS)
    found[DEAD_LETTERS] = [
        {**row, "origin": None} if row["source"] == "labels" else row for row in letters.to_pylist()
    ]
    return found


def test_same_bytes_as_from_local_copies(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = prepare(tmp_path / "local", str(data), CSV, "unset", 1)
    written = local.manifest.splits["train"].records + local.manifest.splits["test"].records
    assert written == RECORDS - 3 - 1
    with s3_server() as s3, postgresql() as server:
        upload_s3(s3, data, "birds")
        table = pa.csv.read_csv(data / "labels.csv")
        Work("postgresql", server).run(
            "CREATE TABLE labels (file text PRIMARY KEY, label text)",
            rows=("INSERT INTO labels VALUES (?, ?)", [tuple(row.values()) for row in table.to_pylist()]),
        )
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "geheim",
            "AWS_DEFAULT_REGION": "us-east-1",
            PASSWORD_ENV: PASSWORD,
        }.items():
            monkeypatch.setenv(name, value)
        for workers in (1, 4):
            place = tmp_path / f"remote{workers}"
            remote = prepare(place, f"s3://{BUCKET}/birds", SQL, server.url, workers)
            assert contents(remote) == contents(local)
            assert remote.manifest.books == local.manifest.books
            assert remote.manifest.dead_letters == local.manifest.dead_letters
            for path in place.rglob("*"):
                if path.is_file():
                    stored = path.read_bytes()
                    assert PASSWORD.encode() not in stored
                    assert b"geheim" not in stored
