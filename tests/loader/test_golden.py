"""The order and the augmentation, pinned: a change here changes every training run, and is a new major version."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from loader_data import deal, write_dataset
from PIL import Image
from test_resume import digest, steps_of

from loader import load

# (example id, augmented bytes) of two epochs.
GOLDEN = {
    "images": "84eeca232d4eb6093bdca39a2168944d99041d521d31a79f938497bd889ab738",
    "table": "f50332bf506e84bb7f04a02addea7d0f4b09197af0a2de4e9ecd99bb4334884d",
}


def images() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """PNGs, so that no decoder's rounding is pinned."""
    records = []
    for i in range(50):
        pixels = (np.arange(12 * 14 * 3).reshape(12, 14, 3) * (i + 3) % 251).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        records.append({"image": out.getvalue(), "label": i % 4})
    return {
        "image": {"type": "image", "formats": ["png"], "shape": [12, 14, 3]},
        "label": {"type": "class_label", "names": ["a", "b", "c", "d"]},
    }, records


def table() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return {"number": {"type": "int64"}}, [{"number": i} for i in range(500)]


CASES: dict[str, Any] = {
    # Blocks of one byte are blocks of one record, whatever size the encoder makes it.
    "images": (images, {"features": ["image"], "augment": "standard", "image_size": 10, "shuffle_block": 1}),
    "table": (table, {"features": ["number"], "shuffle_block": 200, "seed": 3}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_order_and_augmentation_are_what_they_always_were(tmp_path, case, count):
    make, options = CASES[case]
    features, records = make()
    label = "label" if "label" in features else None
    # A fingerprint of our own: the real one holds the bytes of the files, and so the encoder's work.
    write_dataset(tmp_path, features, {"train": deal(records, 3)}, label=label, own="0123")
    options = {"batch_size": 16, "with_ids": True, **options}
    loaders = [load(tmp_path, process_index=i, process_count=count, **options) for i in range(count)]
    assert digest(steps_of(loaders, 2)) == GOLDEN[case]
