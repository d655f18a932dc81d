"""Rows of a batch that hold no example: made zero, or taken out."""

from __future__ import annotations

import tensorflow as tf

from loader.decode import Features


def zero(features: Features, flag: str) -> Features:
    """The batch with zeros, empty strings or empty lists in the rows where `flag`, bool (n,), is false."""
    valid = features[flag]

    def blanked() -> Features:
        return {name: v if name == flag else _zero(v, valid) for name, v in features.items()}

    return tf.cond(tf.reduce_all(valid), lambda: features, blanked)


def remove(features: Features, flag: str) -> Features:
    """The batch without the rows where `flag`, bool (n,), is false."""
    valid = features[flag]

    def kept() -> Features:
        return {
            name: (tf.ragged.boolean_mask if isinstance(v, tf.RaggedTensor) else tf.boolean_mask)(v, valid)
            for name, v in features.items()
        }

    return tf.cond(tf.reduce_all(valid), lambda: features, kept)


def _zero(value: tf.Tensor | tf.RaggedTensor, valid: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    if isinstance(value, tf.RaggedTensor):
        lengths = tf.where(valid, value.row_lengths(), 0)
        return tf.RaggedTensor.from_row_lengths(
            tf.ragged.boolean_mask(value, valid).values, lengths, validate=False
        )
    where = tf.reshape(valid, [-1] + [1] * (value.shape.rank - 1))
    return tf.where(where, value, tf.zeros([], value.dtype) if value.dtype != tf.string else "")
