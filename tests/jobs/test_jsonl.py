"""A job on JSON lines: nested values as features, a table of lines joined, and the same bytes however it is made."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_jobs import run
from beam_jobs.inspect_dataset import inspect
from schemas import HeadraceError
from tests.jobs.small_job import digests, make_job, options

JOB = """
name: posts
version: 1.0.0
vars: {data: unset}
sources:
  posts: {kind: jsonl, path: "${data}/posts-*.jsonl", key: id, flatten: true, partition_bytes: 4000}
  users: {kind: jsonl, path: "${data}/users.jsonl.gz", columns: [user, country]}
main: posts
join:
  - {table: users, left_on: user.name, right_on: user}
features:
  tokens: {type: int64, shape: [null]}
  place: {type: float32, from: at.place, shape: [2]}
  votes: {type: float32, default: 0}
  country: {type: class_label, names: [de, fr]}
  seen: {type: bool}
  title: {type: text, max_bytes: 40}
label: country
write: {shards: 3, max_dead_letters: 20%}
"""
RECORDS = 400


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(7)
    lines = []
    for i in range(RECORDS):
        record = {
            "id": i,
            "user": {"name": f"u{i % 9}", "age": i % 80},
            "at": {"place": [i / 2, -i]},
            "tokens": [rng.randrange(1000) for _ in range(i % 7)],
            "title": f"title {i} é",
            "seen": i % 2 == 0,
        }
        if i % 3:
            record["votes"] = i if i % 2 else i + 0.5
        lines.append(json.dumps(record))
    lines[50] = lines[50][:-10]
    lines[150] = lines[150].replace("[75.0", '["75.0"')
    lines[250] = lines[250].replace("-250]", "-250, 1]")
    half = RECORDS // 2
    (folder / "posts-0.jsonl").write_text("\n".join(lines[:half]) + "\n")
    (folder / "posts-1.jsonl").write_text("\n".join(lines[half:]))
    users = [
        json.dumps({"user": f"u{i}", "country": "de" if i % 2 else "fr", "rest": {"x": i}}) for i in range(8)
    ]
    (folder / "users.jsonl.gz").write_bytes(gzip.compress("\n".join(users).encode(), mtime=0))
    return folder


def test_a_job_on_lines(data: Path, tmp_path: Path) -> None:
    result = run(make_job(data, JOB), tmp_path / "out", options("in_memory", 1))
    books = result.manifest.books["posts"]
    unknown_user = len([i for i in range(RECORDS) if i % 9 == 8 and i not in (50, 150, 250)])
    assert books.read == RECORDS
    assert books.dead_lettered == unknown_user + 3
    letters = pq.read_table(result.path / "dead_letters" / "dead_letters.parquet").to_pylist()
    found = {(letter["origin"], letter["rule"]) for letter in letters if letter["rule"] != "unmatched"}
    assert found == {
        ("posts-0.jsonl, row 51", "bad_json"),
        ("posts-0.jsonl, row 151", "bad_type"),
        ("posts-1.jsonl, row 51", "wrong_shape"),
    }
    assert "tokens" in json.dumps(inspect(result.path, records=2).to_json())


@pytest.mark.parametrize("workers", [1, 4])
def test_the_same_bytes(data: Path, tmp_path: Path, workers: int) -> None:
    expected = digests(run(make_job(data, JOB), tmp_path / "alone", options("in_memory", 1)).path)
    result = run(make_job(data, JOB), tmp_path / "out", options("multi_processing", workers))
    assert digests(result.path) == expected


@pytest.mark.parametrize(
    ("feature", "match"),
    [
        ("{type: text, from: user}", r"(?s)its column holds objects.*features\.tokens.*flatten: true"),
        ("{type: int64}", r"(?s)its column holds lists.*features\.tokens.*\[null\]"),
        ("{type: text}", r"(?s)its column holds lists.*Only int64 and float32 features"),
    ],
)
def test_nested_values_that_are_no_feature(data: Path, tmp_path: Path, feature: str, match: str) -> None:
    text = JOB.replace("{type: int64, shape: [null]}", feature).replace("flatten: true, ", "")
    text = text.replace("  place: {type: float32, from: at.place, shape: [2]}\n", "")
    text = text.replace("left_on: user.name", "left_on: title")
    with pytest.raises(HeadraceError, match=match):
        run(
            make_job(data, text.replace("right_on: user}", "right_on: user, unmatched_left: keep}")), tmp_path
        )
