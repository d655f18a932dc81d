"""The flow from records on disk to batches, top to bottom."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import tensorflow as tf

from loader import augment, decode
from loader.augment import AugmentFn
from loader.decode import Features
from loader.plan import Plan
from loader.read import Reader
from schemas.features import Feature, ImageFeature

_CHUNK_BYTES = 1 << 20  # 1 MiB: what one read fetches; larger chunks fall out of the processor's caches
_CHUNK_RECORDS = 4096


@dataclass(frozen=True)
class Recipe:
    """All that decides what a data set yields. Built and checked by `load`."""

    plan: Plan
    reader: Reader
    mean_bytes: int  # of a record
    features: Mapping[str, Feature]
    label: str | None
    with_ids: bool
    bare: bool
    image_size: tuple[int, int] | None
    resize: str
    ops: tuple[AugmentFn, ...]
    one_hot: int  # classes, or 0 for labels as they are stored
    batch_size: int | None
    drop_remainder: bool
    first_epoch: int
    epochs: int | None  # None for ever
    parallel: int
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
    images = [name for name, feature in recipe.features.items() if isinstance(feature, ImageFeature)]
    chunk = max(1, min(_CHUNK_RECORDS, _CHUNK_BYTES // recipe.mean_bytes))

    # Reading and parsing go by chunks of neighbours in the order, not by record: Python is entered once a chunk.
    dataset = tf.data.Dataset.range(0, recipe.plan.records, chunk)
    dataset = dataset.map(lambda start: _read(recipe, epoch, start, chunk), num_parallel_calls=2)

    if images or recipe.batch_size is None or _example_ops(recipe):
        # One image after the other from here on: at the usual sizes, passes over whole batches cost more.
        dataset = dataset.unbatch()
        dataset = dataset.map(lambda features: _prepare(recipe, features), num_parallel_calls=recipe.parallel)
        if recipe.batch_size is not None:
            dataset = dataset.batch(recipe.batch_size, recipe.drop_remainder)
    else:
        dataset = dataset.rebatch(recipe.batch_size, recipe.drop_remainder)
    return dataset.map(lambda features: _finish(recipe, features), num_parallel_calls=recipe.parallel)


def _read(recipe: Recipe, epoch: tf.Tensor, start: tf.Tensor, chunk: int) -> Features:
    """The parsed records of one chunk, with their ids and seeds under names no feature can have."""

    def read(epoch: int, start: int) -> tuple[object, object, object]:
        ids, records = recipe.reader.read(int(epoch), int(start), min(int(start) + chunk, recipe.plan.records))
        return ids, recipe.plan.seeds(int(epoch), ids), records

    ids, seeds, records = tf.numpy_function(read, [epoch, start], [tf.int64, tf.int64, tf.string], stateful=False)
    ids, seeds = tf.ensure_shape(ids, [None]), tf.ensure_shape(seeds, [None, 2])
    features = decode.parse(tf.ensure_shape(records, [None]), recipe.features)
    return {**features, "/id": ids, "/seed": seeds}


def _prepare(recipe: Recipe, features: Features) -> Features:
    """One example: its images decoded, cut and resized, then augmented."""
    hidden = {name: features.pop(name) for name in ("/id", "/seed")}
    ops = _example_ops(recipe)
    crop = ops[0] if ops and isinstance(ops[0], augment.RandomResizedCrop) else None
    for name, feature in recipe.features.items():
        if isinstance(feature, ImageFeature):
            features[name] = _image(recipe, features[name], feature, crop, hidden["/seed"])
    if ops:
        features = augment.apply(ops[1:] if crop else ops, features, hidden["/seed"], first=1 if crop else 0)
    return {**features, **hidden}


def _image(
    recipe: Recipe,
    data: tf.Tensor,
    feature: ImageFeature,
    crop: augment.RandomResizedCrop | None,
    seed: tf.Tensor,
) -> tf.Tensor:
    if crop is not None:
        # The first operation is a crop: decode no more of the image than that.
        image = decode.decode_image(data, feature, lambda height, width: crop.box(height, width, seed))
        assert crop.size is not None
        return decode.resize_image(image, crop.size)
    if recipe.image_size is None:
        return tf.ensure_shape(decode.decode_image(data, feature), feature.stored_shape)
    image = decode.decode_image(data, feature, decode.fit_box(recipe.image_size, recipe.resize))
    return decode.fit(image, recipe.image_size, recipe.resize)


def _finish(recipe: Recipe, features: Features) -> object:
    """Batch operations, then the form that training wants."""
    features = dict(features)
    ids, seeds = features.pop("/id"), features.pop("/seed")
    first = len(_example_ops(recipe))
    if recipe.ops[first:]:
        features = augment.apply(recipe.ops[first:], features, seeds, first)
    if recipe.with_ids:
        features["example_id"] = ids
    if recipe.label is None:
        return features
    label = features.pop(recipe.label)
    if recipe.one_hot and label.dtype.is_integer:
        label = tf.one_hot(label, recipe.one_hot)
    return (next(iter(features.values())) if recipe.bare else features), label


def _example_ops(recipe: Recipe) -> tuple[AugmentFn, ...]:
    return tuple(op for op in recipe.ops if not augment.is_batched(op))


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
        options.threading.private_threadpool_size = recipe.parallel
    return options
