"""The last pass over a batch: NumPy as the oracle, and the same values on every way through load."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from loader import augment as A
from loader import load
from loader.augment import apply, flipped, split
from loader.buffers import Buffers
from loader.finish import Finisher, affines
from loader.finished import normalized
from schemas import HeadraceError

SEEDS = tf.constant([[5, i] for i in range(32)], tf.int64)
IMAGENET = affines("imagenet", {"image": 3})["image"]


def photos_of(count: int, size: tuple[int, int] = (30, 40), channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, *size, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (30, 40), (300, 301)])
@pytest.mark.parametrize("normalize", [None, (0.4, 0.2)])
def test_batches_are_finished_as_numpy_would(size, channels, normalize):
    images = photos_of(7, size, channels)
    mirror, upturn = (np.random.default_rng(k).random(7) < 0.5 for k in (1, 2))
    affine = affines(normalize, {"i": channels}).get("i")
    expected = images.copy()
    expected[mirror] = expected[mirror][:, :, ::-1]
    expected[upturn] = expected[upturn][:, ::-1]
    out = Finisher()(images, mirror, upturn, affine)
    if affine is None:
        np.testing.assert_array_equal(out, expected)
    else:
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, (expected / 255 - 0.4) / 0.2, atol=1e-5)
    none = np.zeros(0, bool)
    np.testing.assert_array_equal(
        Finisher()(images, none, none, affine), Finisher()(images, mirror & False, none, affine)
    )


def test_flips_left_to_the_batch_are_those_of_single_examples():
    images = photos_of(32)
    ops = [A.FlipLeftRight(0.7), A.FlipUpDown(), A.FlipLeftRight(0.4)]
    single, flips, own = split([A.RandomResizedCrop((30, 40)), *ops, A.MixUp()], batched=True)
    assert (single, flips, own) == ((A.RandomResizedCrop((30, 40)),), tuple(ops), (A.MixUp(),))
    assert split([*ops, A.MixUp()], batched=False) == (tuple(ops), (), (A.MixUp(),))
    mirror, upturn = (flags.numpy() for flags in flipped(flips, SEEDS, first=1))
    out = Finisher()(images, mirror, upturn, None)
    for image, seed, found in zip(images, SEEDS, out, strict=True):
        np.testing.assert_array_equal(apply(ops, {"i": tf.constant(image)}, seed, first=1)["i"], found)


def test_memory_is_used_again_only_when_nobody_holds_it():
    buffers = Buffers()
    held = buffers.take((4, 5), np.dtype(np.float32))
    held[:] = 1
    part = held[1:, 2:]
    del held
    other = buffers.take((4, 5), np.dtype(np.float32))
    other[:] = 2
    assert (part == 1).all()
    assert other.ctypes.data % 64 == 0
    place = other.ctypes.data
    del other
    assert buffers.take((3, 5), np.dtype(np.float32)).ctypes.data == place


def test_batches_that_are_kept_do_not_change(photos):
    options = {"features": "image", "image_size": 24, "batch_size": 8, "augment": True, "normalize": "unit"}
    kept = [images for images, _ in load(photos, **options)]
    shared = [images.__array__() for images, _ in load(photos, **options)]
    for a, b, (images, _) in zip(kept, shared, load(photos, **options), strict=True):
        np.testing.assert_array_equal(a, images)
        np.testing.assert_array_equal(b, images)


@pytest.mark.parametrize("cache", [None, "memory"])
@pytest.mark.parametrize("split_name", ["train", "validation"])
def test_normalised_is_the_same_values_in_training_or_not_in_batches_or_not(photos, split_name, cache):
    options = {"features": "image", "image_size": 24, "augment": A.FlipLeftRight(), "cache": cache}
    plain = [image.numpy() for image, _ in load(photos, split_name, **options)]
    singles = [image.numpy() for image, _ in load(photos, split_name, normalize="imagenet", **options)]
    batches = load(photos, split_name, batch_size=16, normalize="imagenet", **options)
    for image, single, found in zip(plain, singles, (i for b, _ in batches for i in b.numpy()), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(single, found)
        expected = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_example_and_a_batch_are_normalised_to_the_last_bit_alike():
    images = photos_of(4)
    none = np.zeros(0, bool)
    batch = Finisher()(images, none, none, IMAGENET)
    for image, found in zip(images, batch, strict=True):
        single = tf.function(lambda image: normalized({"i": image}, {"i": IMAGENET})["i"])(tf.constant(image))
        np.testing.assert_array_equal(single, found)


def test_presets_and_what_is_left_out():
    found = affines({"photo": "signed"}, {"photo": 3, "mask": 1})
    assert list(found) == ["photo"]
    ends = np.array([0, 255]).reshape(1, 1, 2, 1).repeat(3, axis=3).astype(np.uint8)
    none = np.zeros(0, bool)
    np.testing.assert_allclose(Finisher()(ends, none, none, found["photo"])[0, 0, :, 0], [-1, 1], atol=1e-6)
    unit = affines("unit", {"photo": 3})["photo"]
    np.testing.assert_allclose(Finisher()(ends, none, none, unit)[0, 0, :, 0], [0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        ("imagnet", r"(?s)no normalisation of this name.*imagenet, signed, unit"),
        ({"picture": "unit"}, r"(?s)Only images can be normalised.*image"),
        ((0.5, 0.0), r"(?s)cannot be normalised so.*std above 0"),
        (((0.5, 0.5), 0.1), r"(?s)cannot be normalised so.*3 channels"),
        (0.5, r"cannot be normalised so"),
    ],
)
def test_wrong_normalisation(photos, normalize, message):
    with pytest.raises(HeadraceError, match=message):
        load(photos, features="image", image_size=24, batch_size=4, normalize=normalize)
