"""Jobs on sources whose records hold images, labels and lists: the same bytes for any number of workers, and books."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs import run
from tests.jobs.small_job import digests, make_job, options

JOB = """
name: mixed
version: 1.0.0
vars: {data: unset}
sources:
  rows: SOURCE
features:
  image: {type: image, formats: [png]}
  label: {type: class_label, names: [a, b]}
  words: {type: int64, shape: [null]}
  id: {type: text}
label: label
split: {fractions: {train: 0.7, test: 0.3}}
write: {shards: {train: 2, test: 1}, max_dead_letters: 20%}
"""


def python_source(place: Path) -> str:
    functions = "tests.sources.python_functions"
    return f"{{kind: python, partitions: [1, 2, 3, 4], read: '{functions}:images', key: id}}"


@pytest.mark.parametrize("make", [python_source])
def test_same_bytes_and_books(make: object, tmp_path: Path) -> None:
    assert callable(make)
    text = JOB.replace("SOURCE", make(tmp_path))
    made = {}
    for mode, workers in (("in_memory", 1), ("multi_threading", 4), ("multi_processing", 4)):
        result = run(make_job(tmp_path, text), tmp_path / f"{mode}{workers}", options(mode, workers))
        books = result.manifest.books["rows"]
        assert (books.read, books.written) == (80, 76)
        assert books.dead_lettered == 4
        made[mode, workers] = digests(Path(result.path))
    assert made["in_memory", 1] == made["multi_threading", 4] == made["multi_processing", 4]
    again = run(make_job(tmp_path, text), tmp_path / "in_memory1", options("in_memory", 1))
    assert again.up_to_date
