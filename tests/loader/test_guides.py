"""The guides, each run as its reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from loader_data import deal, write_dataset

GUIDES = Path(__file__).parents[2] / "scripts" / "guides"


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of noise, and of noise with stripes: told apart in a few steps, however they are flipped."""
    rng = np.random.default_rng(3)

    def record(label: int) -> dict[str, object]:
        image = rng.integers(60, 120, (40, 40, 1))
        image[:: 4 if label else 1] += 80 if label else 20
        return {"image": tf.io.encode_png(image.astype(np.uint8)).numpy(), "label": label}

    records = [record(i % 2) for i in range(203)]
    return write_dataset(
        tmp_path_factory.mktemp("stripes"),
        {
            "image": {"type": "image", "formats": ["png"], "shape": [40, 40, 1]},
            "label": {"type": "class_label", "names": ["plain", "striped"]},
        },
        {"train": deal(records[:160], 2), "validation": deal(records[160:], 1)},
        label="label",
    )


@pytest.mark.parametrize(
    "guide", ["keras_guide", "jax_guide", pytest.param("pytorch_guide", marks=pytest.mark.torch)]
)
def test_guide(guide, stripes):
    ran = subprocess.run(
        [sys.executable, str(GUIDES / f"{guide}.py"), str(stripes), "--epochs", "3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    found = re.search(r"accuracy (\S+); resumed and uninterrupted weights are equal", ran.stdout)
    assert found, ran.stdout
    assert float(found[1]) > 0.8, ran.stdout
    assert ran.stdout.count("waited") == 3 - (guide == "keras_guide"), ran.stdout
