"""A small job with an image folder, a joined table, a user function, faults of every kind, and three splits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs import Job, load_job

RECORDS = 200

JOB = """
name: cells
version: 1.0.0
vars: {data: unset}
sources:
  photos: {kind: image_folder, path: "${data}/photos", partition_files: 16}
  labels: {kind: csv, path: "${data}/labels.csv", key: file, partition_bytes: 1000}
join:
  - {table: labels, left_on: path, right_on: file, unmatched_left: dead_letter, unmatched_right: dead_letter}
clean:
  - drop: withdrawn cells
    column: state
    values: [withdrawn]
  - map: tests.jobs.small_job:grade
features:
  image: {type: image, formats: [jpeg, png], shape: [null, null, 3], min_size: [8, 8], max_pixels: 100000}
  label: {type: class_label, names: [good, bad]}
  probability: {type: float32, min: 0, max: 1}
  module: {type: int64}
  sizes: {type: int64, from: [width, height]}
  note: {type: text, default: none, max_bytes: 40}
  words: {type: int64, shape: [null]}
label: label
index: [label, probability, note, words]
split: {fractions: {train: 0.6, validation: 0.2, test: 0.2}, by: module}
write: {shards: {train: 3, validation: 1, test: 2}, max_dead_letters: 20%}
"""


def grade(record: dict[str, Any]) -> dict[str, Any] | None:
    """The job's user function: grades by probability, drops ghosts, and fails where there is no probability."""
    if record["note"] == "ghost":
        return None
    record["label"] = "bad" if float(record["probability"]) > 0.5 else "good"
    record["words"] = [len(word) for word in record["note"].split()]
    return record


def encoded_image(rng: np.random.Generator, kind: str = "jpeg", size: tuple[int, int] = (20, 24)) -> bytes:
    """A small image of seeded noise."""
    sink = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(sink, kind)
    return sink.getvalue()


def make_data(folder: Path, *, seed: int = 0, records: int = RECORDS, faults: bool = False) -> Path:
    """Photos and their labels below `folder`; with faults, one in twenty records has one, of every kind in turn."""
    rng = np.random.default_rng(seed)
    photos = folder / "photos"
    rows = ["file,probability,module,width,height,state,note"]
    for number in range(records):
        name = f"{'ab'[number % 2]}/photo{number:04d}.{'jpg' if number % 3 else 'png'}"
        data = encoded_image(rng, "jpeg" if number % 3 else "png")
        row = [name, f"{rng.random():.6f}", str(number // 10), "24", "20", "used", f"note {number}"]
        if faults and number % 20 == 7:
            data, row = planted_fault(number // 20, data, row, rng)
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(data)
        rows.append(",".join(row))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


# What is planted, and the book that it must turn up in.
FAULTS = (
    ("truncated image", "validate.truncated_image"),
    ("empty file", "read.empty_file"),
    ("no image", "validate.unknown_format"),
    ("tiny image", "validate.too_small"),
    ("out of range", "validate.out_of_range"),
    ("no number", "validate.wrong_type"),
    ("function fails", "clean.tests.jobs.small_job:grade"),
    ("no label", "join.unmatched"),
    ("dropped by value", "drop"),
    ("dropped by function", "drop"),
)


def planted_fault(
    number: int, data: bytes, row: list[str], rng: np.random.Generator
) -> tuple[bytes, list[str]]:
    """The image and row of one record with the fault of that number."""
    row = list(row)
    match FAULTS[number % len(FAULTS)][0]:
        case "truncated image":
            data = data[: len(data) // 2]
        case "empty file":
            data = b""
        case "no image":
            data = b"this is no image at all"
        case "tiny image":
            data = encoded_image(rng, size=(4, 4))
        case "out of range":
            row[1] = "1.5"
        case "no number":
            row[2] = "many"
        case "function fails":
            row[1] = "unknown"
        case "no label":
            row[0] = "elsewhere/" + row[0]
        case "dropped by value":
            row[5] = "withdrawn"
        case "dropped by function":
            row[6] = "ghost"
    return data, row


def make_job(folder: Path, text: str = JOB, **changes: str) -> Job:
    """The job in a file below `folder`, with pieces of its text replaced, on the data below `folder`."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the job"
        text = text.replace(old, new)
    file = folder / "job.yaml"
    file.write_text(text)
    return load_job(file, {"data": str(folder)})


def digests(version: Path) -> dict[str, bytes]:
    """Every file of a version with its content."""
    return {
        str(path.relative_to(version)): path.read_bytes()
        for path in sorted(version.rglob("*"))
        if path.is_file()
    }


def options(mode: str, workers: int) -> Sequence[str]:
    """Beam options of the embedded runner."""
    return [f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"]
