"""What the process of every contender does: prepare the images once, or run epochs as it is told to.

  python with_X.py prepare IMAGES OUT       IMAGES: a text file with the path of one image a line
  python with_X.py run IMAGES OUT LEVEL     then, a line on standard input each: `epoch` or `check`

Everything is answered with one JSON object a line. This file and the others here run in the peers' environments,
so they import nothing but the standard library, NumPy and the peer.

A contender yields batches (images, labels). The label of an image is its line number in IMAGES, so that an epoch
can be checked to hold every image exactly once. Two levels:

  center   the middle 224 x 224, uint8
  random   a random resized crop to 224 x 224 (8 % to 100 % of the area, 3:4 to 4:3), mirrored half of the time,
           (pixel - MEAN) / STD as float32

Channels may come first or last, as the peer is faster. The integer ("fast") DCT is used wherever one can choose,
as TensorFlow does by default, chroma is upsampled the "fancy" way, and resizing is bilinear without antialiasing
(FFCV: OpenCV's INTER_AREA, it has nothing else).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 224
BATCH = 64
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
_NAME = re.compile(r"\w+")  # of "uint8", "torch.uint8", "<dtype: 'uint8'>"
THREADS = len(os.sched_getaffinity(0))

Batches = Iterator[tuple[Any, Any]]
Prepare = Callable[[list[Path], Path], None]
"""(images, directory, which exists and is empty) -> None"""
Load = Callable[[list[Path], Path, str], Callable[[], Batches]]
"""(images, the directory that was prepared, level) -> a function that begins an epoch"""


def main(packages: Sequence[str], prepare: Prepare, load: Load) -> None:
    """The command line of a contender; `packages` are those whose versions are reported."""
    # If whoever tells us what to do is killed, nobody would wake this process, or end it.
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    # Libraries print; answers have the standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**told: object) -> None:
        print(json.dumps(told), file=answers)

    verb, listing, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    images = [Path(line) for line in listing.read_text(encoding="utf-8").splitlines()]
    if verb == "prepare":
        prepare(images, out)
        answer(prepared=len(images))
        return
    epoch = load(images, out, sys.argv[4])
    answer(versions={name: importlib.metadata.version(name) for name in packages})
    for line in sys.stdin:
        answer(**run_epoch(epoch, len(images), check=line.strip() == "check"))


def run_epoch(epoch: Callable[[], Batches], count: int, *, check: bool) -> dict[str, object]:
    """One epoch, timed from before its beginning until after its last batch."""
    labels: list[np.ndarray] = []
    kinds: set[tuple[tuple[int, ...], str]] = set()
    means: list[np.ndarray] = []
    low, high = np.inf, -np.inf
    start = time.perf_counter()
    for images, numbers in epoch():
        labels.append(np.array(numbers).reshape(-1))  # a copy: some peers use their buffers again
        dtype = _NAME.findall(str(images.dtype))[-1]
        kinds.add((tuple(images.shape[1:]), dtype))
        if check and (dtype == "uint8" or len(labels) % 8 == 1):  # of floats a part will do
            pixels = np.asarray(images)
            means.append(pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float64))
            low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
    seconds = time.perf_counter() - start
    times = np.bincount(np.concatenate(labels), minlength=count)
    told: dict[str, object] = {
        "seconds": seconds,
        "images": int(times.sum()),
        "missing": int((times == 0).sum()),
        "repeated": int((times > 1).sum()),
        "kinds": sorted(kinds),
        "shuffled": bool((np.diff(np.concatenate(labels)) != 1).mean() > 0.9),
    }
    if check:
        told |= {"means": np.sort(np.concatenate(means)).tolist(), "low": low, "high": high}
    return told
