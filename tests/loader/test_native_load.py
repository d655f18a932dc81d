"""The same batches with the native core and without it; what it leaves to TensorFlow, and what nobody can decode."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from jpegs import SUBSAMPLINGS, encode, jpeg, pixels
from loader_data import deal, write_dataset
from pydantic import TypeAdapter

from loader import Packing, load, native
from loader import augment as A
from loader.images import decoders
from schemas.features import Feature
from schemas.packing import pack

pytestmark = pytest.mark.skipif(native.core is None, reason="the native core could not be built here")

HEIGHT, WIDTH = 40, 57
RECORDS = 32  # of `jpegs`
LABEL = {"type": "class_label", "names": ["a", "b"]}


def odd_ones(rng: np.random.Generator) -> dict[str, bytes]:
    """JPEGs that are TensorFlow's to decode."""
    return {
        "CMYK": encode(pixels(rng, HEIGHT, WIDTH, "CMYK")),
        "a warning": jpeg(rng, HEIGHT, WIDTH)[:-2] + b"\x55\xff\xd9",
    }


def dataset(directory: Path, images: list[bytes], feature: Mapping[str, Any], name: str = "toy") -> Path:
    records = [{"image": image, "label": k % 2} for k, image in enumerate(images)]
    features = {"image": {"type": "image", **feature}, "label": LABEL}
    return write_dataset(
        directory, features, {"train": deal(records, 2)}, name=name, label="label", index=["label"]
    )


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of one size, of every kind."""
    rng = np.random.default_rng(11)
    kinds = itertools.product([*SUBSAMPLINGS[:4], None], [False, True], range(3))
    images = [jpeg(rng, HEIGHT, WIDTH, s, progressive=p, quality=40 + 25 * k) for s, p, k in kinds]
    images += odd_ones(rng).values()
    assert len(images) == RECORDS
    feature = {"formats": ["jpeg"], "shape": [HEIGHT, WIDTH, 3]}
    return dataset(tmp_path_factory.mktemp("jpegs"), images, feature)


@pytest.fixture(scope="module")
def grays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of any size, one channel, JPEGs and PNGs; some JPEGs have colours."""
    rng = np.random.default_rng(12)
    images = []
    for k in range(33):
        height, width = (int(n) for n in rng.integers(20, 60, 2))
        if k % 3 == 0:
            images.append(encode(pixels(rng, height, width, "L"), "PNG"))
        else:
            images.append(jpeg(rng, height, width, None if k % 3 == 1 else "4:2:0"))
    return dataset(tmp_path_factory.mktemp("grays"), images, {"shape": [None, None, 1]})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Single numbers in two vectors."""
    rng = np.random.default_rng(13)
    features = {
        **{f"i{k}": {"type": "int64"} for k in range(5)},
        **{f"f{k}": {"type": "float32"} for k in range(4)},
        "flag": {"type": "bool"},
        "label": LABEL,
        "text": {"type": "text"},
        "pair": {"type": "float32", "shape": [2]},
    }
    vectors = pack(TypeAdapter(dict[str, Feature]).validate_python(features))
    records = [
        {
            "_int64": rng.integers(0, 2, len(vectors["_int64"])),
            "_float32": rng.normal(size=len(vectors["_float32"])).astype(np.float32),
            "text": f"row {k}",
            "pair": [k / 2, -k / 2],
        }
        for k in range(500)
    ]
    directory = write_dataset(
        tmp_path_factory.mktemp("packed"), features, {"train": deal(records, 3)}, label="label", index=[]
    )
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "packed": vectors}))
    return directory


def digests(directory: Any, split: str = "train", hosts: int = 1, **options: Any) -> list[str]:
    """What all hosts together get, to the last bit, of two epochs."""
    loaders = [load(directory, split, **options, process_count=hosts, process_index=k) for k in range(hosts)]
    found = []
    for _ in range(2):
        sha = hashlib.sha256()
        for elements in zip(*loaders, strict=True):
            for part in tf.nest.flatten(elements, expand_composites=True):
                values = part.numpy()
                text = isinstance(values, bytes) or values.dtype == object
                sha.update(repr((part.dtype, part.shape, np.array(values).tolist() if text else 0)).encode())
                sha.update(b"" if text else values.tobytes())
        found.append(sha.hexdigest())
    return found


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpegs": ("jpegs", {}),
    "jpegs, standard": ("jpegs", {"augment": True, "image_size": (24, 31)}),
    "jpegs, standard, normalised": ("jpegs", {"augment": "standard", "normalize": "imagenet"}),
    "jpegs, strong, hosts": ("jpegs", {"augment": "strong", "image_size": 24, "hosts": 2, "with_ids": True}),
    "jpegs, light": ("jpegs", {"augment": "light", "image_size": 24, "resize": "stretch"}),
    "jpegs, flips, padded batches": (
        "jpegs",
        {
            "augment": [A.FlipUpDown(), A.FlipLeftRight(0.3), A.FlipUpDown(0.2)],
            "normalize": (0.4, (0.1, 0.2, 0.3)),
            "last_batch": "pad",
            "hosts": 4,
        },
    ),
    "jpegs, one by one": ("jpegs", {"augment": True, "normalize": "unit", "batch_size": None}),
    "jpegs, centre, dropped": ("jpegs", {"resize": "center", "image_size": (30, 57), "last_batch": "drop"}),
    "jpegs, padded": ("jpegs", {"resize": "pad", "image_size": 64, "normalize": "signed"}),
    "jpegs, cached": ("jpegs", {"cache": "memory", "augment": A.FlipLeftRight(), "normalize": "unit"}),
    "jpegs, cached as stored": (
        "jpegs",
        {"cache": "memory", "cache_as": "encoded", "augment": True, "image_size": 24},
    ),
    "jpegs, cached, then cropped": ("jpegs", {"cache": "memory", "augment": True, "image_size": 24}),
    "grays": ("grays", {"image_size": (20, 33), "augment": A.FlipUpDown()}),
    "grays, cropped": ("grays", {"image_size": (20, 33), "augment": "standard", "normalize": "signed"}),
    "grays, cached": ("grays", {"image_size": 16, "resize": "stretch", "cache": "memory", "hosts": 2}),
    "photos": ("photos", {"image_size": 24, "normalize": "imagenet", "augment": "standard"}),
    "PNGs": ("cells", {"augment": "standard", "normalize": "signed"}),
    "PNGs, cached": ("cells", {"augment": [A.FlipLeftRight(), A.FlipUpDown()], "cache": "memory"}),
    "packed table": ("packed", {"one_hot": True, "batch_size": 64, "hosts": 2}),
    "packed table, some features": ("packed", {"features": ["i3", "f1", "text"], "cache": "memory"}),
}


def differs(directory: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """What comes with the core; an error if that is not what comes without it."""
    found = digests(directory, **options)
    with monkeypatch.context() as patch:
        patch.setattr(native, "core", None)
        assert digests(directory, **options) == found
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_same_batches_with_and_without_the_core(case, request, monkeypatch):
    name, options = CASES[case]
    directory = request.getfixturevalue(name)
    options = {"batch_size": 16, "seed": 5, "shuffle": True, **options}
    first, second = differs(directory, monkeypatch, **options)
    assert first != second


def test_a_mixture_is_the_same(jpegs, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    feature = {"formats": ["jpeg"], "shape": [HEIGHT, WIDTH, 3]}
    other = dataset(tmp_path, [jpeg(rng, HEIGHT, WIDTH) for _ in range(9)], feature, "other")
    differs(
        [jpegs, other],
        monkeypatch,
        weights=[3, 1],
        batch_size=16,
        augment="standard",
        normalize="unit",
        with_ids=True,
    )


def test_rows_of_several_lists_are_the_same(table, monkeypatch):
    """Lists of any length are TensorFlow's to parse."""
    differs(table, monkeypatch, sequences=Packing("words", 16), batch_size=16)
    differs(table, monkeypatch, features=["number", "vector", "flag", "text", "raw"], batch_size=50)


@pytest.mark.parametrize("last", ["keep", "pad"])
def test_damaged_records_are_skipped_alike(jpegs, tmp_path, monkeypatch, last):
    copy = Path(shutil.copytree(jpegs, tmp_path / "copy"))
    shard = next(copy.glob("*.tfrecord-00000*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 16
    shard.write_bytes(data)
    options = {"batch_size": 8, "on_corrupt": "skip", "last_batch": last, "with_ids": True}
    for cache in (None, "memory"):
        differs(copy, monkeypatch, augment="standard", image_size=24, cache=cache, **options)
    found = {int(x["example_id"]) for x, *_ in load(copy, **options).unbatch()}
    assert len(found & set(range(RECORDS))) == RECORDS - 1


def pixels_by_tensorflow(image: bytes) -> np.ndarray:
    return tf.io.decode_image(image, 3, expand_animations=False).numpy()


@pytest.mark.parametrize("formats", [["jpeg"], ["jpeg", "png"]])
@pytest.mark.parametrize("options", [{}, {"cache": "memory"}, {"batch_size": 3}])
def test_what_the_core_does_not_know_comes_from_tensorflow(formats, options, tmp_path, rng):
    images = [jpeg(rng, HEIGHT, WIDTH)]
    for image in odd_ones(rng).values():
        images += [image, jpeg(rng, HEIGHT, WIDTH, "4:4:4")]
    if "png" in formats:
        images.append(encode(pixels(rng, HEIGHT, WIDTH), "PNG"))
    directory = dataset(tmp_path, images, {"formats": formats, "shape": [HEIGHT, WIDTH, 3]})
    loaded = load(directory, shuffle=False, **options)
    rows = loaded.unbatch() if "batch_size" in options else loaded
    for (found, _), image in zip(rows, images, strict=True):
        np.testing.assert_array_equal(found, pixels_by_tensorflow(image))


BAD_IMAGES = {
    "truncated": (
        lambda rng: jpeg(rng, HEIGHT, WIDTH)[:-200],
        r"jpeg::Uncompress failed\. Invalid JPEG data",
    ),
    "without its end": (
        lambda rng: jpeg(rng, HEIGHT, WIDTH)[:-2],
        r"jpeg::Uncompress failed\. Invalid JPEG data",
    ),
    "of another size": (
        lambda rng: jpeg(rng, WIDTH, HEIGHT),
        rf"\[{WIDTH},{HEIGHT},3\] is not compatible with expected shape \[{HEIGHT},{WIDTH},3\]",
    ),
    "no image": (lambda rng: b"this is no image at all", r"Unknown image file format"),
    "empty": (lambda rng: b"", r"Input is empty"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.parametrize("cache", [None, "memory"])
def test_what_nobody_can_decode_is_named(kind, cache, tmp_path, rng):
    make, reason = BAD_IMAGES[kind]
    images = [jpeg(rng, HEIGHT, WIDTH) for _ in range(9)]
    images[5], images[2] = make(rng), odd_ones(rng)["CMYK"]
    directory = dataset(tmp_path, images, {"formats": ["jpeg"], "shape": [HEIGHT, WIDTH, 3]})
    with pytest.raises(
        tf.errors.OpError,
        match=rf"(?s)HeadraceError: An image cannot be decoded\..*toy 1\.0\.0, train, seed 0, record 5, feature 'image'"
        rf"\s+value: +[^\n]*{reason}.*check: decode",
    ):
        list(load(directory, batch_size=4, shuffle=False, cache=cache))


def test_the_core_is_used(jpegs, grays, cells, photos):
    """What these tests compare are two things."""
    for directory, cache, expected in [
        (jpegs, None, {"image"}),
        (cells, None, set()),
        (cells, "memory", {"image"}),
    ]:
        recipe = load(directory, cache=cache, batch_size=4)._recipe
        assert set(decoders(recipe)) == expected
    for directory in (grays, photos):
        assert set(decoders(load(directory, image_size=9, batch_size=4)._recipe)) == {"image"}
