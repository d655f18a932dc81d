"""How the images of a recipe are decoded: by TensorFlow's operations or, to the same bits, by the native core."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loader import augment, decode, native
from loader.augment import Ops, RandomResizedCrop
from loader.buffers import Buffers
from loader.decoder import (
    MIDDLE,
    MIDDLE_RESIZED,
    RANDOM,
    STRETCHED,
    WHOLE,
    Decoder,
    Images,
    Twin,
    UndecodableError,
)
from loader.draws import Seeds
from loader.recipe import Recipe
from schemas.features import ImageFeature

_PARTS = {"crop": MIDDLE_RESIZED, "center": MIDDLE, "stretch": STRETCHED}
_CHANNELS = (1, 3)  # that the core knows


def images(recipe: Recipe) -> dict[str, ImageFeature]:
    """The image features that are wanted."""
    return {name: feature for name, feature in recipe.features.items() if isinstance(feature, ImageFeature)}


def split_ops(recipe: Recipe) -> tuple[Ops, Ops, Ops]:
    """See `augment.split`."""
    return augment.split(recipe.ops, batched=recipe.batches.batch_size is not None)


def leading_crop(recipe: Recipe) -> RandomResizedCrop | None:
    """The random crop that is part of decoding, as it is the first operation and knows the size it makes."""
    ops = split_ops(recipe)[0]
    first = ops[0] if ops and recipe.crop_first and recipe.cache is None else None
    return first if isinstance(first, RandomResizedCrop) else None


def decode_one(
    recipe: Recipe,
    data: tf.Tensor,
    feature: ImageFeature,
    crop: RandomResizedCrop | None = None,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """One image, decoded and brought to its size: uint8 (height, width, channels)."""
    if crop is not None:
        # The first operation is a crop: decode no more of the image than that.
        assert crop.size is not None
        image = decode.decode_image(data, feature, lambda height, width: crop.box(height, width, seed))
        return decode.resize_image(image, crop.size)
    if recipe.image_size is None or recipe.crop_first:
        return tf.ensure_shape(decode.decode_image(data, feature), feature.stored_shape)
    image = decode.decode_image(data, feature, decode.fit_box(recipe.image_size, recipe.resize))
    return decode.fit(image, recipe.image_size, recipe.resize)


def decoders(recipe: Recipe) -> dict[str, Decoder]:
    """Decoders of the images that the core makes: of all, whatever their format, where decoded ones are cached."""
    if native.core is None:
        return {}
    found = {}
    for name, feature in images(recipe).items():
        crop = leading_crop(recipe)
        shape = (*crop.size, feature.shape[2]) if crop and crop.size else recipe.image_shapes[name]
        if None in shape:
            continue
        known = feature.stored_format in ("jpeg", None) and feature.shape[2] in _CHANNELS
        part = _part(recipe, crop) if known else None
        if part is not None or recipe.cache is not None:
            bounds = (crop.scale, crop.ratio) if crop else ((1.0, 1.0), (1.0, 1.0))
            twin = _twin(recipe, feature, crop)
            found[name] = Decoder(shape, part, *bounds, twin, Buffers(), recipe.data, name)
    return found


def _part(recipe: Recipe, crop: RandomResizedCrop | None) -> int | None:
    if crop is not None:
        return RANDOM
    if recipe.image_size is None or recipe.crop_first:
        return WHOLE
    return _PARTS.get(recipe.resize)


def _twin(recipe: Recipe, feature: ImageFeature, crop: RandomResizedCrop | None) -> Twin:
    """`decode_one` for several images, to be called from Python; traced when it is first needed."""

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.int64)],
        autograph=False,
    )
    def several(data: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda one: decode_one(recipe, one[0], feature, crop, one[1]),
            (data, seeds),
            fn_output_signature=tf.uint8,
        )

    def twin(data: npt.NDArray[np.object_], seeds: Seeds) -> Images:
        try:
            found: Images = several(tf.constant(data), tf.constant(seeds)).numpy()
        except tf.errors.InvalidArgumentError:
            # TensorFlow does not say which of them it was, and in a graph little else.
            for row, one in enumerate(data):
                try:
                    decode_one(recipe, tf.constant(one), feature, crop, tf.constant(seeds[row]))
                except tf.errors.InvalidArgumentError as error:
                    raise UndecodableError(row, _reason(error)) from None
            raise
        return found

    return twin


def _reason(error: tf.errors.OpError) -> str:
    """What an operation said, without its name."""
    return re.sub(r"{{.*?}} ?| \[Op:\w+\].*", "", error.message.strip().partition("\n")[0])
