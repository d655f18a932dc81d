"""Grain over ArrayRecord files: a global shuffle by random access, images decoded in threads.

Threads, as the decoder gives the interpreter lock away: processes would cost a copy of every batch. Two a
processor, as they wait for the lock now and then. Batches are made by the reading thread, which costs less memory
traffic than threads that make a batch each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import harness
import numpy as np
import pixels
from array_record.python.array_record_module import ArrayRecordWriter
from harness import BATCH, THREADS, Batches

SHARDS = 8


def prepare(images: list[Path], out: Path) -> None:
    # group_size:1 is what Grain asks for: a group is what one random read has to unpack. JPEGs do not compress.
    writers = [
        ArrayRecordWriter(str(out / f"{shard:02d}.array_record"), "group_size:1,uncompressed")
        for shard in range(SHARDS)
    ]
    for label, path in enumerate(images):
        writers[label % SHARDS].write(label.to_bytes(4, "little") + path.read_bytes())
    for writer in writers:
        writer.close()


def split(record: bytes) -> tuple[memoryview, np.int64]:
    return memoryview(record)[4:], np.int64(int.from_bytes(record[:4], "little"))


def center(record: bytes) -> tuple[np.ndarray, np.int64]:
    jpeg, label = split(record)
    return pixels.center(jpeg), label


def random(record: bytes, rng: np.random.Generator) -> tuple[np.ndarray, np.int64]:
    jpeg, label = split(record)
    return pixels.random_crop(jpeg, rng), label


def normalised(samples: Sequence[tuple[np.ndarray, np.int64]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*samples, strict=True)
    return pixels.normalise(images), np.stack(labels)


def load(images: list[Path], out: Path, level: str) -> Any:  # noqa: ARG001
    source = grain.sources.ArrayRecordDataSource(sorted(str(path) for path in out.glob("*.array_record")))
    options = grain.ReadOptions(num_threads=2 * THREADS, prefetch_buffer_size=2 * BATCH)
    numbers = itertools.count()

    def epoch() -> Batches:
        dataset = grain.MapDataset.source(source).seed(next(numbers)).shuffle()
        if level == "center":
            return iter(dataset.map(center).to_iter_dataset(options).batch(BATCH))
        return iter(dataset.random_map(random).to_iter_dataset(options).batch(BATCH, batch_fn=normalised))

    return epoch


if __name__ == "__main__":
    harness.main(["grain", "array-record", "simplejpeg", "opencv-python-headless"], prepare, load)
