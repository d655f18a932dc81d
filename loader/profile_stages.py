"""What each stage of a pipeline costs by itself, with its input in memory; see `loader.profile`."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from loader import decode, pipeline
from loader.decode import Features
from loader.plan import Ids
from loader.read import Records
from loader.recipe import Recipe

_SAMPLE_BYTES = (
    32 << 20
)  # 32 MiB: records that are kept for the later stages, more than a processor's caches hold
_SAMPLE_RECORDS = 4096
IDLE = 0.2  # share of the processors' time: with less of it they, and not waiting, are what bounds
_LEAST = 0.05  # share of what was measured that is the work itself
_LEAST_RUNS = 10  # elements that a measurement takes at least, however slow they are
_GROUP = 16  # elements that come to Python at a time


@dataclass(frozen=True)
class Stage:
    """What one stage does for an example.

    Attributes:
      name: read, parse, decode, augment, batch or transfer.
      what: it does, in a few words.
      cpu: seconds of processor time.
      bytes: that come out of it.
      seconds: from example to example if it runs alone, with all its parallelism: more than it computes where it
        waits for a disk or a network.
    """

    name: str
    what: str
    cpu: float
    bytes: float
    seconds: float


class Processors:
    """How much of this process's processors nobody used, since it was made."""

    def __init__(self) -> None:
        self._before = self._read()

    def idle(self) -> float:
        """Share of the time, 0 … 1."""
        (idle, total), (idle_before, total_before) = self._read(), self._before
        return (idle - idle_before) / max(1, total - total_before)

    @staticmethod
    def _read() -> tuple[int, int]:
        own = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text("ascii").splitlines()]
        ticks = [[int(number) for number in words[1:9]] for words in lines if words[0] in own]
        return sum(times[3] + times[4] for times in ticks), sum(map(sum, ticks))  # idle and iowait


def measure_read(recipe: Recipe, seconds: float) -> tuple[Stage, Records]:
    """Reading and checking records in the order of an epoch, as many chunks at a time as the loader; and a sample."""
    chunk = pipeline._chunk_records(recipe)
    kept: list[Records] = []
    done = []

    def read(ids: Ids) -> None:
        records = recipe.reader.read(ids)[0]
        size = sum(map(len, records))
        done.append((len(records), size))
        if sum(map(len, kept)) < _SAMPLE_RECORDS and len(kept) * size < _SAMPLE_BYTES:
            kept.append(records)

    chunks, processors = _chunks(recipe, chunk), Processors()
    wall, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(recipe.reads) as pool:
        while time.perf_counter() - wall < seconds:
            # A few for each thread, so that none runs dry; the results say if one failed.
            list(pool.map(read, itertools.islice(chunks, 4 * recipe.reads)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    records, size = (sum(numbers) for numbers in zip(*done, strict=True))
    what = f"{recipe.reads} at a time, CRC checked"
    # On a busy machine the clock tells more of its other processes than of reading.
    waited = wall if processors.idle() > IDLE else cpu / recipe.threads
    return Stage("read", what, cpu / records, size / records, waited / records), np.concatenate(kept)


def measure_cache(recipe: Recipe, seconds: float) -> Stage:
    """Taking examples out of a filled cache, in the order of an epoch."""
    assert recipe.cache is not None
    cache, count = recipe.cache, 0
    size = sum(column.row_bytes for column in recipe.columns)
    chunks = _chunks(recipe, pipeline._chunk_records(recipe), stored=False)
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        places = next(chunks)
        cache.get(places)
        count += len(places)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Stage("cache", "lookup and copy", cpu / count, size, cpu / count / recipe.threads)


def measure_parse(recipe: Recipe, records: Records, seconds: float) -> Stage:
    """Records to features, a chunk at a time."""
    chunk = min(pipeline._chunk_records(recipe), len(records))
    whole = tf.constant(records[: len(records) // chunk * chunk]).numpy().reshape(-1, chunk)
    source = tf.data.Dataset.from_tensor_slices(whole).repeat()
    cpu = _cost(recipe, source, lambda records: decode.parse(records, recipe.features), seconds) / chunk
    columns = len({decode._stored_name(name, feature) for name, feature in recipe.features.items()})
    return Stage(
        "parse", f"{columns} features", cpu, float(np.mean([len(r) for r in records])), cpu / recipe.threads
    )


def measure_decode(recipe: Recipe, images: Mapping[str, Any], seconds: float, name: str = "decode") -> Stage:
    """Encoded images to images of the wanted size; a random crop is part of it where it comes first."""
    crop = pipeline._example_ops(recipe)[:1] if recipe.crop_first else ()
    alone = dataclasses.replace(recipe, ops=crop)
    count = len(next(iter(images.values())))
    seeds = np.random.default_rng(0).integers(0, 1 << 62, (count, 2))
    source = tf.data.Dataset.from_tensor_slices({**images, pipeline._SEED: seeds}).repeat()
    cpu = _cost(recipe, source, lambda features: pipeline._prepare(alone, dict(features)), seconds)
    out = sum(math.prod(n or 0 for n in shape) for shape in _sizes(recipe).values())
    formats = {str(f.stored_format or "jpeg, png").upper() for f in pipeline._images(recipe).values()}
    what = f"{', '.join(formats)}{', random crop' if crop else ''}" + (
        f", {_by(next(iter(_sizes(recipe).values())))}" if out else ""
    )
    return Stage(name, what, cpu, float(out), cpu / recipe.threads)


def measure_augment(recipe: Recipe, example: Features, seconds: float) -> Stage | None:
    """The operations on single examples that are not part of decoding; `example` is a decoded one."""
    skip = 1 if recipe.crop_first and recipe.cache is None else 0
    ops = pipeline._example_ops(recipe)[skip:]
    if not ops:
        return None
    seeds = np.random.default_rng(0).integers(0, 1 << 62, (1024, 2))
    source = tf.data.Dataset.from_tensor_slices(seeds).repeat()
    cpu = _cost(
        recipe,
        source,
        lambda seed: pipeline._augment(recipe, {**example, pipeline._SEED: seed}, skip=skip),
        seconds,
    )
    size = float(sum(math.prod(n or 0 for n in shape) for shape in _sizes(recipe).values()))
    names = ", ".join(type(op).__name__ for op in ops)
    return Stage("augment", names, cpu, size, cpu / recipe.threads)


def measure_batch(recipe: Recipe, example: Features, seconds: float) -> Stage:
    """Examples, or chunks of a table, to batches."""
    size = recipe.batches.host_size
    source = tf.data.Dataset.from_tensors(example).repeat()
    if pipeline._images(recipe):
        batched = pipeline._map_and_batch(source, lambda features: features, recipe.parallel, size, False)
    else:
        batched = source.rebatch(size)
    _, cpu, count = _run(recipe, batched, seconds)
    cpu /= count * size
    bytes_ = _bytes(next(iter(batched.take(1)))) / size
    return Stage(
        "batch", f"of {size}", cpu, bytes_, cpu / (recipe.threads if pipeline._images(recipe) else 1)
    )


def measure_finish(recipe: Recipe, example: Features, seconds: float) -> Stage | None:
    """What is done to a whole batch of images: flips, MixUp and CutMix, normalising."""
    size = recipe.batches.host_size
    ops = [type(op).__name__ for op in (*pipeline._flips(recipe), *pipeline._batch_ops(recipe))]
    if not ops and not recipe.normalize:
        return None
    batch = {name: tf.stack([value] * size) for name, value in example.items()}
    if recipe.label is not None:
        batch[recipe.label] = tf.zeros([size], decode.feature_dtype(recipe.features[recipe.label]))
    seeds = np.random.default_rng(0).integers(0, 1 << 62, (16, size, 2))
    source = tf.data.Dataset.from_tensor_slices(seeds).repeat()

    def work(seed: tf.Tensor) -> Features:
        return pipeline._finish(recipe, {**batch, pipeline._SEED: seed})

    cpu = _cost(recipe, source, work, seconds) / size
    what = ", ".join(ops + ["normalise"] * bool(recipe.normalize))
    return Stage("finish", what, cpu, _bytes(work(tf.constant(seeds[0]))) / size, cpu / recipe.threads)


def measure_transfer(recipe: Recipe, batch: Any, seconds: float) -> Stage:
    """Batches to the consumer: onto its accelerator if there is one, else to NumPy."""
    size = recipe.batches.host_size
    device = next((d.name for kind in ("GPU", "TPU") for d in tf.config.list_logical_devices(kind)), None)
    flat = tf.nest.flatten(batch, expand_composites=True)
    count, start = 0, time.perf_counter()
    cpu = time.process_time()
    while time.perf_counter() - start < seconds:
        for value in flat:
            if device is None:
                value.numpy()
            else:
                with tf.device(device):
                    moved = tf.identity(value)
                tf.reshape(moved, [-1])[:1].numpy()  # waits until it has arrived
        count += size
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    what = f"to {device.rpartition('/')[2]}" if device else "to NumPy"
    return Stage("transfer", what, cpu / count, _bytes(batch) / size, wall / count)


def decoded_example(recipe: Recipe, images: Mapping[str, Any]) -> Features:
    """One example as it comes out of decoding."""
    crop = pipeline._example_ops(recipe)[:1] if recipe.crop_first else ()
    features = {name: tf.constant(values[0]) for name, values in images.items()}
    features[pipeline._SEED] = tf.zeros([2], tf.int64)
    made = pipeline._prepare(dataclasses.replace(recipe, ops=crop), features)
    return {name: value for name, value in made.items() if name != pipeline._SEED}


def augmented_example(recipe: Recipe, example: Features) -> Features:
    """A decoded example as batches are made of."""
    skip = 1 if recipe.crop_first and recipe.cache is None else 0
    made = pipeline._augment(recipe, {**example, pipeline._SEED: tf.zeros([2], tf.int64)}, skip=skip)
    return {name: value for name, value in made.items() if name != pipeline._SEED}


def parsed(recipe: Recipe, records: Records) -> Features:
    """A chunk of a table, as batches are made of."""
    return decode.parse(tf.constant(records[: pipeline._chunk_records(recipe)]), recipe.features)


def sample(recipe: Recipe) -> Records:
    """A few records, read again where they are cached."""
    ids = recipe.part.stored(np.arange(min(256, len(recipe.part))))
    return recipe.reader.read(ids)[0]


def images_in(recipe: Recipe, records: Records) -> dict[str, Any]:
    """The encoded images of `records`, bytes objects (n,) by feature."""
    wanted = pipeline._images(recipe)
    parsed = decode.parse(tf.constant(records[: _SAMPLE_RECORDS // 4]), wanted)
    return {name: value.numpy() for name, value in parsed.items()}


def _sizes(recipe: Recipe) -> dict[str, tuple[int | None, ...]]:
    """Shapes of images after decoding, and of crops after augmenting."""
    size = recipe.image_size
    return {
        name: (*size, f.shape[2]) if size else f.stored_shape for name, f in pipeline._images(recipe).items()
    }


def _by(shape: tuple[int | None, ...]) -> str:
    return f"{shape[0]}×{shape[1]}"


def _chunks(recipe: Recipe, chunk: int, *, stored: bool = True) -> Iterator[Ids]:
    """Ids of an endless training, a chunk at a time; of places in the part if not `stored`."""
    for epoch in itertools.count():
        total = recipe.order.count(epoch)
        for start in range(0, total, chunk):
            places = recipe.order.ids(epoch, start, min(start + chunk, total))
            yield recipe.part.stored(places) if stored else places


def _cost(recipe: Recipe, source: tf.data.Dataset, work: Callable[[Any], Features], seconds: float) -> float:
    """Processor seconds of `work` on an element of `source`, without those of getting and handing it on."""
    calls = recipe.parallel

    def full(value: Any) -> tf.Tensor:
        return _touch(work(value))

    costs = []
    for touch, share in ((full, 0.7), (_touch, 0.3)):
        dataset = source.map(touch, num_parallel_calls=calls).batch(_GROUP)
        _, cpu, count = _run(recipe, dataset, share * seconds)
        costs.append(cpu / count / _GROUP)
    return max(costs[0] - costs[1], _LEAST * costs[0])  # below that, it is lost in noise


def _touch(features: Any) -> tf.Tensor:
    """A number that needs all of the largest tensors there are, so that nothing is optimised away."""
    flat = tf.nest.flatten(features, expand_composites=True)
    images = [value for value in flat if value.shape.rank in (3, 4)] or flat
    firsts = [tf.reshape(value, [-1])[:1] for value in images]
    numbers = [tf.strings.length(v) if v.dtype == tf.string else tf.cast(v, tf.int32) for v in firsts]
    return tf.add_n([tf.reduce_sum(number) for number in numbers])


def _run(recipe: Recipe, dataset: tf.data.Dataset, seconds: float) -> tuple[float, float, int]:
    """Wall seconds, processor seconds and elements, after a first one that is not counted."""
    elements = iter(dataset.with_options(pipeline._options(recipe)))
    next(elements)
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while count < _LEAST_RUNS or time.perf_counter() - wall < seconds:
        next(elements)
        count += 1
    return time.perf_counter() - wall, time.process_time() - cpu, count


def _bytes(value: Any) -> float:
    """Bytes of the tensors in `value`; of strings, their characters."""
    total = 0
    for part in tf.nest.flatten(value, expand_composites=True):
        strings = part.dtype == tf.string
        total += (
            int(tf.reduce_sum(tf.strings.length(part))) if strings else part.dtype.size * int(tf.size(part))
        )
    return float(total)
