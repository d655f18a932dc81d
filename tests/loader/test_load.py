"""What `load` yields: every record once, the order and the values a function of seed and epoch, the right types."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import loader
from loader import load

RECORDS = 103


def ids(dataset: tf.data.Dataset) -> list[int]:
    found = []
    for element in dataset:
        features = element[0] if isinstance(element, tuple) else element
        found += np.atleast_1d(features["example_id"].numpy()).tolist()
    return found


def digest(dataset: tf.data.Dataset) -> str:
    """Of every byte in order."""
    sha = hashlib.sha256()
    for element in dataset:
        for part in tf.nest.flatten(element, expand_composites=True):
            value = part.numpy()
            sha.update(repr((value.dtype, value.shape)).encode())
            sha.update(value.tobytes() if value.dtype != object else repr(value.tolist()).encode())
    return sha.hexdigest()


def test_exports_are_complete_and_sorted():
    assert loader.__all__ == sorted(loader.__all__)
    assert all(getattr(loader, name).__doc__ for name in loader.__all__)


def test_training_is_shuffled_and_other_splits_come_as_stored(photos):
    train, validation = (load(photos, split, with_ids=True) for split in ("train", "validation"))
    order = ids(train)
    assert sorted(order) == list(range(RECORDS))
    assert order != sorted(order)
    assert ids(validation) == list(range(21))
    assert ids(load(photos, "train", shuffle=False, with_ids=True)) == list(range(RECORDS))
    assert sorted(ids(load(photos, "validation", training=True, with_ids=True))) == list(range(21))


@pytest.mark.parametrize("batch_size", [1, 8, 103, 200])
@pytest.mark.parametrize("drop", [False, True])
def test_cardinality_and_shapes(photos, batch_size, drop):
    dataset = load(
        photos,
        "train",
        batch_size=batch_size,
        image_size=(20, 24),
        last_batch="drop" if drop else "keep",
        with_ids=True,
    )
    features, label = dataset.element_spec
    first = batch_size if drop else None
    assert features["image"].shape.as_list() == [first, 20, 24, 3]
    assert label.shape.as_list() == [first]
    batches = [x["example_id"].shape[0] for x, _ in dataset]
    assert len(batches) == len(dataset)
    assert sum(batches) == (RECORDS // batch_size * batch_size if drop else RECORDS)


def test_an_empty_split_is_empty(photos):
    dataset = load(photos, "empty", batch_size=4, image_size=16)
    assert len(dataset) == 0
    assert list(dataset) == []


def test_each_iteration_is_the_next_epoch(photos):
    dataset = load(photos, with_ids=True, seed=5)
    first, second = ids(dataset), ids(dataset)
    assert sorted(first) == sorted(second)
    assert first != second
    again = load(photos, with_ids=True, seed=5)
    assert [ids(again), ids(again)] == [first, second]
    assert ids(load(photos, with_ids=True, seed=5, state=again.state(RECORDS))) == second
    assert ids(load(photos, with_ids=True, seed=6)) != first


def test_repeat_gives_the_same_epochs_without_end_and_never_mixes_two(photos):
    single = load(photos, with_ids=True, batch_size=10, image_size=16)
    epochs = [ids(single) for _ in range(3)]
    three = load(photos, with_ids=True, batch_size=10, image_size=16, repeat=3)
    assert len(three) == 33
    assert ids(three) == [i for epoch in epochs for i in epoch]
    endless = load(photos, with_ids=True, batch_size=10, image_size=16, repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    assert ids(endless.take(22)) == epochs[0] + epochs[1]
    assert [x["example_id"].shape[0] for x, _ in endless.take(11)] == [10] * 10 + [3]


@pytest.mark.parametrize("augment", [True, "light", "strong"])
def test_values_are_the_same_for_any_parallelism(photos, augment):
    def run(**options):
        return digest(
            load(
                photos,
                batch_size=16,
                image_size=24,
                augment=augment,
                seed=3,
                with_ids=True,
                repeat=2,
                **options,
            )
        )

    reference = run(num_parallel_calls=1, threads=1, prefetch=0)
    assert run() == reference
    assert run(num_parallel_calls=16, threads=4, prefetch=4) == reference
    assert run(num_parallel_calls=tf.data.AUTOTUNE, prefetch=tf.data.AUTOTUNE) == reference


def test_values_are_the_same_in_another_process(photos):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_load import digest; from loader import load;"
        "print(digest(load(sys.argv[1], batch_size=16, image_size=24, augment='strong', seed=3)))"
    )
    here = str(__import__("pathlib").Path(__file__).parent)
    found = subprocess.run(
        [sys.executable, "-c", code, str(photos), here],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert found.stdout.split()[-1] == digest(
        load(photos, batch_size=16, image_size=24, augment="strong", seed=3)
    )


def test_epochs_are_augmented_afresh(cells):
    dataset = load(cells, shuffle=False, augment=True)
    first, second = (np.stack([x.numpy() for x, _ in dataset]) for _ in range(2))
    assert (first != second).any(axis=(1, 2, 3)).mean() > 0.9


def test_one_feature_beside_the_label_comes_bare(cells, photos):
    image, label = load(cells, "validation", batch_size=4).element_spec
    assert image == tf.TensorSpec([None, 30, 30, 1], tf.uint8)
    assert label == tf.TensorSpec([None], tf.int64)
    image, label = load(photos, features="image", image_size=16, batch_size=4).element_spec
    assert image.shape.as_list() == [None, 16, 16, 3]
    features, _ = load(photos).element_spec
    assert sorted(features) == ["image", "name"]


def test_label_named_or_none(photos, table):
    features, label = load(photos, label="name").element_spec
    assert sorted(features) == ["image", "label"]
    assert label.dtype == tf.string
    assert sorted(load(photos, label=False).element_spec) == ["image", "label", "name"]
    assert isinstance(load(table).element_spec, dict)


def test_one_hot(photos):
    _, label = next(iter(load(photos, "validation", features="name", one_hot=True, batch_size=5)))
    np.testing.assert_array_equal(label, np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]])


@pytest.mark.parametrize("cache", [None, "memory", "disk"])
@pytest.mark.parametrize("batch_size", [None, 64])
def test_every_type_comes_back(table, tmp_path, batch_size, cache):
    dataset = load(table, batch_size=batch_size, with_ids=True, cache=cache, cache_dir=tmp_path, seed=1)
    for _ in range(2):
        seen = []
        for element in dataset if batch_size is None else dataset.unbatch():
            i = int(element["example_id"])
            seen.append(i)
            assert element["number"].numpy() == i
            assert element["vector"].numpy().tolist() == [i * 0.5, -i * 0.5, 1.0]
            assert element["words"].numpy().tolist() == list(range(i % 5))
            assert element["flag"].numpy() == bool(i % 2)
            assert element["text"].numpy().decode() == f"row {i} é"
            assert element["raw"].numpy() == b"\x00\xff" * (i % 7)
            assert element["price"].numpy() == i
        assert sorted(seen) == list(range(2000))


def test_small_records_are_shuffled_over_blocks(table):
    order = ids(load(table, features=["number"], with_ids=True, batch_size=200))
    assert sorted(order) == list(range(2000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(2000)


def test_ragged_lists_are_ragged_tensors(table):
    assert isinstance(load(table, batch_size=4).element_spec["words"], tf.RaggedTensorSpec)


def test_images_decode_to_what_tensorflow_decodes(photos):
    raw = {}
    for path in sorted(photos.glob("*-validation.tfrecord*")):
        for record in tf.data.TFRecordDataset(str(path)):
            parsed = tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})
            raw[len(raw)] = parsed["image"]
    for features, _ in load(photos, "validation", with_ids=True):
        expected = tf.io.decode_image(raw[int(features["example_id"])], 3)
        np.testing.assert_array_equal(features["image"], expected)


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad", "center"])
@pytest.mark.parametrize("size", [(20, 24), (64, 64), (100, 30)])
def test_processing_to_a_size(photos, resize, size):
    """Against the same done plainly in float arithmetic on the whole image."""
    plain = load(photos, "validation", features="image")
    sized = load(photos, "validation", features="image", image_size=size, resize=resize)
    for (whole, _), (made, _) in zip(plain, sized, strict=True):
        height, width = whole.shape[:2]
        image = tf.cast(whole, tf.float32)
        if resize == "crop":
            h = min(height, int(width * size[0] / size[1] + 0.5))
            w = min(width, int(height * size[1] / size[0] + 0.5))
            top, left = (height - h) // 2, (width - w) // 2
            image = image[top : top + h, left : left + w]
        if resize == "center":
            expected = tf.image.resize_with_crop_or_pad(image, *size)
        elif resize == "pad":
            expected = tf.image.resize_with_pad(image, *size)
        else:
            expected = tf.image.resize(image, size)
        # A JPEG's outermost column can differ by its missing neighbours when only the crop is decoded.
        difference = np.abs(made.numpy().astype(float) - np.round(expected))
        assert np.mean(difference) < 1.0, (height, width)
        assert made.shape[:2] == size


def test_options_of_tf_data_compose(photos):
    dataset = (
        load(photos, "validation", features="image", image_size=8).map(lambda x, y: (x / 255, y)).batch(5)
    )
    assert next(iter(dataset))[0].shape == (5, 8, 8, 3)


def test_keras_trains_on_it(cells):
    import keras

    model = keras.Sequential(
        [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    train = load(cells, "train", batch_size=16, augment=True)
    history = model.fit(
        train,
        validation_data=load(cells, "validation", batch_size=16),
        epochs=2,
        verbose=0,
        shuffle=False,
    )
    assert len(history.history["val_loss"]) == 2
    assert train.stats()["wait"]["steps"] == 2 * 7
