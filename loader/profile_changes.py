"""What would make a loader faster: by how much it should, and by how much it does."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from loader import cache, pipeline, profile_stages
from loader.loader import Loader
from loader.profile_stages import Stage
from loader.read import Records
from loader.recipe import Recipe
from schemas.features import ImageFeature
from schemas.packing import pack, with_places
from schemas.units import format_bytes

_WARM = 3  # batches before a run counts
_MARGIN = 1.15  # how much larger than its crops an image is usually stored
_GAIN = 1.05  # what is worth telling
_FEW = 64  # images that are stored again in another size


@dataclass(frozen=True)
class Run:
    """The whole loader, for a while.

    Attributes:
      speed: examples a second.
      cpu: processor seconds of an example.
      idle: share of the time that the consumer waited.
    """

    speed: float
    cpu: float
    idle: float


@dataclass(frozen=True)
class Change:
    """Something to do.

    Attributes:
      what: in a line.
      predicted, measured: examples a second.
      whole: whether the whole loader was run for `measured`; else the stage that changes, on records stored so.
    """

    what: str
    predicted: float
    measured: float
    whole: bool = True


class Feed:
    """Batches of a loader, taken one after the other over several runs."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self._batches = loader, iter(loader)
        for _ in range(_WARM):
            next(self._batches)

    def run(self, seconds: float, step_seconds: float = 0.0) -> Run:
        """Takes batches for some seconds, with a simulated step for each."""
        size = self._loader._recipe.batches.host_size
        next(self._batches)
        before, count = self._loader.stats()["wait"], 0
        wall, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            if step_seconds:
                time.sleep(step_seconds)
            next(self._batches)
            count += size
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = self._loader.stats()["wait"]
        total = after["total_seconds"] - before["total_seconds"]
        return Run(
            count / wall, cpu / count, (after["seconds"] - before["seconds"]) / total if total else 0.0
        )


@dataclass(frozen=True)
class Setup:
    """A loader and what was measured of it. `make(split, **options)` gives one with other options of `load`."""

    make: Callable[..., Loader]
    split: str
    recipe: Recipe
    cached: bool
    stages: tuple[Stage, ...]
    whole: Run
    processors: int
    sample: Records
    feed: Feed
    free: float  # share of the processors' time that nobody used
    waits: bool = False

    def stage(self, name: str) -> Stage | None:
        """The stage of this name, if there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def cpu(self, *names: str) -> float:
        """Processor seconds of some stages."""
        return sum(stage.cpu for stage in self.stages if stage.name in names)

    def compare(self, loader: Loader, unit: float) -> float:
        """Examples a second of another loader, as far as the machine is as busy as when `whole` was measured.

        Both are run in turn, since other processes come and go.
        """
        other = Feed(loader)
        before, speed, after = self.feed.run(unit), other.run(2 * unit).speed, self.feed.run(unit)
        return 2 * speed / (before.speed + after.speed) * self.whole.speed

    def speed(self, cpu: float, *, read: float | None = None) -> float:
        """Examples a second, were `cpu` the processor time of one and `read` the time to read one.

        The processors that the loader got so far are what it gets, unless it left them to wait.
        """
        got = self.processors if self.waits else self.whole.speed * self.whole.cpu
        stage = self.stage("read")
        read = read if read is not None else stage.seconds if stage is not None and self.waits else 0.0
        return 1 / max(cpu / got, read)


def fill(make: Callable[..., Loader], split: str, records: int, seconds: float, **options: Any) -> Loader:
    """A loader whose cache is full: of as many of the first records as can be read in some seconds."""
    size = make(split)._recipe.batches.host_size
    speed = Feed(make(split, cache=None)).run(seconds / 4).speed
    count = min(records, max(4 * size, int(speed * seconds * 0.75)))
    if "[" not in split and count < records:
        split = f"{split}[:{count}]"
    loader = make(split, **options)
    for _ in zip(range(loader.steps_per_epoch()), loader, strict=False):
        pass
    return loader


def changes(setup: Setup, unit: float, deadline: float) -> tuple[list[Change], bool]:
    """What is worth doing, the best first, and whether all was tried before the deadline of `time.perf_counter`."""
    ways = (_cache, _smaller_images, _less_augmentation, _pack, _larger_batch, _more_threads, _more_reads)
    found: list[Change] = []
    complete = True
    for number, way in enumerate(ways):
        if number and time.perf_counter() > deadline:
            complete = False
            break
        change = way(setup, unit)
        if change is not None and max(change.predicted, change.measured) > _GAIN * setup.whole.speed:
            found.append(change)
    return sorted(found, key=lambda change: -change.measured), complete


def _cache(setup: Setup, unit: float) -> Change | None:
    recipe = setup.recipe
    if setup.cached or not pipeline._images(recipe) or any(None in column.shape for column in recipe.columns):
        return None
    need = cache.row_bytes(recipe.columns) * len(recipe.part)
    room = cache.choose(need, None, Path.home(), remote=False)
    if room is None:
        return None
    loader = fill(setup.make, setup.split, len(recipe.part), 3 * unit, cache="memory")
    if loader._recipe.cache is None:
        return None
    cached = loader._recipe
    lookup = profile_stages.measure_cache(cached, 0.5 * unit)
    cpu = lookup.cpu + setup.cpu("finish", "transfer")
    if pipeline._example_ops(cached):
        images = profile_stages.images_in(cached, setup.sample)
        example = profile_stages.decoded_example(cached, images)
        augment = profile_stages.measure_augment(cached, example, unit)
        other = setup.whole.cpu - sum(stage.cpu for stage in setup.stages)
        cpu += (augment.cpu if augment else 0.0) + setup.cpu("batch") + max(other, 0.0)
    return Change(
        f'cache="{room[0]}": decode once, {format_bytes(need)}',
        setup.speed(cpu, read=0.0),
        setup.compare(loader, unit),
    )


def _smaller_images(setup: Setup, unit: float) -> Change | None:
    decode, size = setup.stage("decode"), setup.recipe.image_size
    found = pipeline._images(setup.recipe)
    if decode is None or size is None or len(found) != 1:
        return None
    name, feature = next(iter(found.items()))
    encoded = profile_stages.images_in(setup.recipe, setup.sample[:_FEW])[name]
    pixels = [_decoded(data, feature) for data in encoded]
    shapes = np.array([image.shape[:2] for image in pixels], float)
    wanted = _MARGIN * max(size)
    scale = wanted / np.median(shapes.min(axis=1))
    if scale > 0.85:
        return None
    target = np.rint(np.median(shapes, axis=0) * scale).astype(int).tolist()
    smaller = _stored(pixels, target, feature)
    # The part that does not depend on the stored size: cutting, resizing, calling.
    least = profile_stages.measure_decode(
        setup.recipe, {name: _stored(pixels, [16, 16], feature)}, unit / 2
    ).cpu
    # The rest goes with the bytes, of which there are more for a pixel in a small image, and with the pixels.
    fewer_pixels = np.prod(target) / np.mean(shapes.prod(axis=1))
    fewer_bytes = sum(map(len, smaller)) / sum(map(len, encoded))
    predicted = least + max(decode.cpu - least, 0.0) * float(fewer_pixels + fewer_bytes) / 2
    measured = profile_stages.measure_decode(setup.recipe, {name: smaller}, unit).cpu
    rest = setup.whole.cpu - decode.cpu
    return Change(
        f"store images of {target[0]}×{target[1]}: encode: {{size: {target}}}",
        setup.speed(rest + predicted),
        setup.speed(rest + measured),
        whole=False,
    )


def _less_augmentation(setup: Setup, unit: float) -> Change | None:
    if not pipeline._batch_ops(setup.recipe) or setup.cached:
        return None
    loader = setup.make(setup.split, augment="standard")
    recipe = loader._recipe
    images = profile_stages.images_in(recipe, setup.sample)
    example = profile_stages.decoded_example(recipe, images)
    augment = profile_stages.measure_augment(recipe, example, unit / 2)
    finish = profile_stages.measure_finish(recipe, example, unit / 2)
    cpu = setup.whole.cpu - setup.cpu("augment", "finish")
    cpu += sum(stage.cpu for stage in (augment, finish) if stage is not None)
    return Change('augment="standard"', setup.speed(cpu), setup.compare(loader, unit))


def _pack(setup: Setup, unit: float) -> Change | None:
    recipe, parse = setup.recipe, setup.stage("parse")
    packing = pack(recipe.features)
    if parse is None or not packing or any(feature.packed for feature in recipe.features.values()):
        return None
    packed = {name for names in packing.values() for name in names}
    first = next(iter(recipe.features))
    one = profile_stages.measure_parse(
        dataclasses.replace(recipe, features={first: recipe.features[first]}), setup.sample, unit / 2
    )
    left = len(recipe.features) - len(packed) + len(packing)
    each = (parse.cpu - one.cpu) / max(1, len(recipe.features) - 1)
    placed = dataclasses.replace(recipe, features=with_places(recipe.features, packing))
    measured = profile_stages.measure_parse(placed, _packed(setup.sample, packing), unit).cpu
    rest = setup.whole.cpu - parse.cpu
    return Change(
        f"pack {len(packed)} single numbers into {len(packing)} vectors: pack: true",
        setup.speed(rest + one.cpu + each * (left - 1)),
        setup.speed(rest + measured),
        whole=False,
    )


def _larger_batch(setup: Setup, unit: float) -> Change | None:
    """What a batch costs whatever its size, is shared by more examples."""
    recipe = setup.recipe
    if pipeline._images(recipe) or len(recipe.part) < 4 * recipe.batches.host_size:
        return None
    size = 4 * recipe.batches.host_size
    loader = setup.make(setup.split, batch_size=size)
    each = setup.whole.cpu - setup.cpu("read", "parse", "cache")
    return Change(
        f"batch_size={size}, if training allows",
        setup.speed(setup.whole.cpu - 0.75 * each),
        setup.compare(loader, unit),
    )


def _more_threads(setup: Setup, unit: float) -> Change | None:
    available = len(os.sched_getaffinity(0))
    if setup.waits or setup.recipe.threads >= available:
        return None
    loader = setup.make(setup.split, threads=available, seed=3)
    predicted = setup.whole.speed * available / setup.recipe.threads
    return Change(f"threads={available}", predicted, setup.compare(loader, unit))


def _more_reads(setup: Setup, unit: float) -> Change | None:
    read = setup.stage("read")
    if not setup.waits or read is None or setup.cached:
        return None
    reads = 4 * setup.recipe.reads
    predicted = setup.speed(setup.whole.cpu, read=read.seconds / 4)
    loader = setup.make(setup.split, num_parallel_reads=reads, seed=4)
    return Change(f"num_parallel_reads={reads}", predicted, setup.compare(loader, unit))


def _decoded(data: bytes, feature: ImageFeature) -> tf.Tensor:
    return tf.io.decode_image(data, feature.shape[2], expand_animations=False)


def _stored(pixels: list[tf.Tensor], size: list[int], feature: ImageFeature) -> Any:
    """Images encoded again in another size, bytes objects (n,)."""
    out = np.empty(len(pixels), dtype=object)
    for number, image in enumerate(pixels):
        small = tf.cast(tf.image.resize(image, size) + 0.5, tf.uint8)
        encode = tf.io.encode_png if feature.stored_format == "png" else tf.io.encode_jpeg
        out[number] = encode(small).numpy()
    return out


def _packed(records: Records, packing: Mapping[str, Any]) -> Records:
    """The records as a job with `pack: true` stores them."""
    out = np.empty(len(records), dtype=object)
    for number, record in enumerate(records):
        features = tf.train.Example.FromString(record).features.feature
        for vector, names in packing.items():
            for name in names:
                old = features[name]
                if old.HasField("float_list"):
                    features[vector].float_list.value.extend(old.float_list.value)
                else:
                    features[vector].int64_list.value.extend(old.int64_list.value)
                del features[name]
        out[number] = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return out
