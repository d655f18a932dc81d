"""The flow from records on disk to batches, top to bottom."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from loader import augment, decode
from loader.augment import AugmentFn, RandomResizedCrop
from loader.cache import Cache, Column
from loader.cached import through_cache
from loader.decode import Features
from loader.plan import Plan
from loader.read import CachedReader, Reader
from schemas.features import Feature, ImageFeature

_CHUNK_BYTES = 1 << 20  # 1 MiB: what one read fetches; larger chunks fall out of the processor's caches
_CHUNK_RECORDS = 4096
_CACHED_CHUNK = 32  # records, so that decoding a chunk is a small share of a batch
_READS = 2  # chunks read at a time
_ID, _SEED = "/id", "/seed"  # no feature can have these names


@dataclass(frozen=True)
class Recipe:
    """All that decides what a data set yields. Built and checked by `load`."""

    plan: Plan
    reader: Reader | CachedReader
    mean_bytes: int  # of a record
    features: Mapping[str, Feature]
    label: str | None
    with_ids: bool
    image_size: tuple[int, int] | None
    resize: str
    image_shapes: Mapping[str, tuple[int, int, int]]  # of what is cached
    ops: tuple[AugmentFn, ...]
    crop_first: bool  # the first operation crops the stored image to image_size
    cache: Cache | None
    columns: Sequence[Column]
    one_hot: int  # classes, or 0 for labels as they are stored
    batch_size: int | None
    drop_remainder: bool
    first_epoch: int
    epochs: int | None  # None for ever
    parallel: int
    threads: int
    prefetch: int


def build(recipe: Recipe) -> tf.data.Dataset:
    """The data set that a recipe describes."""
    epochs = tf.data.Dataset.from_generator(
        _epoch_numbers(recipe), output_signature=tf.TensorSpec([], tf.int64)
    )
    # An epoch is its own little data set, so that no batch holds records of two epochs.
    dataset = epochs.flat_map(lambda epoch: _one_epoch(recipe, epoch))
    count = steps_per_epoch(recipe)
    total = tf.data.INFINITE_CARDINALITY if recipe.epochs is None else count * recipe.epochs
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(total))
    if recipe.prefetch:
        dataset = dataset.prefetch(recipe.prefetch)
    return dataset.with_options(_options(recipe))


def steps_per_epoch(recipe: Recipe) -> int:
    """Elements of an epoch: batches, or examples where there are no batches."""
    if recipe.batch_size is None:
        return recipe.plan.records
    whole, rest = divmod(recipe.plan.records, recipe.batch_size)
    return whole + bool(rest and not recipe.drop_remainder)


def _one_epoch(recipe: Recipe, epoch: tf.Tensor) -> tf.data.Dataset:
    # Python is entered once a chunk of neighbours in the order, not once a record.
    chunk = _chunk_records(recipe)
    dataset = tf.data.Dataset.range(0, recipe.plan.records, chunk)
    if recipe.cache is None:
        dataset = dataset.map(lambda start: _read(recipe, epoch, start, chunk), num_parallel_calls=_READS)
    else:
        dataset = dataset.map(
            lambda start: _read_cached(recipe, epoch, start, chunk), num_parallel_calls=recipe.parallel
        )
    decoding = recipe.cache is None and bool(_images(recipe))
    if decoding or _example_ops(recipe) or recipe.batch_size is None:
        # One example after the other from here on: with images, passes over whole batches cost more.
        dataset = dataset.unbatch()
        prepare = _prepare if recipe.cache is None else _augment
        dataset = dataset.map(lambda features: prepare(recipe, features), num_parallel_calls=recipe.parallel)
        if recipe.batch_size is not None:
            dataset = dataset.batch(recipe.batch_size, recipe.drop_remainder)
    else:
        dataset = dataset.rebatch(recipe.batch_size, recipe.drop_remainder)
    if _batch_ops(recipe):
        dataset = dataset.map(lambda features: _mix(recipe, features), num_parallel_calls=recipe.threads)
    return dataset.map(lambda features: _arrange(recipe, features))


def _read(recipe: Recipe, epoch: tf.Tensor, start: tf.Tensor, chunk: int) -> Features:
    """The parsed records of one chunk."""

    def read(epoch: int, start: int) -> tuple[object, object, object]:
        ids = recipe.plan.ids(int(epoch), int(start), min(int(start) + chunk, recipe.plan.records))
        return ids, recipe.plan.seeds(int(epoch), ids), recipe.reader.read(ids)[0]

    ids, seeds, records = tf.numpy_function(
        read, [epoch, start], [tf.int64, tf.int64, tf.string], stateful=False
    )
    features = decode.parse(tf.ensure_shape(records, [None]), recipe.features)
    return {**features, **_hidden(recipe, ids, seeds)}


def _read_cached(recipe: Recipe, epoch: tf.Tensor, start: tf.Tensor, chunk: int) -> Features:
    """As `_read`, with the images decoded: from the cache, or from the shards and into the cache."""
    assert recipe.cache is not None

    def plan(epoch: int, start: int) -> tuple[object, object]:
        ids = recipe.plan.ids(int(epoch), int(start), min(int(start) + chunk, recipe.plan.records))
        return ids, recipe.plan.seeds(int(epoch), ids)

    def make() -> Features:
        features = _read(recipe, epoch, start, chunk)
        for name, feature in _images(recipe).items():
            spec = tf.TensorSpec(recipe.image_shapes[name], tf.uint8)
            features[name] = tf.map_fn(
                lambda data, feature=feature: _image(recipe, data, feature),
                features[name],
                fn_output_signature=spec,
            )
        return features

    ids, seeds = tf.numpy_function(plan, [epoch, start], [tf.int64, tf.int64], stateful=False)
    features = through_cache(recipe.cache, recipe.columns, recipe.features, ids, make)
    return {**features, **_hidden(recipe, ids, seeds)}


def _hidden(recipe: Recipe, ids: tf.Tensor, seeds: tf.Tensor) -> Features:
    """What travels with the features, as far as it is needed: carrying it costs a little for every example."""
    hidden = {_ID: tf.ensure_shape(ids, [None])} if recipe.with_ids else {}
    return {**hidden, _SEED: tf.ensure_shape(seeds, [None, 2])} if recipe.ops else hidden


def _prepare(recipe: Recipe, features: Features) -> Features:
    """One example: its images decoded, cut and resized, then augmented."""
    ops = _example_ops(recipe)
    crop = ops[0] if ops and recipe.crop_first and isinstance(ops[0], RandomResizedCrop) else None
    for name, feature in _images(recipe).items():
        features[name] = _image(recipe, features[name], feature, crop, features.get(_SEED))
    return _augment(recipe, features, skip=1 if crop else 0)


def _image(
    recipe: Recipe,
    data: tf.Tensor,
    feature: ImageFeature,
    crop: RandomResizedCrop | None = None,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    if crop is not None:
        # The first operation is a crop: decode no more of the image than that.
        assert crop.size is not None
        image = decode.decode_image(data, feature, lambda height, width: crop.box(height, width, seed))
        return decode.resize_image(image, crop.size)
    if recipe.image_size is None or recipe.crop_first:
        return tf.ensure_shape(decode.decode_image(data, feature), feature.stored_shape)
    image = decode.decode_image(data, feature, decode.fit_box(recipe.image_size, recipe.resize))
    return decode.fit(image, recipe.image_size, recipe.resize)


def _augment(recipe: Recipe, features: Features, skip: int = 0) -> Features:
    """One example after the operations that work on single examples, the first `skip` of them done before."""
    hidden = {name: features.pop(name) for name in (_ID, _SEED) if name in features}
    ops = _example_ops(recipe)[skip:]
    return {**(augment.apply(ops, features, hidden[_SEED], first=skip) if ops else features), **hidden}


def _mix(recipe: Recipe, features: Features) -> Features:
    """A batch after the operations that work on batches."""
    hidden = {name: features.pop(name) for name in (_ID, _SEED) if name in features}
    first = len(_example_ops(recipe))
    return {**augment.apply(_batch_ops(recipe), features, hidden[_SEED], first), **hidden}


def _arrange(recipe: Recipe, features: Features) -> object:
    """The form that training wants: (features, label), or a dict where there is no label."""
    features.pop(_SEED, None)
    if recipe.with_ids:
        features["example_id"] = features.pop(_ID)
    if recipe.label is None:
        return features
    label = features.pop(recipe.label)
    if recipe.one_hot and label.dtype.is_integer:
        label = tf.one_hot(label, recipe.one_hot)
    return (next(iter(features.values())) if len(features) == 1 else features), label


def _chunk_records(recipe: Recipe) -> int:
    if recipe.cache is not None and _images(recipe):
        return _CACHED_CHUNK
    return max(1, min(_CHUNK_RECORDS, _CHUNK_BYTES // recipe.mean_bytes))


def _images(recipe: Recipe) -> dict[str, ImageFeature]:
    return {name: feature for name, feature in recipe.features.items() if isinstance(feature, ImageFeature)}


def _example_ops(recipe: Recipe) -> tuple[AugmentFn, ...]:
    return tuple(op for op in recipe.ops if not augment.is_batched(op))


def _batch_ops(recipe: Recipe) -> tuple[AugmentFn, ...]:
    return tuple(op for op in recipe.ops if augment.is_batched(op))


def _epoch_numbers(recipe: Recipe) -> object:
    """A generator function: each iteration over the data set goes on where the last one ended."""
    counter = itertools.count(recipe.first_epoch)

    def numbers() -> Iterator[int]:
        if recipe.epochs is None:
            yield from itertools.count(recipe.first_epoch)
        else:
            yield from itertools.islice(counter, recipe.epochs)

    return numbers


def _options(recipe: Recipe) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    auto = tf.data.AUTOTUNE in (recipe.parallel, recipe.prefetch)
    options.autotune.enabled = auto
    if not auto:
        options.threading.private_threadpool_size = recipe.threads
    return options
