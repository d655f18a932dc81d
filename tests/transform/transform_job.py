"""A small table and jobs that transform it. The rows are functions of their numbers alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs import Job, load_job

ROOT = Path(__file__).resolve().parents[2]
ROWS = 2000
COMMAND = [sys.executable, "-c", "from beam_jobs.cli import entry; entry()"]
EVERYTHING = "tests.transform.functions:everything"
READY = """{features: {
  z: {type: z_score, from: x}, unit: {type: min_max, from: x, min: -1}, bucket: {type: bucketize, from: x, buckets: 4},
  town: {type: vocabulary, top_k: 3, oov_buckets: 2}, hot: {type: one_hot, from: town, top_k: 3, oov_buckets: 1},
  text: {type: tfidf, ngrams: [1, 2], top_k: 20}, tags: {type: vocabulary}, hashed: {type: hash, from: tags, buckets: 7}
}}"""
JOB = """
name: towns
version: {version}
vars: {{rows: {rows}}}
sources: {{rows: {{kind: jsonl, path: "${{rows}}", key: id}}}}
features:
  x: {{type: float32}}
  town: {{type: text}}
  text: {{type: text}}
  tags: {{type: int64, shape: [null]}}
  vector: {{type: float32, shape: [3]}}
  label: {{type: class_label, names: [dry, wet]}}
label: label
split: {{fractions: {{train: 0.7, validation: 0.15, test: 0.15}}}}
write: {{shards: {{train: 4, validation: 2, test: 1}}}}
{more}
transform: {transform}
"""

Row = dict[str, Any]


def make_row(number: int) -> Row:
    """The row of that number."""
    random = np.random.default_rng(number)
    towns = ["Ulm", "Aachen", "Köln", "Bad Ems", "Kiel"]
    words = ["sun", "rain", "wind", "snow", "fog"]
    return {
        "id": f"r{number}",
        "x": float(np.float32(random.normal(3, 2))),
        "town": towns[int(random.integers(0, 5) * random.integers(0, 2))],
        "text": " ".join(words[place] for place in random.integers(0, 5, 1 + number % 4)),
        "tags": random.integers(0, 9, number % 4).tolist(),
        "vector": [float(np.float32(value)) for value in random.normal(size=3)],
        "label": ["dry", "wet"][number % 2],
    }


def make_job(
    folder: Path,
    transform: str = EVERYTHING,
    *,
    version: str = "1.0.0",
    more: str = "",
    change: Callable[[Row], Row] = dict,
    rows: int = ROWS,
) -> Path:
    """A job file in `folder`, and its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(change(make_row(number))) for number in range(rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    text = JOB.format(
        version=version, rows=json.dumps(str(folder / "rows.jsonl")), transform=transform, more=more
    )
    (folder / f"job-{version}.yaml").write_text(text, "utf-8")
    return folder / f"job-{version}.yaml"


def job(folder: Path, transform: str = EVERYTHING, **options: Any) -> Job:
    """The same, loaded."""
    return load_job(make_job(folder, transform, **options))


def run_apart(file: Path, out: Path, *options: str, environment: Mapping[str, str] | None = None) -> Path:
    """Runs a job in a process of its own; gives the version's directory."""
    done = subprocess.run(
        [*COMMAND, "run", str(file), "--out", str(out), "--json", *options],
        cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(json.loads(done.stdout)["path"])


def digests(version: Path, prefix: str = "") -> dict[str, str]:
    """SHA-256 of every file of a version whose path begins with `prefix`."""
    return {
        path.relative_to(version).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(version.rglob("*"))
        if path.is_file() and path.relative_to(version).as_posix().startswith(prefix)
    }
