"""The native core's images and random numbers: TensorFlow's and NumPy's, to the last bit."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from jpegs import SUBSAMPLINGS, encode, jpeg, pixels, relabel, segments, without

from loader import augment, draws, image_ops, native
from loader.augment import FlipLeftRight, FlipUpDown, RandomResizedCrop
from loader.buffers import Buffers
from loader.decoder import MIDDLE, MIDDLE_RESIZED, RANDOM, STRETCHED, WHOLE, Decoder, Finishing
from loader.finish import Affine, finish_into
from loader.images import decode_one
from loader.records import Records
from schemas.features import ImageFeature

pytestmark = pytest.mark.skipif(native.core is None, reason="the native core could not be built here")

RESIZES = {STRETCHED: "stretch", MIDDLE: "center", MIDDLE_RESIZED: "crop"}
PARTS = {WHOLE: "whole", RANDOM: "random", **RESIZES}
CROP = RandomResizedCrop()


class LeftError(Exception):
    """The core left an image to TensorFlow."""


def twin_that_fails(*_: Any) -> Any:
    raise LeftError


def decoder(shape: tuple[int, int, int], part: int, crop: RandomResizedCrop = CROP) -> Decoder:
    return Decoder(shape, part, crop.scale, crop.ratio, twin_that_fails, Buffers(), "toy", "image")


def decoded(
    images: list[bytes],
    shape: tuple[int, int, int],
    part: int,
    seeds: np.ndarray | None = None,
    crop: RandomResizedCrop = CROP,
    finishing: Finishing = Finishing(),  # noqa: B008 (frozen)
) -> np.ndarray:
    """By the core. LeftError where it does not know one of them."""
    out = np.empty((len(images), *shape), np.float32 if finishing.affine else np.uint8)
    decoder(shape, part, crop).decode(Records.of(images), seeds, finishing, out)
    return out


def is_known(image: bytes, shape: tuple[int, int, int], part: int = WHOLE) -> bool:
    try:
        decoded([image], shape, part)
    except LeftError:
        return False
    return True


def by_tensorflow(
    image: bytes,
    shape: tuple[int, int, int],
    part: int,
    seed: np.ndarray | None = None,
    crop: RandomResizedCrop = CROP,
) -> np.ndarray:
    size, channels = shape[:2], shape[2]
    feature = ImageFeature(type="image", formats=["jpeg"], shape=(None, None, channels))
    whole = part in (WHOLE, RANDOM)
    recipe: Any = SimpleNamespace(
        image_size=None if whole else size, crop_first=False, resize=RESIZES.get(part)
    )
    op = RandomResizedCrop(size, crop.scale, crop.ratio) if part == RANDOM else None
    return np.asarray(decode_one(recipe, tf.constant(image), feature, op, seed))


def kinds(rng: np.random.Generator, height: int, width: int) -> list[tuple[str, bytes]]:
    """JPEGs of a size, and what they are."""
    found = []
    for subsampling, progressive in itertools.product([*SUBSAMPLINGS, None], [False, True]):
        if subsampling == "4:1:1" and progressive:
            continue  # not among those that jpegs.py can make
        options = {
            "quality": int(rng.integers(5, 100)),
            "restart_marker_blocks": int(rng.integers(0, 4)),
            "optimize": bool(rng.integers(2)),
        }
        found.append(
            (
                f"{height} x {width} {subsampling} progressive={progressive} {options}",
                jpeg(rng, height, width, subsampling, progressive=progressive, **options),
            )
        )
    return found


@pytest.mark.parametrize("part", PARTS, ids=PARTS.get)
@pytest.mark.parametrize("channels", [1, 3])
def test_parts_of_all_kinds_of_jpegs_are_tensorflows(part, channels, rng):
    stored = [(1, 1), (1, 9), (16, 16), (33, 47), (64, 50), (75, 100)]
    wanted = [(1, 1), (16, 16), (33, 47), (20, 30), (7, 5), (90, 150), (1, 40)]
    for height, width in stored:
        for kind, image in kinds(rng, height, width):
            if channels == 1 and "None" not in kind:
                continue
            sizes = (
                [(height, width)] if part == WHOLE else [wanted[k] for k in rng.integers(0, len(wanted), 2)]
            )
            for size in sizes:
                if part == MIDDLE and (size[0] > height or size[1] > width):
                    assert not is_known(image, (*size, channels), MIDDLE), kind  # it would have to be padded
                    continue
                seeds = rng.integers(-(2**63), 2**63 - 1, (1, 2))
                found = decoded([image], (*size, channels), part, seeds)[0]
                expected = by_tensorflow(image, (*size, channels), part, seeds[0])
                np.testing.assert_array_equal(found, expected, f"{kind} to {size}, seed {seeds}")


CROPS = [
    CROP,
    RandomResizedCrop(scale=(0.5, 0.5), ratio=(2.0, 2.0)),
    RandomResizedCrop(scale=(1e-6, 1.0), ratio=(1e-3, 1e3)),
    RandomResizedCrop(scale=(0.9, 1.0), ratio=(0.9, 1.6)),  # often none fits
    RandomResizedCrop(scale=(1e-6, 0.001), ratio=(0.5, 2.0)),  # hardly a pixel
    RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0)),
]


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: f"{crop.scale}-{crop.ratio}")
def test_random_crops_are_where_tensorflow_has_them(crop, rng):
    """Two pixels of a crop of noise tell where it lies."""
    feature = ImageFeature(type="image", formats=["jpeg"], shape=(None, None, 1))
    size = (2, 3)
    op = RandomResizedCrop(size, crop.scale, crop.ratio)
    recipe: Any = SimpleNamespace(image_size=None, crop_first=True, resize="crop")

    @tf.function(autograph=False)
    def several(image: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda seed: decode_one(recipe, image, feature, op, seed), seeds, fn_output_signature=tf.uint8
        )

    for height, width in [(1, 1), (1, 50), (37, 1), (16, 16), (40, 61), (90, 37), (67, 120)]:
        image = encode(rng.integers(0, 256, (height, width, 1), dtype=np.uint8), quality=100)
        seeds = rng.integers(-(2**63), 2**63 - 1, (250, 2))
        seeds[:5] = [[0, 0], [-1, -1], [2**63 - 1, -(2**63)], [0, 1], [1, 0]]
        found = decoded([image] * len(seeds), (*size, 1), RANDOM, seeds, crop)
        np.testing.assert_array_equal(found, several(image, seeds), f"{height} x {width}")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("part", [WHOLE, STRETCHED])
def test_decoded_images_are_finished_as_numpy_would(part, channels, rng, monkeypatch):
    affine = Affine(tuple(rng.random(channels).tolist()), tuple(rng.normal(size=channels).tolist()))
    for width in [1, 2, 4, 5, 6, 7, 16, 33]:
        images = [jpeg(rng, 9, width, None if channels == 1 else "4:4:4") for _ in range(6)]
        shape = (9, width if part == WHOLE else width + 3, channels)
        plain = decoded(images, shape, part)
        mirror, upturn = rng.random((2, 6)) < 0.5
        for flags, normalize in itertools.product(
            [(mirror, upturn), (mirror, None), (None, upturn), (None, None)], [None, affine]
        ):
            found = decoded(images, shape, part, finishing=Finishing(*flags, normalize))
            np.testing.assert_array_equal(found, oracle(plain, *flags, normalize))


def oracle(
    images: np.ndarray, mirror: np.ndarray | None, upturn: np.ndarray | None, affine: Affine | None
) -> np.ndarray:
    out = images.copy()
    if mirror is not None:
        out[mirror] = out[mirror][:, :, ::-1]
    if upturn is not None:
        out[upturn] = out[upturn][:, ::-1]
    if affine is None:
        return out
    scale, shift = np.float32(affine.scale), np.float32(affine.shift)
    return out.astype(np.float32) * scale - shift


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_stored_images_are_finished_alike_with_and_without_the_core(channels, rng, monkeypatch):
    affine = Affine(tuple(rng.random(channels).tolist()), tuple(rng.normal(size=channels).tolist()))
    for height, width in [(1, 1), (3, 2), (2, 5), (5, 6), (4, 11), (30, 40)]:
        store = rng.integers(0, 256, (9, height, width, channels), dtype=np.uint8)
        places = rng.integers(0, 9, 13)
        for mirror, upturn, normalize in itertools.product(
            [None, rng.random(13) < 0.5], [None, rng.random(13) < 0.5], [None, affine]
        ):
            found, other = (
                np.empty((13, *store.shape[1:]), np.float32 if normalize else np.uint8) for _ in "ab"
            )
            finish_into(found, store, places, mirror, upturn, normalize)
            with monkeypatch.context() as patch:
                patch.setattr(native, "core", None)
                finish_into(other, store, places, mirror, upturn, normalize)
            np.testing.assert_array_equal(found, other)
            np.testing.assert_array_equal(found, oracle(store[places], mirror, upturn, normalize))


def test_random_numbers_are_those_of_the_operations(rng):
    seeds = rng.integers(-(2**63), 2**63 - 1, (1000, 2))
    seeds[:4] = [[0, 0], [-1, -1], [2**63 - 1, 2**63 - 1], [-(2**63), 0]]
    np.testing.assert_array_equal(draws.uniform(seeds, 5), image_ops.uniform(tf.constant(seeds), 5))
    flips = [FlipLeftRight(0.3), FlipUpDown(), FlipLeftRight(0.1), FlipUpDown(1.0), FlipUpDown(0.0)]
    for count, first in itertools.product(range(len(flips) + 1), [0, 3]):
        found = draws.flipped(flips[:count], seeds, first)
        expected = augment.flipped(flips[:count], tf.constant(seeds), first)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.zeros(0, bool) if one is None else one, other)


def test_what_the_core_does_not_know_is_left(rng):
    image = jpeg(rng, 24, 32)
    shape = (24, 32, 3)
    assert is_known(image, shape)
    assert is_known(image + b"\x00" * 9, shape)
    left = {
        "another size": jpeg(rng, 24, 33),
        "CMYK": encode(pixels(rng, 24, 32, "CMYK")),
        "PNG": encode(pixels(rng, 24, 32), "PNG"),
        "nothing": b"",
        "a marker": image[:2],
        "a header": image[:200],
        "no end": image[:-2],
        "more before the end": image[:-2] + b"\x55\x55\xff\xd9",
        "no tables": without(image, 0xDB),
        "a component too many": image.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x04"),
        "12 bits": image.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        "lossless": image.replace(b"\xff\xc0\x00\x11", b"\xff\xc3\x00\x11"),
    }
    for kind, one in left.items():
        assert one != image, kind
        assert not is_known(one, shape), kind
    assert not is_known(image, (24, 32, 1))  # its gray is in it, but TensorFlow's way there is not known here
    for height, width in [(0, 32), (24, 0), (65535, 65535), (65500, 65500), (65500, 32), (24, 65500)]:
        assert not is_known(relabel(image, height, width), shape, STRETCHED), (height, width)


def test_no_image_depends_on_those_before_it(rng):
    """libjpeg would use the tables of the last image where one has none of its own."""
    shape = (24, 32, 3)
    first, second = jpeg(rng, 24, 32, quality=10, optimize=True), jpeg(rng, 24, 32, quality=95)
    assert {0xDB, 0xC4} <= {marker for _, marker in segments(second)}
    assert not is_known(without(second, 0xDB), shape)
    with pytest.raises(LeftError):
        decoded([first, without(second, 0xDB)], shape, WHOLE)
    usual = without(second, 0xC4)  # the codes of annex K are taken for granted
    np.testing.assert_array_equal(
        decoded([first, usual], shape, WHOLE)[1], by_tensorflow(second, shape, WHOLE)
    )


def test_damaged_jpegs_are_left_or_tensorflows(rng):
    """Bits are flipped, bytes are lost."""
    count = 0
    for kind, image in kinds(rng, 33, 47):
        channels = 1 if "None" in kind else 3
        for _ in range(40):
            damaged = bytearray(image)
            at = int(rng.integers(2, len(damaged)))
            match int(rng.integers(3)):
                case 0:
                    damaged[at] ^= 1 << int(rng.integers(8))
                case 1:
                    del damaged[at : at + int(rng.integers(1, 9))]
                case 2:
                    del damaged[at:]
            for part in (WHOLE, MIDDLE):
                shape = (33, 47, channels) if part == WHOLE else (20, 21, channels)
                try:
                    found = decoded([bytes(damaged)], shape, part)[0]
                except LeftError:
                    continue
                count += 1
                try:
                    expected = by_tensorflow(bytes(damaged), shape, part)
                except tf.errors.InvalidArgumentError:
                    assert part != WHOLE, f"{kind} {at}"  # below a part nothing is looked at
                    continue
                np.testing.assert_array_equal(found, expected, f"{kind} {at}")
    assert count
