"""Mosaic's StreamingDataset over local shards of its MDS format, shuffled by its default algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import streaming
from harness import BATCH
from torch.utils.data import DataLoader
from torch_common import WORKERS, epochs, pixels_of


def prepare(images: list[Path], out: Path) -> None:
    columns = {"image": "bytes", "label": "int"}
    with streaming.MDSWriter(columns=columns, out=str(out), exist_ok=True) as writer:
        for label, path in enumerate(images):
            writer.write({"image": path.read_bytes(), "label": label})


class Photos(streaming.StreamingDataset):
    """Samples decoded as `level` says."""

    def __init__(self, local: str, level: str):
        super().__init__(local=local, shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
        self.decode = pixels_of(level)

    def __getitem__(self, index: Any) -> Any:
        sample = super().__getitem__(index)
        return self.decode(sample["image"]), sample["label"]


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    streaming.base.util.clean_stale_shared_memory()  # of runs that were ended
    return epochs(DataLoader(Photos(str(out), level), batch_size=BATCH, **WORKERS), level)


if __name__ == "__main__":
    harness.main(["mosaicml-streaming", "torch", "simplejpeg", "opencv-python-headless"], prepare, load)
