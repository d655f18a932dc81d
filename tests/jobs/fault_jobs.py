"""The jobs that faults are let loose on; together they write every kind of file that a job can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np

from tests.jobs.small_job import encoded_image, make_data, make_job

# Most that can be in one job: rows of a transform of the user's, a table that is shuffled, rules that learn,
# duplicates, a check for leaks, and a schema with drift.
FEATURES = """
name: cells
version: 1.0.0
vars: {data: unset}
sources:
  rows: {kind: csv, path: "${data}/rows.csv", key: id, partition_bytes: 2500, types: {fare: float64}}
  grades:
    kind: beam
    transform: tests.jobs.fault_jobs:Grades
    path: "${data}/grades.txt"
    key: id
    columns: {id: string, grade: string}
    partitions: 2
main: rows
join:
  - {table: grades, by: id, broadcast: 0}
clean:
  - {impute: fare, with: median}
  - {weights: weight, by: grade}
features:
  fare: {type: float32}
  weight: {type: float32}
  text: {type: text}
  group: {type: int64}
  grade: {type: class_label, names: [good, bad]}
label: grade
duplicates:
  checks: [{exact: [text]}, {near: {feature: text}}]
  action: drop
split:
  fractions: {train: 0.7, test: 0.3}
  by: group
  leaks: [group]
write: {shards: 1, max_dead_letters: 10%}
schema: {file: "${data}/schema.yaml", drift: {against: previous}, skew: {between: [train, test]}}
"""
SCHEMA = """
splits: {train: {min_records: 1}, test: {min_records: 1}}
features:
  fare: {type: float32, min: 0, drift: {jensen_shannon: 0.000001}, skew: {jensen_shannon: 0.000001}}
  weight: {type: float32}
  text: {type: text}
  group: {type: int64, max: 40}
  grade: {type: class_label, values: [good, bad]}
"""


# What does not go with that: a limit, a cap, and exact splits by groups with several values of a stratum.
EXACT = """
name: cells
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}/rows.csv", key: id, partition_bytes: 2500}}
main: [{source: rows, limit: 55}]
features:
  text: {type: text}
  kind: {type: text}
split: {fractions: {train: 0.7, test: 0.3}, by: group, stratify: kind, cap: {by: kind, most: 15}}
write: {shards: 1}
"""

# Of the extra `transform`: analyses, a graph, and shards before and after it.
TRANSFORM = """
name: cells
version: 1.0.0
vars: {data: unset}
sources: {rows: {kind: csv, path: "${data}/rows.csv", key: id}}
features:
  fare: {type: float32, default: 0}
  kind: {type: text}
split: {fractions: {train: 0.7, test: 0.3}}
write: {shards: 1}
transform:
  materialize: true
  features: {scaled: {type: z_score, from: fare}, kind: {type: vocabulary}}
"""


@dataclass(frozen=True)
class FaultJob:
    """A data set of which one version is committed before anything fails, and another is made while it does.

    Attributes:
      make_first: makes the data and the job of the first below a folder, for so many records and as that version;
        gives where the job lies.
      make_second: the same of the second.
      records: enough for every kind of call.
      imports: modules that take long to import, and that its worker would.
    """

    make_first: Callable[[Path, int, str], Path]
    make_second: Callable[[Path, int, str], Path]
    records: int
    imports: tuple[str, ...] = ("beam_jobs.job",)


def _new(name: str) -> Callable[[Path, int, str], Path]:
    """Data of its own."""

    def make(folder: Path, records: int, version: str) -> Path:
        data = make_data(folder / name, records=records, faults=True)
        make_job(data, **_version(version))
        return data

    return make


def _version(version: str) -> dict[str, str]:
    """Of as few shards as a split of several and one of an empty one take."""
    return {
        "version: 1.0.0": f"version: {version}",
        "train: 3, validation: 1, test: 2": "train: 2, validation: 1, test: 1",
    }


def _changed(folder: Path, records: int, version: str) -> Path:
    """One photo has changed and one is gone; of the rest all can be taken over."""
    data = folder / "data"
    photos = sorted(path for path in (data / "photos").rglob("*.jpg"))
    photos[0].write_bytes(encoded_image(np.random.default_rng(records)))
    photos[-1].unlink()
    make_job(data, **_version(version))
    return data


def _features(name: str, seed: int, job: str) -> Callable[[Path, int, str], Path]:
    def make(folder: Path, records: int, version: str) -> Path:
        data = folder / name
        data.mkdir()
        rng = np.random.default_rng(seed)
        rows, grades, text = ["id,fare,text,group,kind"], [], ""
        for number in range(records):
            words = " ".join(f"w{word}" for word in rng.integers(0, 500, 12))
            fare = "" if number % 7 == 3 else f"{rng.gamma(2, 30):.2f}"
            # Every tenth text is that of the record before, and every other of those lacks a word.
            text = text.split(" ", number // 10 % 2)[-1] if number % 10 == 9 else words
            rows.append(f"r{number:03},{fare},{text},{number // 3},{number % 2}")
            grades.append(f"r{number:03} {'bad' if number % 3 else 'good'}")
        (data / "rows.csv").write_text("\n".join(rows) + "\n")
        (data / "grades.txt").write_text("\n".join(grades) + "\n")
        (data / "schema.yaml").write_text(SCHEMA)
        make_job(data, job, **{"version: 1.0.0": f"version: {version}"})
        return data

    return make


class Grades(beam.PTransform):
    """The lines `id grade` of a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, begin: Any) -> Any:
        return begin | beam.Create([self._path]) | beam.FlatMap(_grades)


def _grades(path: str) -> Iterator[dict[str, str]]:
    for line in Path(path).read_text().splitlines():
        name, grade = line.split()
        yield {"id": name, "grade": grade}


JOBS = {
    "new": FaultJob(_new("old"), _new("data"), 24),
    "changed": FaultJob(_new("data"), _changed, 40),
    "exact": FaultJob(_features("old", 0, EXACT), _features("data", 1, EXACT), 60),
    "features": FaultJob(_features("old", 0, FEATURES), _features("data", 1, FEATURES), 60),
    "transform": FaultJob(
        _features("old", 0, TRANSFORM),
        _features("data", 1, TRANSFORM),
        60,
        ("beam_jobs.job", "beam_jobs.transform.graph", "tensorflow_transform"),
    ),
}
