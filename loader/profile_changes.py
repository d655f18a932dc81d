"""What would make a loader faster: by how much it should, and by how much it does."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from loader import cache, profile_stages
from loader.images import images
from loader.profile_flow import Flow
from loader.profile_runs import Setup, fill, probe
from loader.profile_stages import Stage
from loader.records import Texts
from schemas.features import Feature, ImageFeature
from schemas.packing import pack, with_places
from schemas.units import format_bytes

_MARGIN = 1.15  # how much larger than its crops an image is usually stored
_GAIN = 1.05  # what is worth telling
_FEW = 64  # images that are stored again in another size


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


def changes(setup: Setup, unit: float, deadline: float) -> tuple[list[Change], bool]:
    """What is worth doing, the best first, and whether all was tried before the deadline of `time.perf_counter`."""
    ways = (_less_augmentation, _cache, _smaller_images, _pack, _larger_batch, _more_threads, _more_reads)
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
    if setup.cached or not images(recipe) or any(None in column.shape for column in recipe.columns):
        return None
    need = cache.row_bytes(recipe.columns) * len(recipe.part)
    room = cache.choose(need, None, Path.home(), remote=False)
    if room is None:
        return None
    few, fills = probe(setup.make, setup.split)
    if few._recipe.cache is None:
        return None
    flow = Flow(few._recipe)
    stages = [profile_stages.measure_cache(flow, 0.5 * unit)]
    stages += profile_stages.measure_rest(flow, 0.5 * unit)
    predicted = setup.speed(_sum(setup, flow, stages, "transfer"), read=0.0)
    if predicted < _GAIN * setup.whole.speed:
        return None
    loader = fill(setup.make, setup.split, 2 * unit * fills, cache="memory")
    return Change(
        f'cache="{room[0]}": decode once, {format_bytes(need)}',
        predicted,
        setup.compare(loader, unit),
    )


def _sum(setup: Setup, flow: Flow, stages: Iterable[Stage], *kept: str) -> float:
    """Processor seconds of an example by another flow: its own stages, and those that stay as they are."""
    # Of what stages do not explain most is for examples that go on one by one.
    other = 0.0 if setup.flow.work.one_by_one and not flow.work.one_by_one else setup.other
    return sum(stage.cpu for stage in stages) + setup.cpu(*kept) + other


def _smaller_images(setup: Setup, unit: float) -> Change | None:
    decode, size = setup.stage("decode"), setup.recipe.image_size
    if decode is None or size is None or len(setup.encoded) != 1:
        return None
    name, feature = next(iter(images(setup.recipe).items()))
    encoded = setup.encoded[name][:_FEW]
    pixels = [_decoded(data, feature) for data in encoded]
    shapes = np.array([image.shape[:2] for image in pixels], float)
    wanted = _MARGIN * max(size)
    scale = wanted / np.median(shapes.min(axis=1))
    if scale > 0.85:
        return None
    target = np.rint(np.median(shapes, axis=0) * scale).astype(int).tolist()
    smaller = _stored(pixels, target, feature)
    # The part that does not depend on the stored size: cutting, resizing, calling.
    flow = _of_any_size(setup, name, feature)
    least = _decode(flow, name, _stored(pixels, [16, 16], feature), unit / 2)
    # The rest goes with the bytes, of which there are more for a pixel in a small image, and with the pixels.
    fewer_pixels = np.prod(target) / np.mean(shapes.prod(axis=1))
    fewer_bytes = sum(map(len, smaller)) / sum(map(len, encoded))
    predicted = least + max(decode.cpu - least, 0.0) * float(fewer_pixels + fewer_bytes) / 2
    measured = _decode(flow, name, smaller, unit)
    rest = setup.without("decode")
    return Change(
        f"store images of {target[0]}×{target[1]}: encode: {{size: {target}}}",
        setup.speed(rest + predicted),
        setup.speed(rest + measured),
        whole=False,
    )


def _of_any_size(setup: Setup, name: str, feature: ImageFeature) -> Flow:
    """The same flow for images of other sizes than those that are stored."""
    formats: Any = [feature.stored_format] if feature.stored_format else feature.formats
    other = ImageFeature(type="image", shape=(None, None, feature.shape[2]), formats=formats)
    return Flow(dataclasses.replace(setup.recipe, features={**setup.recipe.features, name: other}))


def _decode(flow: Flow, name: str, encoded: Any, seconds: float) -> float:
    stage = profile_stages.measure_decode(flow, {name: encoded}, seconds)
    assert stage is not None
    return stage.cpu


def _less_augmentation(setup: Setup, unit: float) -> Change | None:
    if not setup.flow.mixing or setup.cached:
        return None
    loader = setup.make(setup.split, augment="standard")
    flow = Flow(loader._recipe)
    decode = profile_stages.measure_decode(flow, setup.encoded, unit)
    stages = [*([decode] if decode else []), *profile_stages.measure_rest(flow, unit / 2)]
    cpu = _sum(setup, flow, stages, "read", "parse", "transfer")
    return Change('augment="standard"', setup.speed(cpu), setup.compare(loader, unit))


def _pack(setup: Setup, unit: float) -> Change | None:
    recipe, parse = setup.recipe, setup.stage("parse")
    packing = pack(recipe.features)
    if parse is None or not packing or any(feature.packed for feature in recipe.features.values()):
        return None
    packed = {name for names in packing.values() for name in names}
    first = next(iter(recipe.features))
    one = _parse(setup, {first: recipe.features[first]}, setup.sample, unit / 2)
    left = len(recipe.features) - len(packed) + len(packing)
    each = (parse.cpu - one) / max(1, len(recipe.features) - 1)
    placed = with_places(recipe.features, packing)
    measured = _parse(setup, placed, _packed(setup.sample, packing), unit)
    rest = setup.without("parse")
    return Change(
        f"pack {len(packed)} single numbers into {len(packing)} vectors: pack: true",
        setup.speed(rest + one + each * (left - 1)),
        setup.speed(rest + measured),
        whole=False,
    )


def _parse(setup: Setup, features: Mapping[str, Feature], records: Texts, seconds: float) -> float:
    flow = Flow(dataclasses.replace(setup.recipe, features=features))
    return profile_stages.measure_parse(flow, records, seconds).cpu


def _larger_batch(setup: Setup, unit: float) -> Change | None:
    """What a batch costs whatever its size, is shared by more examples."""
    recipe = setup.recipe
    if images(recipe) or len(recipe.part) < 4 * recipe.batches.host_size:
        return None
    size = 4 * recipe.batches.host_size
    loader = setup.make(setup.split, batch_size=size)
    each = setup.without("read", "parse", "cache")
    return Change(
        f"batch_size={size}, if training allows",
        setup.speed(setup.without() - 0.75 * each),
        setup.compare(loader, unit),
    )


def _more_threads(setup: Setup, unit: float) -> Change | None:
    available = len(os.sched_getaffinity(0))
    if setup.waits or setup.recipe.workers >= available:
        return None
    loader = setup.make(setup.split, threads=available, seed=3)
    # Batches come out of the graph one after the other, however many threads there are.
    most = min(1 / stage.seconds for stage in setup.stages if stage.name == "transfer")
    predicted = min(setup.whole.speed * available / setup.recipe.workers, most)
    return Change(f"threads={available}", predicted, setup.compare(loader, unit))


def _more_reads(setup: Setup, unit: float) -> Change | None:
    read = setup.stage("read")
    if not setup.starved or read is None or setup.cached:
        return None
    reads = 4 * setup.recipe.reads
    predicted = setup.speed(setup.without(), read=read.seconds / 4)
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


def _packed(records: Texts, packing: Mapping[str, Any]) -> Texts:
    """The records as a job with `pack: true` stores them."""
    out = np.empty(len(records), dtype=object)
    for number, record in enumerate(records.tolist()):
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
