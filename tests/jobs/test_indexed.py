"""What the indexes hold of the records' features is what the records hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs import load_job, run
from beam_jobs.examples import parse_example, read_record
from beam_jobs.verify import verify
from schemas import HeadraceError, Manifest, load_spec, read_index

JOB = """
name: table
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}", key: key, partition_bytes: 2000, types: {text: string}}}
clean: [{map: "tests.jobs.test_indexed:with_lists"}]
features:
  label: {type: class_label, names: [a, b, c], from: kind}
  count: {type: int64}
  share: {type: float32, allow_nan: true}
  wet: {type: bool, default: false}
  text: {type: text, max_bytes: 30}
  word: {type: text, vocabulary: [one, "", zwölf]}
  ids: {type: int64, shape: [null]}
  weights: {type: float32, shape: [null]}
  pair: {type: float32, from: [share, share], allow_nan: true}
  page: {type: text, from: text}
label: label
write: {shards: 3}
"""
ALL = "index: [word, wet, weights, text, share, label, ids, count]\n"
KINDS = {
    "feature/count": "int64",
    "feature/label": "int64",
    "feature/share": "float",
    "feature/text": "large_string",
    "feature/wet": "bool",
    "feature/word": "large_string",
    "length/ids": "int32",
    "length/weights": "int32",
}


def with_lists(record: dict[str, Any]) -> dict[str, Any]:
    """The job's function: lists of any length, some of them empty."""
    number = int(record["count"])
    return {**record, "ids": list(range(number % 5)), "weights": [float(number)] * (number % 3)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    lines = ["key,kind,count,share,wet,text,word"]
    for i in range(400):
        share = "inf" if i % 7 == 0 else f"{rng.random():.4f}"
        word = ("one", "zwölf")[i % 2]
        text = "" if i % 5 == 0 else "é" * int(rng.integers(1, 15))
        lines.append(f'{i % 390},{"abc"[i % 3]},{i - 3},{share},{["true", "no", ""][i % 3]},"{text}x",{word}')
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def prepare(rows: Path, out: Path, more: str) -> tuple[Path, Manifest]:
    (out / "job.yaml").write_text(JOB + more)
    result = run(load_job(out / "job.yaml", {"data": str(rows)}), out)
    return result.path, result.manifest


def test_indexes_hold_what_the_records_hold(rows: Path, tmp_path: Path) -> None:
    root, manifest = prepare(rows, tmp_path, ALL)
    assert manifest.books["rows"].duplicates == 10
    seen = 0
    for shard in manifest.splits["train"].shards:
        index = read_index(root / shard.index.path)
        assert {name: str(column.type) for name, column in index.columns.items()} == KINDS
        for number in range(len(index)):
            held = parse_example(read_record(root / shard.path, index, number))
            said = {name: column[number].as_py() for name, column in index.columns.items()}
            assert said == {
                "feature/count": held["count"][0],
                "feature/label": held["label"][0],
                "feature/share": held["share"][0],
                "feature/text": held["text"][0].decode(),  # type: ignore[union-attr]
                "feature/wet": bool(held["wet"][0]),
                "feature/word": held["word"][0].decode(),  # type: ignore[union-attr]
                "length/ids": len(held["ids"]),
                "length/weights": len(held["weights"]),
            }
            seen += 1
    assert seen == 390
    assert manifest.indexed == ["count", "ids", "label", "share", "text", "weights", "wet", "word"]
    assert verify(root).problems == ()


@pytest.mark.parametrize(
    ("more", "columns"),
    [("", ["feature/label", "length/ids", "length/weights"]), ("index: []\n", [])],
    ids=["by default", "none"],
)
def test_the_label_and_lengths_are_there_unless_told_otherwise(
    more: str, columns: list[str], rows: Path, tmp_path: Path
) -> None:
    root, manifest = prepare(rows, tmp_path, more)
    shards = manifest.splits["train"].shards
    assert all(list(read_index(root / shard.index.path).columns) == columns for shard in shards)
    assert verify(root).problems == ()


def test_the_shards_are_the_same_whatever_the_indexes_hold(rows: Path, tmp_path: Path) -> None:
    shas = []
    for name, more in (("all", ALL), ("none", "index: []\n")):
        (tmp_path / name).mkdir()
        _, manifest = prepare(rows, tmp_path / name, more)
        shas.append([shard.sha256 for shard in manifest.splits["train"].shards])
    assert shas[0] == shas[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("index: [fare]", "index: no feature is called 'fare'; there are"),
        ("index: [pair]", "index: 'pair' cannot be in an index: it is a vector, neither a number nor a list"),
        ("index: [page]", "index: 'page' cannot be in an index: a text needs `max_bytes` of at most 255"),
        ("index: [wet, wet]", "index: 'wet' is listed more than once"),
    ],
)
def test_what_no_index_can_hold_is_refused(more: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB + more)
    with pytest.raises(HeadraceError, match=message):
        load_spec(tmp_path / "job.yaml")
