"""Rows of an epoch as tensors: by the native core where it can, else by TensorFlow's operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import tensorflow as tf

from loader import decode, padding, python_calls, rows, sequences
from loader.bucket import Bucketed
from loader.cached import through_cache
from loader.decode import Features
from loader.decoder import Decoder
from loader.draws import Flip
from loader.images import decode_one, images, split_ops
from loader.packing import Packed
from loader.parse import can_parse
from loader.plan import Ids
from loader.produce import Producer
from loader.read import Valid
from loader.recipe import Recipe
from loader.records import Texts
from schemas.features import Feature, ImageFeature

ID, SEED, VALID, BOUND = "/id", "/seed", "/valid", "/bound"  # no feature can have these names
HIDDEN = (ID, SEED, VALID, BOUND)

Read = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], Features]
"""(epoch, first position, rows `start` … `stop - 1` of this host's) -> their features, and what travels with them"""


def reader(recipe: Recipe, decoders: Mapping[str, Decoder], *, finish: bool) -> Read:
    """How rows are read; images are finished too where `finish` says so."""
    if can_parse(recipe.features):
        return _native(recipe, decoders, finish=finish)
    if recipe.cache is not None:
        return lambda *at: _read_cached(recipe, *at)
    return lambda *at: _read(recipe, *at)


def is_padded(recipe: Recipe) -> bool:
    """Whether lists are padded to the bounds of buckets."""
    return isinstance(recipe.order, Bucketed) and recipe.order.buckets.padded


def _native(recipe: Recipe, decoders: Mapping[str, Decoder], *, finish: bool) -> Read:
    example_ops, flips, _ = split_ops(recipe)
    producer = Producer(
        recipe,
        decoders,
        flips=cast(Sequence[Flip], flips) if finish else (),
        first_flip=len(example_ops),
        normalize=recipe.normalize if finish else {},
    )
    specs = [
        _spec(recipe, decoders, name, feature, finish=finish) for name, feature in recipe.features.items()
    ]
    types = [tf.int64, tf.int64, tf.int64, tf.bool, *(spec.dtype for spec in specs)]

    def read(*at: tf.Tensor) -> Features:
        ids, seeds, layout, valid, *columns = python_calls.call(producer, at, types, stateful=False)
        features = {
            name: tf.ensure_shape(column, spec.shape)
            for name, column, spec in zip(recipe.features, columns, specs, strict=True)
        }
        return _rows(recipe, features, ids, seeds, layout, valid)

    return read


def _spec(
    recipe: Recipe, decoders: Mapping[str, Decoder], name: str, feature: Feature, *, finish: bool
) -> tf.TensorSpec:
    """Of a feature of several rows."""
    if name in decoders:
        dtype = tf.float32 if finish and name in recipe.normalize else tf.uint8
        return tf.TensorSpec([None, *decoders[name].shape], dtype)
    shape = () if isinstance(feature, ImageFeature) else getattr(feature, "shape", ())
    return tf.TensorSpec([None, *shape], decode.feature_dtype(feature))


def _read(recipe: Recipe, epoch: tf.Tensor, first: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> Features:
    """Rows by TensorFlow's operations, images as they are stored."""
    # One entry into Python for both, as each costs.
    ids, seeds, layout, records, valid = python_calls.call(
        lambda *at: (plan := rows.plan(recipe, *at)[1:]) + _texts(recipe, plan[0]),
        [epoch, first, start, stop],
        [tf.int64, tf.int64, tf.int64, tf.string, tf.bool],
        stateful=False,
    )
    features = decode.parse(tf.ensure_shape(records, [None]), recipe.features)
    return _rows(recipe, features, ids, seeds, layout, valid)


def _read_cached(
    recipe: Recipe, epoch: tf.Tensor, first: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
) -> Features:
    """As `_read`, with the images decoded: from the cache, or from the shards and into the cache."""
    assert recipe.cache is not None
    places, ids, seeds, layout = python_calls.call(
        lambda *at: rows.plan(recipe, *at), [epoch, first, start, stop], [tf.int64] * 4, stateful=False
    )
    features, valid = through_cache(
        recipe.cache,
        recipe.columns,
        recipe.features,
        places,
        lambda missing: _make(recipe, tf.gather(ids, missing)),
    )
    return _rows(recipe, features, ids, seeds, layout, valid)


def _make(recipe: Recipe, ids: tf.Tensor) -> tuple[Features, tf.Tensor]:
    """Examples `ids` as the cache keeps them, and which of them are valid."""
    records, valid = python_calls.call(
        lambda ids: _texts(recipe, ids), [ids], [tf.string, tf.bool], stateful=False
    )
    features = decode.parse(tf.ensure_shape(records, [None]), recipe.features)
    for name, feature in images(recipe).items():
        features[name] = tf.map_fn(
            lambda data, feature=feature: decode_one(recipe, data, feature),
            features[name],
            fn_output_signature=tf.TensorSpec(recipe.image_shapes[name], tf.uint8),
        )
    return features, valid


def _texts(recipe: Recipe, ids: Ids) -> tuple[Texts, Valid]:
    records, valid = rows.read(recipe, ids)
    return records.texts(), valid


def _rows(  # noqa: PLR0917
    recipe: Recipe, features: Features, ids: tf.Tensor, seeds: tf.Tensor, layout: tf.Tensor, valid: tf.Tensor
) -> Features:
    """The features of some rows, with what travels with them."""
    if not isinstance(recipe.order, Packed):
        return {**features, **_hidden(recipe, ids, seeds, layout, valid)}
    if recipe.skip_corrupt:
        # A damaged example leaves its row without values.
        features = padding.zero({**features, VALID: tf.ensure_shape(valid, [None])}, VALID)
        del features[VALID]
    counts = tf.ensure_shape(layout, [None])
    packing = recipe.order.packing
    rows = sequences.pack(features, counts, packing.most, packing.names[0], ids if recipe.with_ids else None)
    if recipe.with_ids:
        rows[ID] = rows.pop("")
    return {**rows, VALID: counts > 0} if recipe.has_holes else rows


def _hidden(
    recipe: Recipe, ids: tf.Tensor, seeds: tf.Tensor, layout: tf.Tensor, valid: tf.Tensor
) -> Features:
    """What travels with the features, as far as it is needed: carrying it costs a little for every example."""
    hidden = {ID: tf.ensure_shape(ids, [None])} if recipe.with_ids else {}
    if recipe.ops:
        hidden[SEED] = tf.ensure_shape(seeds, [None, 2])
    if is_padded(recipe):
        hidden[BOUND] = tf.ensure_shape(layout, [None])
    if recipe.skip_corrupt or recipe.has_holes:
        hidden[VALID] = tf.ensure_shape(valid, [None])
    return hidden
