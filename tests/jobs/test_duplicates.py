"""Duplicates: what is planted is found, one of each cluster survives; books, bytes and later versions stay right."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_jobs import run
from beam_jobs.job import Result
from beam_jobs.verify import verify
from schemas.naming import DUPLICATES
from tests.jobs.small_job import digests, make_job, options

JOB = """
name: pictures
version: 1.0.0
vars: {data: unset}
sources: {photos: {kind: image_folder, path: "${data}/photos", partition_files: 16}}
features:
  image: {type: image}
duplicates:
  checks: [{exact: [image]}, {near: {feature: image}}]
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2}
"""
PICTURES = 60


def picture(rng: np.random.Generator, height: int = 240, width: int = 320) -> Image.Image:
    """A picture with structure of all sizes, as photos have."""
    image = np.zeros((height, width, 3))
    for size in (3, 6, 12, 24):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        image += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64) / size
    return Image.fromarray((255 * (image - image.min()) / np.ptp(image)).astype(np.uint8))


def varied(image: Image.Image, how: str, rng: np.random.Generator) -> bytes:
    """The picture as a copy, encoded anew, resized or cropped."""
    if how == "cropped":
        left, top, right, bottom = rng.uniform(0.02, 0.1, 4)
        width, height = image.size
        image = image.crop(
            (
                round(left * width),
                round(top * height),
                round(width - right * width),
                round(height - bottom * height),
            )
        )
    if how == "resized":
        scale = rng.uniform(0.5, 2)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=90 if how == "same" else int(rng.integers(30, 80)))
    return sink.getvalue()


HOW = ("same", "encoded anew", "resized", "cropped")


def make_photos(folder: Path, *, planted: int = 16, seed: int = 7) -> dict[str, str]:
    """Photos below `folder`; gives the name of each planted duplicate, and what it is one of."""
    rng = np.random.default_rng(seed)
    pairs = {}
    (folder / "photos").mkdir(parents=True)
    for number in range(PICTURES):
        image = picture(rng)
        name = f"p{number:03d}.jpg"
        (folder / "photos" / name).write_bytes(varied(image, "same", rng))
        if number < planted:
            again = f"q{number:03d}.jpg"
            (folder / "photos" / again).write_bytes(varied(image, HOW[number % 4], rng))
            pairs[again] = name
    return pairs


def report(version: Path) -> list[dict[str, Any]]:
    return pq.read_table(version / DUPLICATES).to_pylist()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    data = tmp_path_factory.mktemp("data")
    return data, make_photos(data)


@pytest.fixture(scope="module")
def first(planted: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(make_job(planted[0], JOB), tmp_path_factory.mktemp("out"), options("in_memory", 1))


def test_all_planted_are_found_and_only_they(first: Result, planted: tuple[Path, dict[str, str]]) -> None:
    pairs = planted[1]
    rows = report(first.path)
    assert {row["origin"]: row["survivor_origin"] for row in rows} == pairs
    assert all(row["left_out"] for row in rows)
    kinds = {row["origin"]: row["kind"] for row in rows}
    assert kinds == {
        again: "exact: image" if number % 4 == 0 else "near: image"
        for number, again in enumerate(sorted(pairs))
    }
    assert any(row["split"] != row["survivor_split"] for row in rows)
    books = first.manifest.books["photos"]
    assert books.dropped == {"exact duplicate": 4, "near-duplicate": 12}
    assert books.written == PICTURES
    assert books.balanced
    found = first.manifest.duplicates
    assert found is not None
    assert (found.records, found.clusters, found.left_out) == (PICTURES + 16, 16, 16)
    assert found.pairs_across_splits == 0
    assert verify(first.path).ok


@pytest.mark.parametrize(("mode", "workers"), [("multi_threading", 4), ("multi_processing", 2)])
def test_same_bytes(
    mode: str, workers: int, first: Result, planted: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    again = run(make_job(planted[0], JOB), tmp_path, options(mode, workers))
    assert digests(again.path) == digests(first.path)
