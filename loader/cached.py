"""The cache as TensorFlow sees it: features to columns and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from loader.cache import Cache, Column, Values
from loader.decode import Features, feature_dtype, is_ragged
from loader.order import HOLE
from schemas.features import Feature, ImageFeature


def columns_of(features: Mapping[str, Feature], sizes: Mapping[str, tuple[int, int, int]]) -> list[Column]:
    """The columns that hold decoded features; `sizes` gives the shape of every image."""
    columns = []
    for name, feature in features.items():
        dtype = feature_dtype(feature)
        if isinstance(feature, ImageFeature):
            columns.append(Column(name, "uint8", sizes[name]))
        elif is_ragged(feature) or dtype == tf.string:
            columns.append(Column(name, "bytes"))
        else:
            columns.append(Column(name, dtype.name, tuple(getattr(feature, "shape", ()))))
    return columns


def through_cache(
    cache: Cache,
    columns: Sequence[Column],
    features: Mapping[str, Feature],
    places: tf.Tensor,
    make: Callable[[tf.Tensor], tuple[Features, tf.Tensor]],
) -> tuple[Features, tf.Tensor]:
    """The features of the examples at `places`, and which of them are valid, bool (n,).

    Args:
      cache: what is stored so far; takes up what is made.
      columns: of the cache.
      features: that the columns hold.
      places: int64 (n,), HOLE where there is no example.
      make: of some of the rows, int64 (m,): their features, and which of them are valid.
    """
    ragged = {name: feature_dtype(f) for name, f in features.items() if is_ragged(f)}
    types = [tf.string if column.dtype == "bytes" else tf.as_dtype(column.dtype) for column in columns]
    missing = tf.numpy_function(cache.missing, [places], tf.int64)
    missing = tf.ensure_shape(missing, [None])

    def stored() -> list[tf.Tensor]:
        return [*tf.numpy_function(cache.get, [places], types), tf.not_equal(places, HOLE)]

    def made() -> list[tf.Tensor]:
        new, valid = make(missing)
        flat = [_serialize(new[c.name]) if c.name in ragged else new[c.name] for c in columns]
        return list(tf.numpy_function(cache.fill, [places, missing, valid, *flat], [*types, tf.bool]))

    *values, valid = tf.cond(tf.equal(tf.size(missing), 0), stored, made)
    found: Features = {}
    for column, value in zip(columns, values, strict=True):
        value = tf.ensure_shape(value, [None, *column.shape])  # noqa: PLW2901
        found[column.name] = _deserialize(value, ragged[column.name]) if column.name in ragged else value
    return found, valid


def _serialize(value: tf.RaggedTensor) -> tf.Tensor:
    """Each row of numbers as bytes: string (n,)."""

    def rows(numbers: Values, splits: Values) -> Values:
        out = np.empty(len(splits) - 1, dtype=object)
        out[:] = [numbers[a:b].tobytes() for a, b in itertools.pairwise(splits)]
        return out

    return tf.ensure_shape(tf.numpy_function(rows, [value.values, value.row_splits], tf.string), [None])


def _deserialize(value: tf.Tensor, dtype: Any) -> tf.RaggedTensor:
    lengths = tf.cast(tf.strings.length(value), tf.int64) // dtype.size
    numbers = tf.io.decode_raw(tf.strings.reduce_join(value), dtype)
    return tf.RaggedTensor.from_row_lengths(tf.reshape(numbers, [-1]), lengths, validate=False)
