"""What the peers for PyTorch share: the same pixels, and worker processes that send as little as they can.

A batch of the level `random` is 38 MB of float32. Workers send its pixels as uint8 through shared memory, a
quarter of that, and the process that trains normalises them into a buffer it uses again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pixels
import torch
from harness import BATCH, MEAN, SIZE, STD, THREADS, Batches

torch.set_num_threads(1)  # the cores are taken by the workers

# Two processes, one a core, are fed by a third, which waits most of the time. They live as long as the loader.
WORKERS: dict[str, Any] = {"num_workers": THREADS, "persistent_workers": True, "prefetch_factor": 2}


@functools.cache
def _generator(process: int) -> np.random.Generator:  # noqa: ARG001
    return np.random.default_rng()


def pixels_of(level: str) -> Callable[[bytes], torch.Tensor]:
    """From a JPEG to uint8 (224, 224, 3), cropped and mirrored as `level` says."""
    if level == "center":
        return _center
    return _random_crop


def _center(jpeg: bytes) -> torch.Tensor:
    return torch.from_numpy(pixels.center(jpeg))


def _random_crop(jpeg: bytes) -> torch.Tensor:
    return torch.from_numpy(pixels.random_crop(jpeg, _generator(os.getpid())))


def epochs(loader: Iterable[Any], level: str) -> Callable[[], Batches]:
    """Epochs of a DataLoader of (uint8 images, labels), normalised where `level` says so."""
    factor, shift = torch.from_numpy(1 / STD).repeat(SIZE), torch.from_numpy(MEAN / STD).repeat(SIZE)
    buffer = torch.empty((BATCH, SIZE, SIZE, 3))

    def epoch() -> Batches:
        for images, labels in loader:
            if level == "center":
                yield images, labels
                continue
            out = buffer[: len(images)]
            # Image by image, in long rows: a tenth of the time of broadcasting along three channels of the batch.
            for image, place in zip(
                images.view(-1, SIZE, SIZE * 3), out.view(-1, SIZE, SIZE * 3), strict=True
            ):
                place.copy_(image).mul_(factor).sub_(shift)
            yield out, labels

    return epoch
