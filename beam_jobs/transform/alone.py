"""Does what a function gives for a record depend on that record alone? Tried with made-up records, before any are read.

What is not analysed yet has a stand-in, as tf-transform traces it. Some functions refuse made-up values; those are left
to the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from schemas import HeadraceError
from schemas.features import BoolFeature, ClassLabelFeature, Feature, Int64Feature

_ROWS = 64
_WORDS = [b"a", b"b", b"a b", b"one two three", b"", b"Zz", b"7", b"none"]


def check_alone(function: Any, features: Mapping[str, Feature], specs: Mapping[str, Any], where: str) -> None:
    """Compares rows of a batch with the same rows in another order and in other company.

    Raises:
      HeadraceError: they differ by more than rounding.
    """
    random = np.random.Generator(np.random.PCG64(0))
    values = {name: _column(random, features[name], specs[name]) for name in sorted(specs)}
    order = np.arange(_ROWS)[::-2]
    try:
        together = function(*_flat(values, specs, np.arange(_ROWS)))
        others = function(*_flat(values, specs, order))
    except (tf.errors.OpError, ValueError):
        return
    for name in sorted(together):
        whole, part = _rows(together[name]), _rows(others[name])
        if len(whole) != _ROWS or len(part) != len(order):
            raise HeadraceError(
                "The preprocessing_fn gives another number of rows than it gets.",
                where=where,
                value=f"{name}: {len(whole)} rows for {_ROWS} records",
                hint="It must give one row for each record. Aggregates are what tft's analysers are for.",
            )
        if not all(_same(whole[place], row) for place, row in zip(order.tolist(), part, strict=True)):
            raise HeadraceError(
                "What the preprocessing_fn gives for a record depends on its batch: on the order of records, on their "
                "neighbours or on chance.",
                where=where,
                value=name,
                hint="Means, sums and orders over records are what tft's analysers are for: tft.mean, not "
                "tf.reduce_mean. Random numbers belong into augmentation.",
            )


def _column(random: np.random.Generator, feature: Feature, spec: Any) -> list[Any]:
    """Made-up values of each record."""
    shape = getattr(feature, "shape", ())
    sizes = random.integers(0, 4, _ROWS).tolist() if shape == (None,) else [int(np.prod(shape))] * _ROWS
    found: list[Any] = []
    for size in sizes:
        if spec.dtype == tf.float32:
            found.append(random.normal(size=size).astype(np.float32))
        elif spec.dtype == tf.string:
            found.append(np.array([_WORDS[place] for place in random.integers(0, len(_WORDS), size)], object))
        else:
            found.append(random.integers(*_bounds(feature), size, endpoint=True))
    return found


def _bounds(feature: Feature) -> tuple[int, int]:
    if isinstance(feature, BoolFeature):
        return 0, 1
    if isinstance(feature, ClassLabelFeature):
        return 0, len(feature.names) - 1
    low, high = (feature.min, feature.max) if isinstance(feature, Int64Feature) else (None, None)
    low = low if low is not None else 0 if high is None or high >= 0 else high
    return low, min(high if high is not None else low + 9, low + 9)


def _flat(values: Mapping[str, list[Any]], specs: Mapping[str, Any], rows: Any) -> list[Any]:
    """The rows' tensors in the order in which the traced function takes them."""
    tensors = {}
    for name, spec in specs.items():
        own = [values[name][row] for row in rows]
        if isinstance(spec, tf.SparseTensorSpec):
            ragged = tf.RaggedTensor.from_row_lengths(
                tf.constant(np.concatenate(own), spec.dtype), [len(value) for value in own]
            )
            tensors[name] = ragged.to_sparse()
        else:
            tensors[name] = tf.constant(np.stack(own).reshape([len(own), *spec.shape[1:]]), spec.dtype)
    flat: list[Any] = tf.nest.flatten(tensors, expand_composites=True)
    return flat


def _rows(value: Any) -> list[Any]:
    if isinstance(value, tf.SparseTensor):
        indices, flat = value.indices.numpy(), value.values.numpy()
        return [
            (indices[mask, 1:].tolist(), flat[mask])
            for mask in (indices[:, 0] == row for row in range(int(value.dense_shape[0])))
        ]
    if isinstance(value, tf.RaggedTensor):
        return [([], np.array(tf.nest.flatten(row.numpy().tolist()))) for row in value]
    return [([], row) for row in value.numpy()]


def _same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    (places, values), (other_places, other_values) = one, other
    if places != other_places or np.shape(values) != np.shape(other_values):
        return False
    if np.asarray(values).dtype.kind == "f":
        return bool(np.allclose(values, other_values, rtol=1e-4, atol=1e-6, equal_nan=True))
    return bool(np.array_equal(values, other_values))
