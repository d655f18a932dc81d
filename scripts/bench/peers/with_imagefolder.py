"""torchvision's ImageFolder and PyTorch's DataLoader, with the fastest decoder and resizer we found.

With its defaults (PIL and torchvision's transforms) it is about half as fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from harness import BATCH
from torch.utils.data import DataLoader
from torch_common import WORKERS, epochs, pixels_of
from torchvision.datasets import ImageFolder


def prepare(images: list[Path], out: Path) -> None:
    """It reads the files themselves."""


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    dataset = ImageFolder(str(images[0].parent.parent), transform=pixels_of(level), loader=read)
    number = {str(path): label for label, path in enumerate(images)}
    dataset.samples = [(path, number[path]) for path, _ in dataset.samples]
    return epochs(DataLoader(dataset, batch_size=BATCH, shuffle=True, **WORKERS), level)


if __name__ == "__main__":
    harness.main(["torchvision", "torch", "simplejpeg", "opencv-python-headless"], prepare, load)
