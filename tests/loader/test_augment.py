"""Every operation: eagerly and inside tf.data, in range, reproducible, and doing what it says."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from loader import augment as A
from loader import load
from loader.augment import apply, resolve
from loader.image_ops import uniform
from schemas import HeadraceError

SEEDS = tf.constant([[5, i] for i in range(64)], tf.int64)
OPS = {
    "crop": A.RandomResizedCrop(size=(20, 24)),
    "left_right": A.FlipLeftRight(),
    "up_down": A.FlipUpDown(),
    "jitter": A.ColorJitter(0.5, 0.5, 0.5, 0.2),
    "brightness": A.Brightness(0.5),
    "contrast": A.Contrast(0.5),
    "saturation": A.Saturation(0.5),
    "hue": A.Hue(0.3),
    "rotation": A.Rotation(40),
    "rotation_black": A.Rotation(40, fill="constant"),
    "translate": A.Translate(0.3, 0.3),
    "translate_black": A.Translate(0.3, 0.3, fill="constant"),
}


def photo(channels: int = 3, size: tuple[int, int] = (30, 40)) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).integers(0, 256, (*size, channels), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", OPS)
def test_operation_eagerly_and_in_a_parallel_map(name, channels):
    op, image = OPS[name], photo(channels)
    eager = [apply([op], {"image": image, "x": tf.constant(1)}, seed)["image"].numpy() for seed in SEEDS]

    def one(seed):
        return apply([op], {"image": image, "x": tf.constant(1)}, seed)["image"]

    mapped = [
        v.numpy()
        for v in tf.data.Dataset.from_tensor_slices(SEEDS).map(one, num_parallel_calls=8, deterministic=True)
    ]
    for a, b in zip(eager, mapped, strict=True):
        # Graphs may fuse float operations: the last bit before rounding may differ, nothing else.
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
        assert a.dtype == np.uint8
        assert a.shape == ((20, 24, channels) if name == "crop" else (30, 40, channels))
    kinds = {v.tobytes() for v in eager}
    colourless = channels == 1 and name in ("saturation", "hue")
    assert len(kinds) == (1 if colourless else 2 if name in ("left_right", "up_down") else len(kinds))
    assert colourless or len(kinds) > 1


@pytest.mark.parametrize("name", OPS)
def test_same_seed_same_result(name):
    results = {apply([OPS[name]], {"i": photo()}, SEEDS[3])["i"].numpy().tobytes() for _ in range(3)}
    assert len(results) == 1


def test_all_images_of_an_example_change_alike_and_nothing_else_changes():
    features = {"photo": photo(), "mask": photo(), "vector": tf.range(3)}
    out = apply([OPS["rotation"], OPS["left_right"], OPS["crop"]], features, SEEDS[0])
    np.testing.assert_array_equal(out["photo"], out["mask"])
    np.testing.assert_array_equal(out["vector"], [0, 1, 2])


def test_flips_flip_half_of_the_time():
    image = photo()
    flipped = [np.array_equal(OPS["left_right"]({"i": image}, s)["i"], image.numpy()[:, ::-1]) for s in SEEDS]
    assert 16 <= sum(flipped) <= 48
    up = [np.array_equal(A.FlipUpDown(1.0)({"i": image}, s)["i"], image.numpy()[::-1]) for s in SEEDS]
    assert all(up)


def test_crops_keep_to_scale_and_ratio():
    op = A.RandomResizedCrop(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    boxes = np.array([[int(v) for v in op.box(300, 400, seed)] for seed in SEEDS])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    share = height * width / (300 * 400)
    assert share.min() >= 0.19
    assert share.max() <= 0.61
    assert (width / height).min() >= 0.48
    assert (width / height).max() <= 2.05
    assert share.max() - share.min() > 0.2


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 2)])
def test_tiny_images_survive_everything(size):
    ops = [op for name, op in OPS.items() if name != "crop"]
    assert apply([*ops, OPS["crop"]], {"i": photo(3, size)}, SEEDS[0])["i"].shape == (20, 24, 3)


def test_brightness_multiplies_and_contrast_stretches():
    gray = tf.fill([4, 4, 3], np.uint8(100))
    values = [int(apply([A.Brightness(0.5)], {"i": gray}, s)["i"][0, 0, 0]) for s in SEEDS]
    assert 50 <= min(values) < 65
    assert 135 < max(values) <= 150
    assert all(np.array_equal(apply([A.Contrast(0.5)], {"i": gray}, s)["i"], gray) for s in SEEDS[:5])


def test_rotation_by_nothing_and_translation_by_whole_pixels():
    np.testing.assert_array_equal(apply([A.Rotation(0.0)], {"i": photo()}, SEEDS[0])["i"], photo())
    image, out = (
        photo().numpy(),
        apply([A.Translate(0.2, 0.0, "constant")], {"i": photo()}, SEEDS[1])["i"].numpy(),
    )
    shifts = [k for k in range(-6, 7) if np.array_equal(np.roll(image, k, 0)[6:-6], out[6:-6])]
    assert len(shifts) == 1
    assert shifts[0] != 0


def test_users_functions_get_uint8_and_may_return_anything():
    seen = []

    def normalise(features, seed):
        seen.append((features["i"].dtype, seed.shape))
        return {**features, "i": tf.cast(features["i"], tf.float32) / 127.5 - 1}

    out = apply([OPS["jitter"], normalise], {"i": photo()}, SEEDS[0])["i"]
    assert seen == [(tf.uint8, (2,))]
    assert out.dtype == tf.float32
    assert float(tf.reduce_max(tf.abs(out))) <= 1


def test_operations_draw_independently():
    twice = [
        [np.array_equal(apply([op], {"i": photo()}, s, first=place)["i"], photo()) for s in SEEDS]
        for place, op in enumerate([A.FlipLeftRight()] * 2)
    ]
    assert twice[0] != twice[1]


def test_numbers_are_those_of_splitmix_one_by_one_or_all_together():
    def number(first: int, second: int, j: int) -> float:
        mask = (1 << 64) - 1
        x = (first + (second * 0x9E3779B97F4A7C15 | 1) * (j + 1)) & mask
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return ((x ^ x >> 31) >> 40) / 2**24

    seeds = np.random.default_rng(4).integers(-(2**63), 2**63 - 1, (50, 2))
    together = uniform(tf.constant(seeds), 3).numpy()
    np.testing.assert_array_equal(together, [[number(int(a), int(b), j) for j in range(3)] for a, b in seeds])
    np.testing.assert_array_equal(together[7], uniform(tf.constant(seeds[7]), 3))
    pinned = uniform(tf.constant([3, 4], tf.int64), 3) * 2**24
    assert pinned.numpy().tolist() == [8250603, 8574860, 8356420]


@pytest.mark.parametrize("along", [0, 1])
def test_numbers_of_neighbouring_seeds_and_places_are_independent(along):
    """Seeds that differ by one in either half, as those of neighbouring places do."""
    seeds = np.zeros((40_000, 2), np.int64)
    seeds[:, along] = np.arange(len(seeds))
    drawn = uniform(tf.constant(seeds), 4).numpy().astype(float)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    series = [*drawn.T, drawn[:-1, 0], drawn[1:, 0]]
    pairs = [(series[i], series[j]) for i in range(4) for j in range(i)] + [(series[4], series[5])]
    # Six standard errors of a correlation, and of the counts of a histogram.
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs) < 6 / 200
    for column in drawn.T:
        counts = np.histogram(column, 64, (0, 1))[0]
        assert ((counts - 625) ** 2 / 625).sum() < 63 + 6 * np.sqrt(126)


def batch(n: int = 8, classes: int = 4) -> dict[str, tf.Tensor]:
    images = tf.stack([tf.fill([20, 20, 3], np.uint8(10 * i % 256)) for i in range(n)])
    return {"image": images, "label": tf.range(n, dtype=tf.int64) % classes}


def mixing(kind, **options):
    return kind(label="label", classes=4, **options)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
@pytest.mark.parametrize("kind", [A.MixUp, A.CutMix])
def test_labels_are_mixed_as_the_images_are(kind, n):
    """Each image is one grey, so its mean says how much of the neighbour is in it."""
    given = batch(n)
    out = apply([mixing(kind, alpha=1.0)], given, SEEDS[:n])
    assert out["image"].dtype == tf.uint8
    assert out["label"].shape == (n, 4)
    for i in range(n):
        j = min(i ^ 1, n - 1)
        weights = out["label"][i].numpy()
        np.testing.assert_allclose(weights.sum(), 1, atol=1e-5)
        if i == j:
            assert weights[i % 4] == pytest.approx(1)
            continue
        mean = out["image"][i].numpy().astype(float).mean()
        keep = (mean - 10 * j) / (10 * i - 10 * j)
        assert weights[i % 4] == pytest.approx(keep, abs=0.06 if kind is A.MixUp else 1e-5)
        assert weights[j % 4] == pytest.approx(1 - keep, abs=0.06 if kind is A.MixUp else 1e-5)


@pytest.mark.parametrize("kind", [A.MixUp, A.CutMix])
def test_mixing_by_chance_and_of_number_labels(kind):
    given = batch(64, 4)
    never = apply([mixing(kind, probability=0.0)], given, SEEDS)
    np.testing.assert_array_equal(never["image"], given["image"])
    half = apply([mixing(kind, alpha=1.0, probability=0.5)], given, SEEDS)["label"].numpy()
    assert 16 <= (half.max(1) < 1).sum() <= 48
    given["label"] = tf.range(64, dtype=tf.float32)
    mixed = apply([kind(label="label", alpha=1.0)], given, SEEDS)["label"]
    assert mixed.shape == (64,)
    assert mixed[0] > 0


def test_shares_kept_are_of_the_beta_distribution():
    seeds = tf.constant([[i, -i] for i in range(2000)], tf.int64)
    images = tf.zeros([2000, 1, 1, 1], tf.uint8)
    labels = tf.constant([0, 1] * 1000, tf.int64)
    op = A.MixUp(alpha=0.4, label="label", classes=2)
    keep = tf.function(lambda: apply([op], {"i": images, "label": labels}, seeds)["label"])().numpy()
    keep = np.where(labels.numpy() == 0, keep[:, 0], keep[:, 1])
    assert keep.mean() == pytest.approx(0.5, abs=0.05)
    assert keep.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)


def test_loading_with_mixing_gives_soft_labels(photos):
    for features, label in load(photos, features="image", image_size=24, batch_size=16, augment="strong"):
        assert features.dtype == tf.uint8
        assert label.shape[1:] == (4,)
        np.testing.assert_allclose(tf.reduce_sum(label, 1), 1, atol=1e-5)
    _, label = next(
        iter(load(photos, "validation", features="image", image_size=24, batch_size=16, augment="strong"))
    )
    assert label.dtype == tf.int64


def test_users_function_in_load_sees_the_seed_of_its_example(photos):
    def note(features, seed):
        return {**features, "seed": seed}

    def seeds(**options):
        dataset = load(photos, features="label", label=False, with_ids=True, augment=note, **options)
        return {int(f["example_id"]): tuple(f["seed"].numpy()) for f in dataset}

    first = seeds()
    assert len(set(first.values())) == len(first) == 103
    assert seeds() == seeds(shuffle=False) == first
    assert set(seeds(state=load(photos, features="label", label=False).state(103)).values()).isdisjoint(
        first.values()
    )
    assert set(seeds(seed=1).values()).isdisjoint(first.values())


@pytest.mark.parametrize("wrong", ["standart", "no such thing"])
def test_unknown_preset(wrong):
    with pytest.raises(HeadraceError, match=r"(?s)no augmentation of this name.*light, standard, strong"):
        resolve(wrong)


def test_wrong_lists():
    with pytest.raises(HeadraceError, match=r"(?s)must be callable.*augment\[0\].*Write FlipLeftRight\(\)"):
        resolve([A.FlipLeftRight])
    with pytest.raises(HeadraceError, match=r"(?s)come before those on batches.*augment\[1\]"):
        resolve([A.MixUp(), A.FlipLeftRight()])
    with pytest.raises(HeadraceError, match=r"(?s)must be callable.*augment\[1\]"):
        resolve([A.FlipLeftRight(), 3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: A.RandomResizedCrop(scale=(0.5, 0.1)), "RandomResizedCrop got a value out of range"),
        (lambda: A.RandomResizedCrop(scale=(0, 0.1)), r"(?s)scale.*\(0, 0\.1\).*\[1e-06, 1\]"),
        (lambda: A.FlipLeftRight(1.5), r"(?s)probability.*1\.5.*\[0, 1\]"),
        (lambda: A.ColorJitter(hue=0.6), r"(?s)hue.*\[0, 0\.5\]"),
        (lambda: A.MixUp(alpha=0), "alpha"),
        (lambda: A.Rotation(fill="pink"), r"(?s)does not know this fill.*reflect, constant"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(HeadraceError, match=message):
        make()


def test_mixing_numbers_without_classes_is_refused():
    with pytest.raises(HeadraceError, match=r"(?s)only be mixed as classes.*class_label"):
        apply([A.MixUp(label="label")], batch(), SEEDS[:8])
