"""Jobs on sources whose records hold images, labels and lists: the same bytes for any number of workers, and books."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import run
from tests.jobs.small_job import digests, make_job, options
from tests.small_dataset import example
from tests.sources import hf_data
from tests.sources.python_functions import images
from tests.sources.tfds_data import write_folder

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


def records() -> list[dict[str, Any]]:
    """What the function of the `python` source yields."""
    return [record for partition in range(1, 5) for record in images(partition)]


def huggingface_source(place: Path) -> str:
    datasets = hf_data.datasets
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "words": datasets.List(datasets.Value("int64")),
        }
    )
    rows = [{**record, "image": {"bytes": record["image"], "path": None}} for record in records()]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(place / "saved", num_shards=4)
    return "{kind: huggingface, path: '${data}/saved', key: id}"


def tfds_source(place: Path) -> str:
    rows = [
        {
            "id": [record["id"].encode()],
            "image": [record["image"]],
            "label": ["ab".index(record["label"])],
            "words": record["words"],
        }
        for record in records()
    ]
    examples = [example(row) for row in rows]
    write_folder(place / "pond" / "1.0.0", {"train": [examples[:50], examples[50:]]})
    (place / "pond/1.0.0/label.labels.txt").write_text("a\nb\n")
    return "{kind: tfds, path: '${data}', name: pond, key: id, partition_bytes: 1000}"


def beam_source(place: Path) -> str:
    columns = "{id: string, image: bytes, label: string, words: list<int64>}"
    transform = "tests.sources.beam_functions:Images"
    return f"{{kind: beam, transform: '{transform}', key: id, columns: {columns}, partitions: 5}}"


@pytest.mark.parametrize("make", [python_source, huggingface_source, tfds_source, beam_source])
def test_same_bytes_and_books(make: Callable[[Path], str], tmp_path: Path) -> None:
    text = JOB.replace("SOURCE", make(tmp_path))
    made = {}
    for mode, workers in (("in_memory", 1), ("multi_threading", 4), ("multi_processing", 2)):
        result = run(make_job(tmp_path, text), tmp_path / f"{mode}{workers}", options(mode, workers))
        books = result.manifest.books["rows"]
        assert (books.read, books.written) == (80, 76)
        assert books.dead_lettered == 4
        made[mode, workers] = digests(Path(result.path))
    assert made["in_memory", 1] == made["multi_threading", 4] == made["multi_processing", 2]
    expected = run(make_job(tmp_path, JOB.replace("SOURCE", python_source(tmp_path))), tmp_path / "python")
    assert {name: split.records for name, split in expected.manifest.splits.items()} == {
        name: split.records for name, split in result.manifest.splits.items()
    }
    shards = {name: data for name, data in digests(Path(expected.path)).items() if "tfrecord-" in name}
    assert shards
    assert {name: made["in_memory", 1][name] for name in shards} == shards
    again = run(make_job(tmp_path, text), tmp_path / "in_memory1", options("in_memory", 1))
    assert again.up_to_date
