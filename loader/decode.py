"""From records to tensors: one parse for many records, then image by image, of which only the crop is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from schemas.features import (
    BoolFeature,
    BytesFeature,
    Feature,
    Float32Feature,
    ImageFeature,
    TextFeature,
)

Features = dict[str, Any]  # tensors by feature name
Length = Any  # int32 scalar tensor, or an int where all images have the same
Box = tuple[Length, Length, Length, Length]  # top, left, height, width
BoxFn = Callable[[Length, Length], Box]  # of an image's height and width

RESIZES = ("crop", "stretch", "pad", "center")
_JPEG_MAGIC = b"\xff\xd8\xff"


def parse(records: tf.Tensor, features: Mapping[str, Feature]) -> Features:
    """The features of `records`, string (n,), by name.

    image: string (n,), still encoded · class_label, int64: int64 · float32: float32 · bool: bool ·
    text, bytes: string. A vector is (n, length), a list of any length a RaggedTensor (n, None).
    """
    parsed = tf.io.parse_example(
        records, {_stored_name(name, f): _parsing(f) for name, f in features.items()}
    )
    vectors = {feature.packed.vector for feature in features.values() if feature.packed is not None}
    columns = {vector: tf.unstack(parsed[vector], axis=1) for vector in vectors}
    found = {}
    for name, feature in features.items():
        packed = feature.packed
        found[name] = parsed[name] if packed is None else columns[packed.vector][packed.place]
        if isinstance(feature, BoolFeature):
            found[name] = tf.cast(found[name], tf.bool)
    return found


def feature_dtype(feature: Feature) -> tf.DType:
    """The type a feature is parsed to; an image is a string until it is decoded."""
    if isinstance(feature, Float32Feature):
        return tf.float32
    if isinstance(feature, BoolFeature):
        return tf.bool
    return tf.string if isinstance(feature, (ImageFeature, TextFeature, BytesFeature)) else tf.int64


def is_ragged(feature: Feature) -> bool:
    """Whether a feature is a list of any length."""
    return not isinstance(feature, ImageFeature) and getattr(feature, "shape", ()) == (None,)


def _stored_name(name: str, feature: Feature) -> str:
    return name if feature.packed is None else feature.packed.vector


def _parsing(feature: Feature) -> Any:
    dtype = tf.int64 if isinstance(feature, BoolFeature) else feature_dtype(feature)
    if feature.packed is not None:
        return tf.io.FixedLenFeature((feature.packed.length,), dtype)
    if is_ragged(feature):
        return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
    return tf.io.FixedLenFeature(
        () if isinstance(feature, ImageFeature) else getattr(feature, "shape", ()), dtype
    )


def decode_image(data: tf.Tensor, feature: ImageFeature, box: BoxFn | None = None) -> tf.Tensor:
    """The image in `data`, or the part of it in `box`: uint8 (height, width, channels).

    Of a JPEG only the box is decoded, which is what makes crops cheap.
    """
    channels = feature.shape[2]
    return tf.ensure_shape(_decode(data, feature, box), [None, None, channels])


def _decode(data: tf.Tensor, feature: ImageFeature, box: BoxFn | None) -> tf.Tensor:
    stored_format, channels = feature.stored_format, feature.shape[2]
    if stored_format == "jpeg":
        return _decode_jpeg(data, feature, box)
    if stored_format == "png":
        return _cut(tf.io.decode_png(data, channels), box)
    if box is None or channels == 4:
        return _cut(_decode_any(data, channels), box)
    return tf.cond(
        tf.equal(tf.strings.substr(data, 0, len(_JPEG_MAGIC)), _JPEG_MAGIC),
        lambda: _decode_jpeg(data, feature, box),
        lambda: _cut(_decode_any(data, channels), box),
    )


def _decode_jpeg(data: tf.Tensor, feature: ImageFeature, box: BoxFn | None) -> tf.Tensor:
    height, width, channels = feature.stored_shape
    if box is None:
        return tf.io.decode_jpeg(data, channels)
    if height is None or width is None:
        height, width = tf.unstack(tf.io.extract_jpeg_shape(data)[:2])
    return tf.io.decode_and_crop_jpeg(data, tf.stack(box(height, width)), channels)


def _decode_any(data: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.io.decode_image(data, channels, expand_animations=False)


def _cut(image: tf.Tensor, box: BoxFn | None) -> tf.Tensor:
    if box is None:
        return image
    shape = tf.shape(image)
    top, left, height, width = box(shape[0], shape[1])
    return tf.slice(image, tf.stack([top, left, 0]), tf.stack([height, width, -1]))


def fit_box(size: tuple[int, int], resize: str) -> BoxFn | None:
    """The part of an image that `fit` makes an image of `size` from; None for all of it."""
    if resize == "crop":
        return lambda height, width: center_box(height, width, *_aspect_size(height, width, size))
    if resize == "center":
        return lambda height, width: center_box(
            height, width, _clip(size[0], 1, height), _clip(size[1], 1, width)
        )
    return None


def fit(image: tf.Tensor, size: tuple[int, int], resize: str) -> tf.Tensor:
    """What `fit_box` left of an image, brought to `size`: uint8 (*size, channels)."""
    if resize == "pad":
        return to_uint8(tf.image.resize_with_pad(image, *size))
    if resize == "center":
        if tuple(image.shape[:2]) == tuple(size):
            return image
        # Padding copies the image even where there is nothing to add.
        fits = tf.reduce_all(tf.shape(image)[:2] == size)
        padded = tf.cond(
            fits, lambda: image, lambda: tf.image.pad_to_bounding_box(image, *_margins(image, size), *size)
        )
        return tf.ensure_shape(padded, [*size, image.shape[-1]])
    return resize_image(image, size)


def resize_image(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """`image` stretched to `size`, bilinear, uint8. Untouched where it has that size already."""
    if tuple(image.shape[:2]) == tuple(size):
        return image
    # Bilinear values never leave 0 … 255, so this rounds as well as `to_uint8`, in a third of its time.
    return tf.cast(tf.image.resize(image, size) + 0.5, tf.uint8)


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Values of 0 … 255 rounded and cut to uint8."""
    return image if image.dtype == tf.uint8 else tf.saturate_cast(tf.round(image), tf.uint8)


def center_box(height: Length, width: Length, crop_height: Length, crop_width: Length) -> Box:
    """A crop of the given size in the middle of an image."""
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _aspect_size(height: Length, width: Length, size: tuple[int, int]) -> tuple[Length, Length]:
    """The largest height and width of the aspect ratio of `size` that an image holds."""
    return (
        _clip((width * size[0] + size[1] // 2) // size[1], 1, height),
        _clip((height * size[1] + size[0] // 2) // size[0], 1, width),
    )


def _clip(value: Length, low: int, high: Length) -> Length:
    if isinstance(value, int) and isinstance(high, int):
        return max(low, min(value, high))
    return tf.clip_by_value(value, low, high)


def _margins(image: tf.Tensor, size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.shape(image)
    return (size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2
