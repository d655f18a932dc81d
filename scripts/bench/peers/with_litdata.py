"""LitData: chunks of 64 MB in its own format, a global shuffle of chunks and of the items in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import litdata
from harness import BATCH, THREADS
from torch_common import WORKERS, epochs, pixels_of


def item(task: tuple[int, str]) -> dict[str, Any]:
    label, path = task
    return {"image": Path(path).read_bytes(), "label": label}


def prepare(images: list[Path], out: Path) -> None:
    litdata.optimize(
        fn=item,
        inputs=[(label, str(path)) for label, path in enumerate(images)],
        output_dir=str(out),
        num_workers=THREADS,
        chunk_bytes="64MB",
    )


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    # It would ask PyPI whether there is a newer version.
    litdata.streaming.dataset._check_version_and_prompt_upgrade = lambda version: None  # noqa: ARG005
    decode = pixels_of(level)
    dataset = litdata.StreamingDataset(
        str(out), shuffle=True, transform=lambda sample: (decode(sample["image"]), sample["label"])
    )
    return epochs(litdata.StreamingDataLoader(dataset, batch_size=BATCH, **WORKERS), level)


if __name__ == "__main__":
    harness.main(["litdata", "torch", "simplejpeg", "opencv-python-headless"], prepare, load)
