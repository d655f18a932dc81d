"""What each stage of a pipeline costs by itself, with its input in memory; see `loader.profile`."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from loader import decode, pipeline, rows
from loader.augment import Ops
from loader.decode import Features
from loader.image_ops import FlipLeftRight
from loader.images import images
from loader.parse import Columns
from loader.profile_cost import LEAST, accelerator, bytes_of, cost, graph_cost, run_cost
from loader.profile_flow import At, Flow
from loader.reading import SEED
from loader.records import Records, Texts
from schemas.features import ImageFeature

_SAMPLE_BYTES = 32 << 20  # 32 MiB: records kept for the later stages, more than a processor's caches hold
_SAMPLE_RECORDS = 4096
_MEMORY = 256 << 20  # 256 MiB: for images that are decoded


@dataclass(frozen=True)
class Stage:
    """What one stage does for an example.

    Attributes:
      name: read, cache, parse, decode, augment, batch, finish or transfer.
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


def measure_read(flow: Flow, seconds: float) -> tuple[Stage, Texts]:
    """Reading and checking records in the order of an epoch, as many chunks at a time as the loader; and a sample."""
    recipe, reads = flow.recipe, flow.work.reads
    kept: list[Records | Texts] = []
    done = []

    def read(at: At) -> int:
        ids = rows.plan(recipe, *at)[1]
        for part in _slices(len(ids), flow.group(len(ids)), whole=False):
            records, _ = rows.read(recipe, ids[part])
            size = int(records.lengths.sum())
            done.append((len(records), size))
            found = records if flow.native else records.texts()
            if sum(map(len, kept)) < _SAMPLE_RECORDS and len(kept) * size < _SAMPLE_BYTES:
                kept.append(found)
        return len(ids)

    taken = cost(read, flow.chunks(), reads, seconds)
    records, size = (sum(numbers) for numbers in zip(*done, strict=True))
    what, alone = f"{reads} at a time, CRC checked", taken.alone(recipe.workers)
    stage = Stage("read", what, taken.cpu, size / records, alone)
    return stage, np.concatenate([one.texts() if isinstance(one, Records) else one for one in kept])


def measure_cache(flow: Flow, seconds: float) -> Stage:
    """Taking examples out of a filled cache, in the order of an epoch; the core finishes images in the same pass."""
    recipe = flow.recipe
    cache = recipe.cache
    assert cache is not None

    def taken(at: At) -> Any:
        return flow.producer(*at) if flow.native else cache.get(rows.plan(recipe, *at)[0])

    # As much memory as in the loader is written in turn, and is there from the beginning.
    first = [taken(at) for at in itertools.islice(flow.chunks(), flow.held)]
    held = deque(first, maxlen=flow.held - flow.work.reads)
    del first

    def take(at: At) -> int:
        held.append(taken(at))
        return at[-1] - at[-2]

    cpu = cost(take, flow.chunks(), flow.work.reads, seconds).cpu
    what = ", ".join(["lookup", *(_finishing(flow) if flow.own else ["copy"])])
    size = float(sum(column.row_bytes for column in recipe.columns))
    return Stage("cache", what, cpu, size, cpu / recipe.workers)


def measure_parse(flow: Flow, texts: Texts, seconds: float) -> Stage:
    """Records to features, a chunk at a time."""
    recipe = flow.recipe
    chunk = min(flow.work.chunk, len(texts))
    if flow.native:
        records = _joined(texts)
        parts = itertools.cycle(_slices(len(texts), chunk))
        threads = min(flow.work.reads, recipe.workers)
        cpu = cost(lambda part: _parse(flow, records[part]), parts, threads, seconds).cpu
    else:
        whole = tf.constant(texts[: len(texts) // chunk * chunk]).numpy().reshape(-1, chunk)
        source = tf.data.Dataset.from_tensor_slices(whole).repeat()
        cpu = graph_cost(recipe, source, lambda some: decode.parse(some, recipe.features), seconds, group=1)
        cpu /= chunk
    columns = len({decode._stored_name(name, feature) for name, feature in recipe.features.items()})
    size = float(np.mean([len(text) for text in texts]))
    return Stage("parse", f"{columns} features", cpu, size, cpu / recipe.workers)


def _parse(flow: Flow, records: Records) -> int:
    """As `Producer` does."""
    recipe, count = flow.recipe, len(records)
    columns, ids = Columns(recipe.features, count), np.arange(count)
    for part in _slices(count, flow.group(count), whole=False):
        columns.fill(records[part], part.start, ids[part], recipe.data)
        for name in images(recipe):
            if name not in flow.work.decoders:
                Records(records.buffers, columns[name][part]).texts()
    for name, feature in recipe.features.items():
        if not isinstance(feature, ImageFeature):
            columns[name]
    return count


def _joined(texts: Texts) -> Records:
    """In one buffer, as they are read."""
    ends = np.cumsum([len(text) for text in texts])
    begins = np.concatenate([[0], ends[:-1]])
    return Records([b"".join(texts)], np.stack([np.zeros_like(ends), begins, ends], axis=-1))


def measure_decode(flow: Flow, encoded: Mapping[str, Texts], seconds: float) -> Stage | None:
    """Encoded images to images of the wanted size; a random crop is part of it where it comes first.

    Those that the core decodes are finished by it too, unless there is work for each example in between.
    """
    if not encoded:
        return None
    recipe, decoders = flow.recipe, flow.work.decoders
    share = seconds / len(encoded)
    cpu = sum(_decode(flow, name, encoded[name], share) for name in decoders)
    rest = {name: data for name, data in encoded.items() if name not in decoders}
    if rest:
        seeds = flow.seeds(len(next(iter(rest.values()))))
        source = tf.data.Dataset.from_tensor_slices({**rest, SEED: seeds}).repeat()
        alone = flow.without_ops
        cpu += graph_cost(
            recipe,
            source,
            lambda features: pipeline._prepare(alone, flow.work, dict(features)),
            share * len(rest),
        )
    made = [flow.decoded[name] for name in encoded]
    formats = {str(feature.stored_format or "jpeg, png").upper() for feature in images(recipe).values()}
    what = [*sorted(formats), *["random crop"] * flow.skip, f"{made[0].shape[0]}×{made[0].shape[1]}"]
    what += _finishing(flow) if flow.own else []
    return Stage("decode", ", ".join(what), cpu, bytes_of(made), cpu / recipe.workers)


def _decode(flow: Flow, name: str, data: Texts, seconds: float) -> float:
    """Processor seconds of the core for an image."""
    recipe, decoder = flow.recipe, flow.work.decoders[name]
    records, count = _joined(data), len(data)
    seeds = flow.seeds(count)
    finishing = flow.finishing(name, seeds)
    group = min(flow.group(flow.work.chunk), count)
    # Memory is not written again while the processor's caches hold it, and is there from the beginning.
    affine = finishing.affine
    most = _MEMORY // decoder.array(1, affine).nbytes
    out = decoder.array(max(2 * group, min(flow.held * flow.work.chunk, most)), affine)
    out[:] = 0

    def decode(parts: tuple[slice, slice]) -> int:
        source, target = parts
        decoder.decode(records[source], seeds[source], finishing.of(source), out[target])
        return group

    places = zip(
        itertools.cycle(_slices(count, group)), itertools.cycle(_slices(len(out), group)), strict=True
    )
    return cost(decode, places, recipe.workers, seconds).cpu


def measure_augment(flow: Flow, seconds: float) -> Stage | None:
    """The operations on single examples that are not part of decoding."""
    if not flow.ops:
        return None
    recipe, example = flow.recipe, flow.decoded
    source = tf.data.Dataset.from_tensor_slices(flow.seeds(1024)).repeat()
    cpu = graph_cost(recipe, source, lambda seed: flow.augmented({**example, SEED: seed}), seconds)
    names = ", ".join(type(op).__name__ for op in flow.ops)
    size = bytes_of([flow.prepared[name] for name in images(recipe)])
    return Stage("augment", names, cpu, size, cpu / recipe.workers)


def measure_batch(flow: Flow, seconds: float) -> Stage | None:
    """Chunks of rows taken apart and put into batches, or cut anew; nothing where a chunk is a batch."""
    recipe, size, work = flow.recipe, flow.size, flow.work
    source = tf.data.Dataset.from_tensors(flow.chunk).repeat()
    if work.one_by_one:
        example = flow.prepared
        batched = pipeline._map_and_batch(
            source.unbatch(), lambda _: example, recipe.parallel, size, drop=False
        )
        what, threads = f"one by one, of {size}", recipe.workers
    elif work.chunk != size:
        batched = source.rebatch(size)
        what, threads = f"of {size}, cut from {work.chunk:,}", 1
    else:
        return None
    # What it costs to get a batch out of the graph is not part of it.
    ready = run_cost(recipe, tf.data.Dataset.from_tensors(flow.batch).repeat(), 0.3 * seconds).cpu
    taken = run_cost(recipe, batched, 0.7 * seconds).cpu
    cpu = max(taken - ready, LEAST * taken) / size
    return Stage("batch", what, cpu, bytes_of(flow.batch) / size, cpu / threads)


def measure_finish(flow: Flow, seconds: float) -> Stage | None:
    """What is left to be done to a whole batch of images: flips, MixUp and CutMix, normalising."""
    recipe, size, batch = flow.recipe, flow.size, flow.batch
    if not flow.work.finish_later:
        return None
    source = tf.data.Dataset.from_tensor_slices(flow.seeds(16, size)).repeat()

    def work(seed: tf.Tensor) -> Features:
        return pipeline._finish(recipe, {**batch, SEED: seed})

    calls = pipeline._finish_calls(recipe)
    cpu = graph_cost(recipe, source, work, seconds, group=1, calls=calls) / size
    what = ", ".join(_finishing(flow, flow.mixing))
    return Stage(
        "finish", what, cpu, bytes_of(work(tf.constant(flow.seeds(size)))) / size, cpu / recipe.workers
    )


def measure_transfer(flow: Flow, seconds: float) -> Stage:
    """Finished batches through prefetching to Python, and on to where training takes them."""
    recipe, batch = flow.recipe, flow.finished
    source = tf.data.Dataset.from_tensors(batch).repeat()
    source = source.prefetch(recipe.prefetch) if recipe.prefetch else source
    taken = run_cost(recipe, source, seconds)
    where = accelerator()
    what = f"prefetched, to {where.rpartition('/')[2] if where else 'NumPy'}"
    size = flow.size
    return Stage("transfer", what, taken.cpu / size, bytes_of(batch) / size, taken.alone(1) / size)


def measure_rest(flow: Flow, seconds: float) -> list[Stage]:
    """The stages behind decoding or the cache, up to finished batches."""
    found = (
        measure_augment(flow, seconds),
        measure_batch(flow, 0.7 * seconds),
        measure_finish(flow, seconds),
    )
    return [stage for stage in found if stage is not None]


def _finishing(flow: Flow, mixing: Ops = ()) -> list[str]:
    """What is done to batches, in words."""
    names = ["flip" if isinstance(op, FlipLeftRight) else type(op).__name__ for op in (*flow.flips, *mixing)]
    return [*dict.fromkeys(names), *["normalise"] * bool(flow.recipe.normalize)]


def _slices(count: int, size: int, *, whole: bool = True) -> Iterator[slice]:
    """Neighbouring parts of `size` of `count`; the last may be smaller unless all are to be `whole`."""
    stop = count - size + 1 if whole else count
    return (slice(low, min(low + size, count)) for low in range(0, stop, size))
