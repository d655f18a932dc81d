"""Small data sets of every kind of feature, made once a session."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from loader_data import deal, write_dataset
from PIL import Image

RECORDS = 103  # prime, so that no batch size divides it


def encoded(rng: np.random.Generator, height: int, width: int, kind: str, mode: str = "RGB") -> bytes:
    """A smooth random image, as photos are, so that JPEG does not blur it beyond comparison."""
    small = rng.integers(0, 256, (4, 5) if mode == "L" else (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(small, mode=None).resize((width, height), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs and PNGs of many sizes, a class label and a text; an empty shard among the full ones."""
    rng = np.random.default_rng(7)
    records = [
        {
            "image": encoded(rng, 40 + i % 30, 50 + i % 20, "PNG" if i % 3 == 0 else "JPEG"),
            "label": i % 4,
            "name": f"photo {i}",
        }
        for i in range(RECORDS)
    ]
    shards = deal(records, 4)
    return write_dataset(
        tmp_path_factory.mktemp("photos"),
        {
            "image": {"type": "image"},
            "label": {"type": "class_label", "names": ["a", "b", "c", "d"]},
            "name": {"type": "text"},
        },
        {"train": [*shards[:2], [], *shards[2:]], "validation": deal(records[:21], 2), "empty": [[]]},
        label="label",
    )


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey PNGs of one size with a label: image, label and nothing else."""
    rng = np.random.default_rng(8)
    records = [{"image": encoded(rng, 30, 30, "PNG", "L"), "label": i % 2} for i in range(RECORDS)]
    return write_dataset(
        tmp_path_factory.mktemp("cells"),
        {
            "image": {"type": "image", "formats": ["png"], "shape": [30, 30, 1]},
            "label": {"type": "class_label", "names": ["good", "bad"]},
        },
        {"train": deal(records, 3), "validation": deal(records[:21], 1)},
        label="label",
    )


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every type that is not an image: 2,000 records, so that there are many blocks."""
    records = [
        {
            "number": i,
            "vector": [i * 0.5, -i * 0.5, 1.0],
            "words": list(range(i % 5)),
            "flag": i % 2,
            "text": f"row {i} é",
            "raw": b"\x00\xff" * (i % 7),
            "price": float(i),
        }
        for i in range(2000)
    ]
    return write_dataset(
        tmp_path_factory.mktemp("table"),
        {
            "number": {"type": "int64"},
            "vector": {"type": "float32", "shape": [3]},
            "words": {"type": "int64", "shape": [None]},
            "flag": {"type": "bool"},
            "text": {"type": "text"},
            "raw": {"type": "bytes"},
            "price": {"type": "float32"},
        },
        {"train": deal(records, 3)},
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """Another seed each run, printed where a test fails."""
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    return np.random.default_rng(seed)
