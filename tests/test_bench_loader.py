"""`scripts/bench_loader` as far as it needs no other environment: its own checks, and the loader as only contender."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCH = Path(__file__).resolve().parent.parent / "scripts" / "bench"
ENVIRON = {"PYTHONPATH": os.pathsep.join([str(BENCH), str(BENCH / "peers")])}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRON,
        check=False,
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = np.random.default_rng(5)
    for number in range(70):
        folder = tmp_path / "images" / f"class-{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        colours = generator.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(colours).resize((500, 375)).save(folder / f"{number:03d}.jpg", quality=90)
    return tmp_path / "images"


def test_every_image_once_with_the_right_pixels(images: Path, tmp_path: Path) -> None:
    ended = run(
        BENCH / "against_peers.py",
        *("--only", "headrace", "--level", "center", "--rounds", "1", "--json"),
        *("--images", images, "--work", tmp_path / "work"),
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["images"] == 70
    assert told["center"]["contenders"]["headrace"]["images_per_second"] > 0
    assert "tensorflow" in told["center"]["versions"]["headrace"]


def test_an_unknown_contender_is_named() -> None:
    ended = run(BENCH / "against_peers.py", "--only", "headrace,nobody")
    assert ended.returncode == 2
    assert "--only nobody: there are headrace, tfdata" in ended.stderr


BATCHES = """
import json, numpy as np, harness
def batches(labels, dtype):
    for start in range(0, len(labels), 64):
        part = labels[start : start + 64]
        yield np.zeros((len(part), 224, 224, 3), dtype), part
def told(labels, dtype="uint8"):
    return harness.run_epoch(lambda: batches(labels, dtype), 100, check=False)
order = list(np.random.default_rng(0).permutation(100))
print(json.dumps([told(order), told(order[:-1] + order[:1]), told(list(range(100))), told(order, "float32")]))
"""


def test_what_is_wrong_with_an_epoch() -> None:
    epochs = json.loads(run("-c", BATCHES).stdout)
    script = "import json, sys, against_peers as a\n" + (
        "print(json.dumps([a.wrong(a.Epoch(1.0, 1.0, told), 'center', 100) for told in json.loads(sys.argv[1])]))"
    )
    ended = run("-c", script, json.dumps(epochs))
    found: list[Any] = json.loads(ended.stdout)
    assert found == [
        None,
        "100 of 100 images, 1 missing, 1 repeated",
        "the images came in stored order",
        "batches of [[[224, 224, 3], 'float32']]",
    ]
