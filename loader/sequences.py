"""Lists of any length as dense tensors: padded to a bound, or packed into rows."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from loader.decode import Features


def pad(features: Features, names: Sequence[str], bound: str) -> Features:
    """The batch with the lists `names` dense, (rows, b), zeros behind their values; b is in every row of `bound`."""
    features = dict(features)
    shape = tf.stack([tf.constant(-1, tf.int64), features.pop(bound)[0]])
    for name in names:
        dense = features[name].to_tensor(shape=shape)
        features[name] = tf.ensure_shape(dense, [features[name].shape[0], None])
    return features


def pack(features: Features, counts: tf.Tensor, room: int, name: str, ids: tf.Tensor | None) -> Features:
    """Rows of `room` values, with zeros behind them.

    Args:
      features: lists of the examples, in the order of the rows; all of an example of one length.
      counts: how many examples are in each row, int64 (rows,).
      room: values of a row.
      name: the feature after which those of a row are called: "<name>_segment_ids", int32 (rows, room), number the
        row's examples from 1, 0 where there is none; "<name>_positions", int32, number the values of each from 0.
      ids: of the examples, int64, to be laid out likewise under the name of "", with -1 where there is none.
    """
    lengths = features[name].row_lengths()
    totals = tf.reduce_sum(tf.RaggedTensor.from_row_lengths(lengths, counts, validate=False), axis=1)
    checks = [
        tf.debugging.assert_equal(
            value.row_lengths(), lengths, f"Lists of unlike length: {name} and {other}."
        )
        for other, value in features.items()
    ]
    checks.append(
        tf.debugging.assert_less_equal(totals, tf.cast(room, tf.int64), "An index has wrong lengths.")
    )

    def rows(values: tf.Tensor, default: int = 0) -> tf.Tensor:
        ragged = tf.RaggedTensor.from_row_lengths(values, totals, validate=False)
        return ragged.to_tensor(shape=[None, room], default_value=tf.cast(default, values.dtype))

    with tf.control_dependencies([check for check in checks if check is not None]):
        packed = {other: rows(value.values) for other, value in features.items()}
    segments = tf.ragged.range(1, counts + 1).values
    packed[f"{name}_segment_ids"] = rows(tf.cast(tf.repeat(segments, lengths), tf.int32))
    packed[f"{name}_positions"] = rows(tf.cast(tf.ragged.range(lengths).values, tf.int32))
    if ids is not None:
        packed[""] = rows(tf.repeat(ids, lengths), -1)
    return packed
