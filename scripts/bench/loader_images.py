#!/usr/bin/env python3
"""The loader against the best tf.data pipelines we can tune by hand, over the same prepared data set.

Each round runs every pipeline for one epoch, in turn, so that a noisy minute hits all of them; medians and their
ratios are printed. The hand-tuned pipelines are not deterministic and cannot resume: they interleave the shards,
shuffle in a buffer, parse and decode each record (only the crop of a JPEG) in parallel, batch and prefetch. Four
ways of tuning them are run, and the fastest is what the loader is compared with.

  raw      every record read and checked, only its label parsed
  center   the middle 224 x 224 of every image, uint8
  random   a random resized crop to 224 x 224, mirrored half of the time, normalised to float32
  cached   the second epoch of images kept decoded in memory, 224 x 224, mirrored, uint8, against decoding them

Examples:
  python scripts/bench/loader_images.py out/photos/1.0.0
  python scripts/bench/loader_images.py out/photos/1.0.0 --rounds 9 --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from typing import Any

import tensorflow as tf

from loader import augment, load
from schemas import read_manifest

KINDS = ["raw", "center", "random", "cached"]
SIZE = 224
BATCH = 64
MEAN, STD = tf.constant([0.485, 0.456, 0.406]), tf.constant([0.229, 0.224, 0.225])
THREADS = len(os.sched_getaffinity(0))
Pipeline = Callable[[], tf.data.Dataset]


def decode(record: tf.Tensor, image: str, label: str, kind: str) -> tuple[tf.Tensor, tf.Tensor]:
    """One record, by hand."""
    spec = {image: tf.io.FixedLenFeature([], tf.string), label: tf.io.FixedLenFeature([], tf.int64)}
    parsed = tf.io.parse_single_example(record, spec)
    data = parsed[image]
    shape = tf.io.extract_jpeg_shape(data)
    if kind == "center":
        box = tf.stack([(shape[0] - SIZE) // 2, (shape[1] - SIZE) // 2, SIZE, SIZE])
        return tf.ensure_shape(tf.io.decode_and_crop_jpeg(data, box, 3), [SIZE, SIZE, 3]), parsed[label]
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        tf.zeros([1, 0, 4]),
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    box = tf.stack([begin[0], begin[1], size[0], size[1]])
    pixels = tf.image.resize(tf.io.decode_and_crop_jpeg(data, box, 3), (SIZE, SIZE))
    pixels = tf.cond(tf.random.uniform([]) < 0.5, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    # As rows: broadcasting three channels takes five times as long.
    scale, shift = (tf.tile(values, [SIZE]) for values in (1 / (255 * STD), MEAN / STD))
    pixels = tf.reshape(pixels, [SIZE, SIZE * 3]) * scale - shift
    return tf.reshape(pixels, [SIZE, SIZE, 3]), parsed[label]


def by_hand(
    files: list[str],
    image: str,
    label: str,
    kind: str,
    *,
    parallel: int,
    threads: int,
    fused: bool = False,
    buffer: int = 1024,
) -> tf.data.Dataset:
    """The hand-tuned pipeline; `parallel` may be AUTOTUNE, which also sets the prefetch."""
    auto = parallel == tf.data.AUTOTUNE
    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files))
    dataset = dataset.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(8, len(files)),
        num_parallel_calls=parallel if auto else min(2, len(files)),
        deterministic=False,
    )
    dataset = dataset.shuffle(buffer)
    if kind == "raw":
        spec = {label: tf.io.FixedLenFeature([], tf.int64)}
        dataset = dataset.batch(BATCH).map(
            lambda records: ({}, tf.io.parse_example(records, spec)[label]),
            num_parallel_calls=parallel,
            deterministic=False,
        )
    else:
        dataset = dataset.map(
            lambda record: decode(record, image, label, kind),
            num_parallel_calls=parallel,
            deterministic=False,
        ).batch(BATCH)
    options = tf.data.Options()
    options.deterministic = False
    options.autotune.enabled = auto
    options.experimental_optimization.map_and_batch_fusion = fused
    if threads:
        options.threading.private_threadpool_size = threads
    return dataset.prefetch(parallel if auto else 2).with_options(options)


def contenders(directory: str, split: str, kind: str) -> dict[str, tf.data.Dataset]:
    """Every pipeline by name; the loader's is called "loader"."""
    manifest = read_manifest(directory)
    image = next(name for name, feature in manifest.features.items() if feature.type == "image")
    label = manifest.spec["label"]
    files = [f"{directory}/{shard.path}" for shard in manifest.splits[split].shards if shard.records]
    common: dict[str, Any] = {"batch_size": BATCH, "features": image, "image_size": SIZE, "training": True}
    if kind == "cached":
        common["augment"] = [augment.FlipLeftRight()]
        return {
            "loader": load(directory, split, cache="memory", **common),
            "uncached": load(directory, split, **common),
        }
    ways = {
        "by hand, a call a thread, fused": {"parallel": THREADS, "threads": THREADS, "fused": True},
        "by hand, two calls a thread, fused": {"parallel": 2 * THREADS, "threads": THREADS, "fused": True},
        "by hand, four calls a thread": {"parallel": 4 * THREADS, "threads": THREADS},
        "by hand, AUTOTUNE": {"parallel": tf.data.AUTOTUNE, "threads": 0},
    }
    found = {name: by_hand(files, image, label, kind, **way) for name, way in ways.items()}
    options = {
        "raw": {"features": label},
        "center": {"resize": "center"},
        "random": {"augment": True, "normalize": "imagenet"},
    }
    return {"loader": load(directory, split, **{**common, **options[kind]}), **found}


def epoch(dataset: tf.data.Dataset) -> tuple[float, float]:
    """Images a second, and microseconds of processor time an image, over one epoch."""
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    for _, labels in dataset:
        images += labels.shape[0]
    return images / (time.perf_counter() - start), (time.process_time() - cpu) / images * 1e6


def measure(directory: str, split: str, kind: str, rounds: int) -> dict[str, object]:
    """Medians over the rounds after a first one that is not counted, and the ratio to the best other pipeline."""
    pipelines = contenders(directory, split, kind)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for turn in range(rounds + 1):
        for name, dataset in pipelines.items():
            result = epoch(dataset)
            if turn:
                runs[name].append(result)
    speed = {name: statistics.median(r[0] for r in result) for name, result in runs.items()}
    cpu = {name: statistics.median(r[1] for r in result) for name, result in runs.items()}
    best = max((name for name in speed if name != "loader"), key=lambda name: speed[name])
    # Round by round against the same pipeline, as both had the same noise.
    ratio = statistics.median(
        ours[0] / other[0] for ours, other in zip(runs["loader"], runs[best], strict=True)
    )
    return {
        "images_per_second": {name: round(value) for name, value in speed.items()},
        "best_images_per_second": {name: round(max(r[0] for r in result)) for name, result in runs.items()},
        "cpu_us_per_image": {name: round(value) for name, value in cpu.items()},
        "best_other": best,
        "ratio": round(ratio, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", help="a prepared data set of JPEGs with a label")
    parser.add_argument("--split", default="train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", choices=KINDS, action="append", help="all if absent")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = {}
    for kind in arguments.kind or KINDS:
        found[kind] = result = measure(arguments.directory, arguments.split, kind, arguments.rounds)
        if not arguments.json:
            print(
                f"\n{kind}: {SIZE} x {SIZE}, batches of {BATCH}, {THREADS} processors, {arguments.rounds} rounds"
            )
            for name, speed in result["images_per_second"].items():  # type: ignore[attr-defined]
                top, cpu = result["best_images_per_second"][name], result["cpu_us_per_image"][name]  # type: ignore[index]
                print(
                    f"  {name:<36} {speed:7.0f} img/s   best {top:6.0f}   {cpu:5.0f} µs of processor an image"
                )
            print(f"  the loader reaches {result['ratio']:.0%} of: {result['best_other']}")
            sys.stdout.flush()
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
