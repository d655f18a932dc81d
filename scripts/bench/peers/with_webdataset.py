"""WebDataset: tar files read from front to back, shuffled in a buffer, decoded and batched in worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import webdataset
from harness import BATCH
from torch.utils.data import default_collate
from torch_common import WORKERS, epochs, pixels_of

SHARDS = 8  # a multiple of the workers, which deal them among themselves


def prepare(images: list[Path], out: Path) -> None:
    for shard in range(SHARDS):
        with webdataset.TarWriter(str(out / f"{shard:02d}.tar")) as writer:
            for label in range(shard, len(images), SHARDS):
                jpeg = images[label].read_bytes()
                writer.write({"__key__": f"{label:08d}", "jpg": jpeg, "cls": str(label).encode()})


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    dataset = (
        webdataset.WebDataset(sorted(str(path) for path in out.glob("*.tar")), shardshuffle=SHARDS)
        .shuffle(1000, initial=1000)
        .to_tuple("jpg", "cls")
        .map_tuple(pixels_of(level), int)
        .batched(BATCH, collation_fn=default_collate)
    )
    return epochs(webdataset.WebLoader(dataset, batch_size=None, **WORKERS), level)


if __name__ == "__main__":
    harness.main(["webdataset", "torch", "simplejpeg", "opencv-python-headless"], prepare, load)
