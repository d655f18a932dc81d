"""What is noted of records beside them: made of columns and pictures, sorted and taken over with the records."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from beam_jobs import plan, run
from beam_jobs.facts import LUMA_SIDE, Fact, Picture, make_facts, row_of
from beam_jobs.listing import read_partitions
from beam_jobs.planning import plan_job
from beam_jobs.runs import open_run, read_facts, read_index
from schemas.hashing import KEY_HASH_DTYPE, as_sortable, key_hashes
from tests.jobs.small_job import encoded_image, make_data, make_job

SIZE = Fact("bytes:image", np.dtype("<i8"), of_columns=lambda columns: lengths(columns["image"]))
SIDES = Fact(
    "sides:image",
    np.dtype(("<i4", (2,))),
    image="image",
    of_picture=lambda picture: (picture.header.height, picture.header.width),
)


def lengths(column: pa.Array) -> np.ndarray:
    return np.array([len(value.as_py()) for value in column], np.int64)


def encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


def test_facts_of_columns_and_pictures_lie_in_one_row() -> None:
    rng = np.random.default_rng(0)
    images = [encoded_image(rng, "png", (20, 30)), encoded_image(rng, "jpeg", (9, 8))]
    column = pa.array([b"before", *images], pa.large_binary()).slice(1)
    rows = make_facts({"image": column}, [SIZE, SIDES])
    assert rows.dtype == row_of([SIZE, SIDES])
    assert rows["bytes:image"].tolist() == [len(data) for data in images]
    assert rows["sides:image"].tolist() == [[20, 30], [9, 8]]


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
def test_a_large_picture_is_decoded_small(kind: str) -> None:
    y, x = np.mgrid[0:1200, 0:1600]
    pixels = np.stack([x * 255 // 1600, y * 255 // 1200, x * 0 + 90], axis=2).astype(np.uint8)
    picture = Picture(encoded(pixels, kind))
    assert (picture.header.height, picture.header.width) == (1200, 1600)
    luma = picture.luma
    assert min(luma.shape) >= LUMA_SIDE
    if kind == "jpeg":
        assert luma.shape == (150, 200)
    whole = np.asarray(Image.fromarray(pixels).convert("L").resize((8, 8), Image.Resampling.BOX), np.int64)
    small = np.asarray(Image.fromarray(luma).resize((8, 8), Image.Resampling.BOX), np.int64)
    assert np.abs(whole - small).max() <= 2


def test_runs_hold_them_in_the_order_of_their_records_and_versions_take_them_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_WANTED", [*plan._WANTED, lambda *_: [SIZE, SIDES]])
    data = make_data(tmp_path / "data")
    run(make_job(data), tmp_path / "out")
    (data / "photos/a/photo0000.png").write_bytes(encoded_image(np.random.default_rng(9), "png", (40, 50)))
    second = run(make_job(data, **{"version: 1.0.0": "version: 2.0.0"}), tmp_path / "out")
    assert second.taken_over["records"] == 199
    job, _ = plan_job(make_job(data, **{"version: 1.0.0": "version: 2.0.0"}), tmp_path / "out")
    sizes = {
        key.tobytes(): path.stat().st_size
        for path in sorted((data / "photos").rglob("*.*"))
        for key in as_sortable(key_hashes([str(path.relative_to(data / "photos")).encode()], 0))
    }
    seen = {}
    for listed in read_partitions(job.workspace.partitions):
        found = open_run(job.workspace.runs / listed.run)
        assert found is not None
        index = read_index(found)
        facts = read_facts(found, job.fact_row, 0, len(index))
        for key, fact in zip(index["hash"].astype(KEY_HASH_DTYPE), facts, strict=True):
            seen[key.tobytes()] = int(fact["bytes:image"])
    assert seen == sizes
