"""Finished batches as TensorFlow sees them; see `loader.finish`."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from loader import python_calls
from loader.decode import Features
from loader.finish import Affine, Finisher


def finish(
    features: Features, mirror: tf.Tensor, upturn: tf.Tensor, normalize: Mapping[str, Affine]
) -> Features:
    """A batch with all its images flipped where the flags, bool (n,), say so, and some of them normalised.

    Empty flags are for "none". Normalised images are float32.
    """
    flips = mirror.shape[0] != 0 or upturn.shape[0] != 0
    changed = dict(features)
    for name, value in features.items():
        if value.shape.rank == 4 and (flips or name in normalize):
            finisher, affine = Finisher(), normalize.get(name)
            out = python_calls.call(
                lambda images, a, b, finisher=finisher, affine=affine: finisher(images, a, b, affine),
                [value, mirror, upturn],
                tf.float32 if affine else value.dtype,
                stateful=False,
            )
            changed[name] = tf.ensure_shape(out, value.shape)
    return changed


def normalized(features: Features, normalize: Mapping[str, Affine]) -> Features:
    """One example with some of its images normalised, to the same values as in a batch."""
    changed = dict(features)
    for name, affine in normalize.items():
        image = tf.cast(features[name], tf.float32)
        changed[name] = image * tf.constant(affine.scale) - tf.constant(affine.shift)
    return changed
