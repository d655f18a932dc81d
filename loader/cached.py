"""The cache as TensorFlow sees it: features to columns and back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from loader import python_calls
from loader.cache import CACHES, FORMS, Cache, Column, Values, choose, memory_cache, row_bytes
from loader.checks import check_count, check_name
from loader.decode import Features, feature_dtype, is_ragged
from loader.disk_cache import disk_cache
from loader.order import HOLE
from schemas import HeadraceError
from schemas.features import Feature, ImageFeature

RECORD = [Column("record", "bytes")]  # what is kept of an example as it is stored


@dataclass(frozen=True)
class CacheRequest:
    """What the user asked for; see `load`."""

    kind: str | None
    form: str | None
    limit: int | None
    directory: str | Path | None

    def check(self) -> None:
        """Refuse what no cache can be made of.

        Raises:
          HeadraceError: names the argument.
        """
        if self.kind is not None:
            check_name("cache", self.kind, CACHES, "There is no cache of this kind.")
        if self.form is not None:
            check_name("cache_as", self.form, FORMS, "Examples cannot be cached so.")
        if self.limit is not None:
            check_count("cache_bytes", self.limit, 1)
        for name, value in (("cache_as", self.form), ("cache_bytes", self.limit)):
            if self.kind is None and value is not None:
                raise HeadraceError(
                    f"{name} says something of a cache, but there is none.",
                    where=name,
                    value=value,
                    hint='Give cache="memory", "disk" or "auto" too.',
                )


def open_cache(
    request: CacheRequest,
    columns: Sequence[Column],
    records: int,
    mean_bytes: int,
    identities: Mapping[str, Sequence[object]],
    *,
    remote: bool,
) -> tuple[str, Cache] | None:
    """The form in which examples are kept, and the cache that keeps them; None for none.

    Args:
      request: checked.
      columns: of decoded examples; their images have no size where these cannot be kept.
      records: examples.
      mean_bytes: of a record as it is stored.
      identities: all that decides the values of either form, JSON-able.
      remote: whether the records lie elsewhere.

    Raises:
      HeadraceError: the cache cannot be made, or not in this form.
    """
    kind, form = request.kind, request.form
    if kind is None or not records:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    directory = Path(request.directory) if request.directory else home
    fixed = all(None not in column.shape for column in columns)
    if form == "decoded" and not fixed:
        raise HeadraceError(
            "Images of different sizes cannot be cached decoded.",
            where="cache_as",
            value=form,
            hint="Give load(…, image_size=(height, width)) and no random crop as the first operation, "
            'or cache_as="encoded".',
        )
    each = {
        "encoded": mean_bytes + row_bytes(RECORD),
        "decoded": row_bytes(columns) + any(c.dtype == "bytes" for c in columns) * mean_bytes
        if fixed
        else None,
    }
    if kind == "auto":
        sizes = {
            name: size and size * records if form in (None, name) else None for name, size in each.items()
        }
        chosen = choose(sizes["decoded"], sizes["encoded"], directory, remote=remote or form is not None)
        if chosen is None:
            return None
        kind, form = chosen
    form = form or ("decoded" if fixed else "encoded")
    kept = columns if form == "decoded" else RECORD
    if request.limit is not None:
        records = min(records, max(1, request.limit // (each[form] or 1)))
    if kind == "memory":
        return form, memory_cache(kept, records)
    return form, disk_cache(kept, records, directory, [form, *identities[form]])


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
    missing = python_calls.call(cache.missing, [places], tf.int64)
    missing = tf.ensure_shape(missing, [None])

    def stored() -> list[tf.Tensor]:
        return [*python_calls.call(cache.get, [places], types), tf.not_equal(places, HOLE)]

    def made() -> list[tf.Tensor]:
        new, valid = make(missing)
        flat = [_serialize(new[c.name]) if c.name in ragged else new[c.name] for c in columns]
        return list(python_calls.call(cache.fill, [places, missing, valid, *flat], [*types, tf.bool]))

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

    return tf.ensure_shape(python_calls.call(rows, [value.values, value.row_splits], tf.string), [None])


def _deserialize(value: tf.Tensor, dtype: Any) -> tf.RaggedTensor:
    lengths = tf.cast(tf.strings.length(value), tf.int64) // dtype.size
    numbers = tf.io.decode_raw(tf.strings.reduce_join(value), dtype)
    return tf.RaggedTensor.from_row_lengths(tf.reshape(numbers, [-1]), lengths, validate=False)
