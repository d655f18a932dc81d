"""Random changes that mix the examples of a batch. See `loader.augment`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from loader.decode import Features
from loader.image_ops import check_bounds, uniform
from schemas import HeadraceError


@dataclass(frozen=True)
class MixUp:
    """Blend each example with its neighbour in the batch, labels too ("mixup", Zhang et al., 2018).

    Neighbours are positions 0 and 1, 2 and 3, …: as good as any, since the order is random, and the same however
    many hosts share a batch. The last of an odd batch stays as it is.

    Args:
      alpha: the share kept is drawn from Beta(alpha, alpha), for each example on its own.
      probability: of mixing an example at all.
      label: the feature to mix along; the data set's label where None.
      classes: number of classes, needed where the label is a whole number; known to `load`.
    """

    alpha: float = 0.2
    probability: float = 1.0
    label: str | None = None
    classes: int | None = None
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_bounds(self, "alpha", 1e-3, math.inf)
        check_bounds(self, "probability", 0, 1)

    def __call__(self, features: Features, seeds: tf.Tensor, valid: tf.Tensor | None = None) -> Features:
        """The batch mixed; the label float32 (n, classes), or (n,) where it is a number."""
        keep = _shares(self, seeds, uniform(seeds, 1)[:, 0])
        partner = _partners(tf.shape(seeds)[0], valid)
        mixed = {name: _mix(v, partner, keep) if _is_images(v) else v for name, v in features.items()}
        return _mix_label(self, mixed, partner, keep)


@dataclass(frozen=True)
class CutMix:
    """Paste a box of the neighbour in the batch, labels in proportion ("CutMix", Yun et al., 2019). See `MixUp`."""

    alpha: float = 1.0
    probability: float = 1.0
    label: str | None = None
    classes: int | None = None
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_bounds(self, "alpha", 1e-3, math.inf)
        check_bounds(self, "probability", 0, 1)

    def __call__(self, features: Features, seeds: tf.Tensor, valid: tf.Tensor | None = None) -> Features:
        """The batch mixed; the label float32 (n, classes), or (n,) where it is a number."""
        drawn = uniform(seeds, 3)
        shares = _shares(self, seeds, drawn[:, 0])
        partner = _partners(tf.shape(seeds)[0], valid)
        mixed, keep = dict(features), None
        for name, images in features.items():
            if _is_images(images):
                inside, keep = _boxes(tf.shape(images), shares, drawn[:, 1:])
                mixed[name] = tf.where(inside, tf.gather(images, partner), images)
        return mixed if keep is None else _mix_label(self, mixed, partner, keep)


def _boxes(shape: tf.Tensor, shares: tf.Tensor, middles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Which pixels lie in each example's box, bool (n, h, w, 1), and the share outside, float32 (n,)."""
    side = tf.sqrt(1 - shares)
    inside = []
    for axis in (0, 1):
        size = tf.cast(shape[1 + axis], tf.float32)
        middle = tf.floor(middles[:, axis] * size)
        half = side * size / 2
        low, high = tf.round(middle - half)[:, None], tf.round(middle + half)[:, None]
        pixel = tf.range(size)[None]
        inside.append((pixel >= low) & (pixel < high))
    box = inside[0][:, :, None] & inside[1][:, None, :]
    # The box may reach over the edge: the label goes by the pixels there really are.
    return box[..., None], 1 - tf.reduce_mean(tf.cast(box, tf.float32), axis=(1, 2))


def _partners(count: tf.Tensor, valid: tf.Tensor | None) -> tf.Tensor:
    own = tf.range(count)
    partner = tf.minimum(tf.bitwise.bitwise_xor(own, 1), count - 1)
    # Padding is no partner.
    return partner if valid is None else tf.where(tf.gather(valid, partner), partner, own)


def _mix(values: tf.Tensor, partner: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    x = tf.cast(values, tf.float32)
    keep = tf.reshape(keep, tf.concat([tf.shape(keep), tf.ones(x.shape.rank - 1, tf.int32)], 0))
    return keep * x + (1 - keep) * tf.gather(x, partner)


def _mix_label(op: MixUp | CutMix, features: Features, partner: tf.Tensor, keep: tf.Tensor) -> Features:
    if op.label is None or op.label not in features:
        return features
    label = features[op.label]
    if label.dtype.is_integer and label.shape.rank == 1:
        if op.classes is None:
            raise HeadraceError(
                "Labels that are whole numbers can only be mixed as classes.",
                where=f"{type(op).__name__}, label {op.label!r}",
                hint=f"Declare the feature as class_label, or give {type(op).__name__}(classes=…).",
            )
        label = tf.one_hot(label, op.classes)
    return {**features, op.label: _mix(label, partner, keep)}


def _shares(op: MixUp | CutMix, seeds: tf.Tensor, chance: tf.Tensor) -> tf.Tensor:
    """What each example keeps of itself, float32 (n,); 1 where `chance` says not to mix."""
    shares = tf.map_fn(lambda seed: _beta(seed, op.alpha), seeds, fn_output_signature=tf.float32)
    return tf.where(chance < op.probability, shares, 1.0)


def _beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """A number from Beta(alpha, alpha): one gamma variate's share of two."""
    gammas = tf.random.stateless_gamma([2], seed, alpha)
    return gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-30)


def _is_images(value: tf.Tensor) -> bool:
    return value.shape.rank == 4
