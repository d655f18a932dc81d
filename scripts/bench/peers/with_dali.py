"""NVIDIA DALI, on the processor.

What its guides advise: decoding fused with the crop, normalising fused with mirroring, as many threads as processors,
the dynamic executor. Files are read as they are (mapped into memory, 0.03 ms each); shuffle_after_epoch shuffles all
of them. More threads, deeper queues and channels last took more processor time. Resizing is its dearest step: 0.8 ms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from harness import BATCH, MEAN, RATIO, SCALE, SIZE, STD, THREADS, Batches
from nvidia.dali import fn, pipeline_def, types


@pipeline_def
def pipeline(files: list[str], level: str) -> Any:
    jpegs, labels = fn.readers.file(
        files=files, labels=list(range(len(files))), shuffle_after_epoch=True, pad_last_batch=True
    )
    if level == "center":
        return fn.decoders.image_crop(jpegs, crop=(SIZE, SIZE), use_fast_idct=True), labels
    images = fn.decoders.image_random_crop(
        jpegs, random_area=SCALE, random_aspect_ratio=RATIO, num_attempts=10, use_fast_idct=True
    )
    images = fn.resize(images, size=(SIZE, SIZE), interp_type=types.INTERP_LINEAR, antialias=False)
    images = fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mirror=fn.random.coin_flip(),
        mean=MEAN.tolist(),
        std=STD.tolist(),
    )
    return images, labels


def prepare(images: list[Path], out: Path) -> None:
    """It reads the files themselves."""


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    made = pipeline(
        [str(path) for path in images],
        level,
        batch_size=BATCH,
        num_threads=THREADS,
        device_id=None,
        prefetch_queue_depth=2,
        exec_dynamic=True,
        seed=1,
    )
    made.build()

    def epoch() -> Batches:
        left = len(images)
        while left:
            pixels, labels = made.run()
            real = min(left, BATCH)  # the last batch is filled up with copies of its last image
            left -= real
            yield pixels.as_array()[:real], labels.as_array()[:real]

    return epoch


if __name__ == "__main__":
    harness.main(["nvidia-dali-cuda120"], prepare, load)
