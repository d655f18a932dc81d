"""A function applied to whole blocks of records, so that what it gives for one does not depend on how many there are.

TensorFlow's kernels take several numbers or rows at once, and those left over at the end one by one, which rounds
otherwise: `tf.exp` of 8 numbers is not that of each to the last bit, a matrix product of 7 rows not that of 64. Blocks
of 64 rows have nothing left over, whatever a row's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_BLOCK = 64  # rows; a multiple of what one instruction or kernel takes: 16 float32 with AVX-512, 8 rows

Function = Callable[[dict[str, Any]], dict[str, Any]]


def padded(function: Function) -> Function:
    """The function, given the records and repetitions of the last one up to whole blocks; as many rows are cut off.

    One that gives another number of rows than it gets does so still.
    """

    def call(inputs: dict[str, Any]) -> dict[str, Any]:
        rows = _rows(next(iter(inputs.values())))
        whole = -(-rows // _BLOCK) * _BLOCK
        order = tf.minimum(tf.range(whole), rows - 1)
        outputs = function({name: _lengthened(value, rows, order) for name, value in inputs.items()})
        return {name: _cut(value, whole - rows) for name, value in outputs.items()}

    return call


def _rows(value: Any) -> Any:
    shape = value.dense_shape if isinstance(value, tf.SparseTensor) else tf.shape(value, tf.int64)
    return shape[0]


def _lengthened(value: Any, rows: Any, order: Any) -> Any:
    if not isinstance(value, tf.SparseTensor):
        return tf.gather(value, order)
    last = value.indices[:, 0] == rows - 1
    places, values = value.indices[last][:, 1:], value.values[last]
    added = tf.range(rows, tf.size(order, tf.int64))
    indices = tf.concat(
        [tf.repeat(added, tf.size(values))[:, tf.newaxis], tf.tile(places, [tf.size(added), 1])], axis=1
    )
    return tf.SparseTensor(
        tf.concat([value.indices, indices], axis=0),
        tf.concat([value.values, tf.tile(values, [tf.size(added)])], axis=0),
        tf.concat([[tf.size(order, tf.int64)], value.dense_shape[1:]], axis=0),
    )


def _cut(value: Any, added: Any) -> Any:
    if isinstance(value, tf.RaggedTensor):
        return value[: tf.maximum(value.nrows(tf.int64) - added, 0)]
    rows = tf.maximum(_rows(value) - added, 0)
    if not isinstance(value, tf.SparseTensor):
        return value[:rows]
    shape = tf.concat([[rows], value.dense_shape[1:]], axis=0)
    return tf.sparse.slice(value, tf.zeros_like(value.dense_shape), shape)
