"""Random changes to the images of one example. See `loader.augment`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from loader.decode import Box, Features, resize_image
from schemas import HeadraceError


@dataclass(frozen=True)
class ImageOp(ABC):
    """Base of the operations on single images: draws once, then changes each image by what was drawn."""

    batched: ClassVar[bool] = False
    draws: ClassVar[int] = 1  # random numbers needed

    def __call__(self, features: Features, seed: tf.Tensor) -> Features:
        """The features with every image changed."""
        drawn = tf.unstack(uniform(seed, self.draws), self.draws)
        return {name: self.image(v, *drawn) if is_image(v) else v for name, v in features.items()}

    @abstractmethod
    def image(self, image: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        """One image, (height, width, channels), changed by the numbers drawn, each in [0, 1)."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized: the crop of "Going deeper with convolutions" (Szegedy et al., 2014).

    Args:
      size: height and width of the result; `image_size` of `load`, or the stored size, where None.
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height.
    """

    size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    batched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_bounds(self, "scale", 1e-6, 1)  # TensorFlow refuses 0
        check_bounds(self, "ratio", 1e-3, 1e3)

    def box(self, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> Box:
        """The part of an image of the given size."""
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.stack([height, width, 3]),
            tf.zeros([1, 0, 4]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=self.ratio,
            area_range=self.scale,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return begin[0], begin[1], size[0], size[1]

    def __call__(self, features: Features, seed: tf.Tensor) -> Features:
        """The features with every image cropped and resized."""
        return {name: self._crop(v, seed) if is_image(v) else v for name, v in features.items()}

    def _crop(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(image)
        top, left, height, width = self.box(shape[0], shape[1], seed)
        part = tf.slice(image, tf.stack([top, left, 0]), tf.stack([height, width, -1]))
        part = tf.ensure_shape(part, [None, None, image.shape[-1]])
        size = self.size or (image.shape[0], image.shape[1])
        return resize_image(part, size) if None not in size else part


@dataclass(frozen=True)
class FlipLeftRight(ImageOp):
    """Mirror with the given probability."""

    probability: float = 0.5
    axis: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_bounds(self, "probability", 0, 1)

    def chosen(self, seeds: tf.Tensor) -> tf.Tensor:
        """Which examples of a batch are flipped, bool (n,): `load` does it in one pass with the rest."""
        return uniform(seeds, 1)[:, 0] < self.probability

    def image(self, image: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        """Mirrored or not."""
        # tf.reverse: a slice with step -1 is far slower.
        return tf.cond(drawn[0] < self.probability, lambda: tf.reverse(image, [self.axis]), lambda: image)


@dataclass(frozen=True)
class FlipUpDown(FlipLeftRight):
    """Turn upside down with the given probability."""

    axis: ClassVar[int] = 0


@dataclass(frozen=True)
class ColorJitter(ImageOp):
    """Random brightness, contrast, saturation and hue, in this order, as one operation.

    Args:
      brightness, contrast, saturation: factors are drawn from [1 - x, 1 + x].
      hue: shifts are drawn from [-x, x] of a full turn; at most 0.5.

    An image of one channel has no saturation or hue; alpha is left alone.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    draws: ClassVar[int] = 4

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            check_bounds(self, name, 0, 1)
        check_bounds(self, "hue", 0, 0.5)

    def image(self, image: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        """float32, cut to 0 … 255."""
        brightness, contrast, saturation, hue = (2 * d - 1 for d in drawn)
        x = tf.cast(image, tf.float32)
        alpha = x[..., 3:]
        x = x[..., :3]
        if self.brightness:
            x = tf.minimum(x * (1 + self.brightness * brightness), 255.0)
        if self.contrast:
            mean = tf.reduce_mean(x, axis=(0, 1), keepdims=True)
            x = _blend(mean, x, 1 + self.contrast * contrast)
        if self.saturation and image.shape[-1] != 1:
            gray = tf.reduce_sum(x * tf.constant([0.2989, 0.587, 0.114]), axis=-1, keepdims=True)
            x = _blend(gray, x, 1 + self.saturation * saturation)
        if self.hue and image.shape[-1] != 1:
            x = tf.image.adjust_hue(x, self.hue * hue)
        return tf.concat([x, alpha], axis=-1) if image.shape[-1] == 4 else x


def Brightness(amount: float = 0.2) -> ColorJitter:  # noqa: N802 (reads as the operation it makes)
    """Random brightness; see `ColorJitter`."""
    return ColorJitter(brightness=amount)


def Contrast(amount: float = 0.2) -> ColorJitter:  # noqa: N802
    """Random contrast; see `ColorJitter`."""
    return ColorJitter(contrast=amount)


def Saturation(amount: float = 0.2) -> ColorJitter:  # noqa: N802
    """Random saturation; see `ColorJitter`."""
    return ColorJitter(saturation=amount)


def Hue(amount: float = 0.05) -> ColorJitter:  # noqa: N802
    """Random hue; see `ColorJitter`."""
    return ColorJitter(hue=amount)


@dataclass(frozen=True)
class Rotation(ImageOp):
    """Turn by up to `degrees` either way about the middle; the edges are filled by reflection or with black.

    Args:
      degrees: the most.
      fill: "reflect" or "constant".
    """

    degrees: float = 15.0
    fill: str = "reflect"

    def __post_init__(self) -> None:
        check_bounds(self, "degrees", 0, 180)
        _check_fill(self)

    def image(self, image: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        """Turned, bilinear, in the image's own type."""
        angle = (2 * drawn[0] - 1) * math.radians(self.degrees)
        cos, sin = tf.cos(angle), tf.sin(angle)
        size = tf.cast(tf.shape(image), tf.float32)
        y, x = (size[0] - 1) / 2, (size[1] - 1) / 2
        moved_x, moved_y = x - x * cos + y * sin, y - x * sin - y * cos
        return _project(image, [cos, -sin, moved_x, sin, cos, moved_y, 0.0, 0.0], self.fill)


@dataclass(frozen=True)
class Translate(ImageOp):
    """Shift by up to a share of the height and the width; the edges are filled by reflection or with black.

    Args:
      height, width: the most, as shares.
      fill: "reflect" or "constant".
    """

    height: float = 0.1
    width: float = 0.1
    fill: str = "reflect"
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_bounds(self, "height", 0, 1)
        check_bounds(self, "width", 0, 1)
        _check_fill(self)

    def image(self, image: tf.Tensor, *drawn: tf.Tensor) -> tf.Tensor:
        """Shifted by whole pixels, in the image's own type."""
        size = tf.cast(tf.shape(image), tf.float32)
        down = tf.round((2 * drawn[0] - 1) * self.height * size[0])
        right = tf.round((2 * drawn[1] - 1) * self.width * size[1])
        return _project(image, [1.0, 0.0, -right, 0.0, 1.0, -down, 0.0, 0.0], self.fill)


def uniform(seed: tf.Tensor, count: int) -> tf.Tensor:
    """`count` numbers in [0, 1), float32 of shape (…, count), for each seed, int64 of shape (…, 2).

    Number j is `mix(seed[0] + (j + 1) * gamma)` with an odd gamma made of `seed[1]`: SplitMix64, whose streams differ
    in both (Steele et al., "Fast splittable pseudorandom number generators", 2014). Whole batches of seeds at once
    cost what one does; `stateless_uniform` takes one seed at a time.
    """
    bits = tf.bitcast(seed, tf.uint64)
    gamma = tf.bitwise.bitwise_or(bits[..., 1:] * _u64(0x9E3779B97F4A7C15), _u64(1))
    x = bits[..., :1] + gamma * tf.constant(list(range(1, count + 1)), tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _u64(shift))) * _u64(factor)
    # The last step of the mixing, x ^= x >> 31, would not touch the upper 24 bits, which are all that is used.
    return tf.cast(tf.bitcast(tf.bitwise.right_shift(x, _u64(40)), tf.int64), tf.float32) * 2.0**-24


def _u64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def is_image(value: tf.Tensor) -> bool:
    """Whether a feature of one example is a decoded image."""
    return value.shape.rank == 3


def check_bounds(op: object, name: str, low: float, high: float) -> None:
    """Refuse an argument outside [low, high], or a pair that is not in order.

    Raises:
      HeadraceError: names the operation, the argument and what is allowed.
    """
    value: Any = getattr(op, name)
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
        shape = "two numbers, the smaller first," if isinstance(value, tuple) else "a number"
        limits = f"in [{low:g}, {high:g}]" if high < math.inf else f"of at least {low:g}"
        raise HeadraceError(
            f"{type(op).__name__} got a value out of range.",
            where=name,
            value=value,
            allowed=f"{shape} {limits}",
        )


def _check_fill(op: Rotation | Translate) -> None:
    if op.fill not in ("reflect", "constant"):
        raise HeadraceError(
            f"{type(op).__name__} does not know this fill.",
            where="fill",
            value=op.fill,
            allowed="reflect, constant",
        )


def _blend(base: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(base + (image - base) * factor, 0.0, 255.0)


def _project(image: tf.Tensor, transform: list[Any], fill: str) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(transform)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
    )[0]
