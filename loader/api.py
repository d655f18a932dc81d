"""`load`: checks what the user asked for and makes the recipe of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from loader import augment as augmentation
from loader.augment import Augment, AugmentFn, RandomResizedCrop
from loader.cache import CACHES, Cache, Column, disk_cache, memory_cache
from loader.cached import columns_of
from loader.checks import check_count, check_name, check_size
from loader.dataset import Split, open_split
from loader.decode import RESIZES
from loader.pipeline import Recipe, build
from loader.plan import make_plan
from loader.read import CachedReader, Reader
from schemas import HeadraceError, Manifest
from schemas.features import BoolFeature, ClassLabelFeature, Feature, ImageFeature

Size = tuple[int, int]


def load(
    directory: str | Path,
    split: str = "train",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    features: str | Sequence[str] | None = None,
    label: str | bool = True,
    one_hot: bool = False,
    with_ids: bool = False,
    image_size: int | Size | None = None,
    resize: str = "crop",
    augment: Augment = None,
    training: bool | None = None,
    shuffle: bool | None = None,
    repeat: bool | int = False,
    first_epoch: int = 0,
    drop_remainder: bool = False,
    cache: str | None = None,
    cache_dir: str | Path | None = None,
    num_parallel_calls: int | None = None,
    threads: int | None = None,
    prefetch: int = 2,
) -> tf.data.Dataset:
    """One split of a prepared data set, ready for `model.fit`.

    Every epoch holds every record exactly once (but see `drop_remainder`), in an order, and with an augmentation,
    that depend on the data set, `seed` and the epoch's number, and on nothing else: not on threads, machines or
    earlier runs. Iterating again gives the next epoch, as with tf.data's own `shuffle`.

    Elements are `(features, label)` where the data set has a label, else a dict. Features are a dict of tensors by
    name, or the tensor itself where there is only one besides the label. With a batch in front:

      image                uint8 (height, width, channels), 0 … 255
      class_label, int64   int64 ()         · a vector (n,) · a list of any length: RaggedTensor (batch, None)
      float32              float32 ()       · the same
      bool                 bool ()
      text, bytes          string ()

    Args:
      directory: of one version, such as out/elpv/1.0.0: where manifest.json is.
      split: "train", "validation", … as the job named them.
      batch_size: examples of a batch; None for single examples.
      seed: another one gives another order and augmentation.
      features: the features wanted, all but the label if None. Others are not even parsed.
      label: True for the label that the data set declares, the name of another feature, False for dicts.
      one_hot: the label as float32 (classes,) instead of a number, as MixUp and CutMix make it in training.
      with_ids: adds the feature "example_id": int64, the record's position in the split.
      image_size: height and width, or one number for both. The result is the same as of `resize`, except that a
        `RandomResizedCrop()` without a size that comes first in `augment` makes its crops of this size instead.
      resize: how images get `image_size`: "crop" cuts the middle to the aspect ratio and resizes it, "stretch"
        resizes all of it, "pad" resizes and adds black bars, "center" cuts the middle without resizing.
      augment: True or "standard" (random resized crop and flip), "light", "strong", or operations of
        `loader.augment` or your own `op(features, seed) -> features`, in a list. Applied in training only.
      training: whether to shuffle and augment; None for "only the split called train".
      shuffle: True or False to differ from `training`. Not shuffled is stored order.
      repeat: True for epochs without end, or a number of epochs. Each is a fresh one, and no batch holds records
        of two.
      first_epoch: the number of the first epoch, to go on with the next one after a restart.
      drop_remainder: leave out the last batch of an epoch if it is smaller, so that shapes are static.
      cache: "memory" or "disk" to decode only once; see the guide for what is kept. Under the shuffle: order and
        augmentation stay fresh.
      cache_dir: for cache="disk"; ~/.cache/headrace if None. Processes share it.
      num_parallel_calls: examples decoded at a time; 4 for each thread if None, or `tf.data.AUTOTUNE`.
      threads: size of the pipeline's own thread pool; all of this process's processors if None.
      prefetch: batches made ahead, or `tf.data.AUTOTUNE`.

    Raises:
      HeadraceError: there is no such data set, split, feature or option; a shard is missing or not the one that the
        manifest describes; images of different sizes are to be batched.
    """
    manifest, stored = open_split(directory, split)
    training = split == "train" if training is None else training
    size = check_size("image_size", image_size)
    _check_counts(batch_size=batch_size, threads=threads, repeat=repeat if repeat is not True else None)
    check_count("first_epoch", first_epoch, 0)
    check_name("resize", resize, RESIZES, "The loader knows no such way to resize.")
    if cache is not None:
        check_name("cache", cache, CACHES, "There is no cache of this kind.")
    chosen, label_name = _choose(manifest, features, label)
    asked = augmentation.resolve(augment)
    ops = _bind(asked if training else (), chosen, label_name, size)
    # A crop that knows no size of its own makes image_size, and so sees the stored image.
    leads = bool(ops) and isinstance(ops[0], RandomResizedCrop)
    crop_first = leads and (size is None or ops[0] != asked[0])
    shapes = {
        n: _shape(f, None if crop_first else size) for n, f in chosen.items() if isinstance(f, ImageFeature)
    }
    _check_batchable(shapes, ops, batch_size)
    plan = make_plan(
        stored.records,
        stored.bytes,
        f"{manifest.fingerprint}/{split}",
        seed=seed,
        shuffle=training if shuffle is None else shuffle,
    )
    plain = Reader(stored, block=plan.block if plan.shuffle else 1)
    reader: Reader | CachedReader = plain
    columns, kept = columns_of(chosen, shapes), None
    if cache is not None and stored.records:
        decoding = [sorted(chosen), None if crop_first else size, resize, tf.__version__]
        if any(None in shape for shape in shapes.values()):
            raw = [Column("record", "bytes")]
            reader = CachedReader(plain, _make_cache(cache, cache_dir, raw, stored, plan.identity, []))
        else:
            kept = _make_cache(cache, cache_dir, columns, stored, plan.identity, decoding)
    threads = threads or len(os.sched_getaffinity(0))
    return build(
        Recipe(
            plan=plan,
            reader=reader,
            mean_bytes=max(1, stored.bytes // max(1, stored.records)),
            features=chosen,
            label=label_name,
            with_ids=with_ids,
            image_size=size,
            resize=resize,
            image_shapes=shapes,
            ops=ops,
            crop_first=crop_first,
            cache=kept,
            columns=columns,
            one_hot=_one_hot(chosen, label_name) if one_hot else 0,
            batch_size=batch_size,
            drop_remainder=drop_remainder,
            first_epoch=first_epoch,
            epochs=None if repeat is True else max(int(repeat), 1),
            parallel=num_parallel_calls or 4 * threads,
            threads=threads,
            prefetch=prefetch,
        )
    )


def _check_counts(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value is not False:
            check_count(name, value, 1)


def _choose(
    manifest: Manifest, features: str | Sequence[str] | None, label: str | bool
) -> tuple[dict[str, Feature], str | None]:
    """The features to read, the label last, and the label's name."""
    name = (manifest.spec.get("label") if label else None) if isinstance(label, bool) else label
    wanted = (
        [features] if isinstance(features, str) else list(manifest.features if features is None else features)
    )
    for asked in wanted:
        check_name("features", asked, manifest.features, "The data set has no such feature.")
    if name is not None:
        check_name("label", name, manifest.features, "The data set has no such feature.")
    order = [asked for asked in wanted if asked != name] + ([name] if name else [])
    return {asked: manifest.features[asked] for asked in order}, name


def _shape(feature: ImageFeature, size: Size | None) -> tuple[Any, Any, int]:
    height, width, channels = feature.stored_shape
    return (*size, channels) if size else (height, width, channels)


def _classes(features: Mapping[str, Feature], label: str | None) -> int | None:
    feature = features.get(label or "")
    if isinstance(feature, ClassLabelFeature):
        return len(feature.names)
    return 2 if isinstance(feature, BoolFeature) else None


def _one_hot(features: Mapping[str, Feature], label: str | None) -> int:
    classes = _classes(features, label)
    if classes is None:
        raise HeadraceError(
            "Only a class label can be one-hot.",
            where="one_hot=True",
            value=f"label {label!r}",
            allowed=", ".join(name for name in features if _classes(features, name)) or None,
        )
    return classes


def _bind(
    ops: Sequence[AugmentFn], features: Mapping[str, Feature], label: str | None, size: Size | None
) -> tuple[AugmentFn, ...]:
    """The operations with what the data set knows filled in: sizes of crops, labels and classes to mix."""
    bound: list[AugmentFn] = []
    for op in ops:
        changes: dict[str, Any] = {}
        if isinstance(op, RandomResizedCrop) and op.size is None:
            changes = {"size": size or _common_size(features)}
        elif isinstance(op, (augmentation.MixUp, augmentation.CutMix)):
            changes = {"label": op.label or label, "classes": op.classes or _classes(features, label)}
        bound.append(dataclasses.replace(op, **changes) if changes else op)  # type: ignore[type-var]
    return tuple(bound)


def _common_size(features: Mapping[str, Feature]) -> Size:
    sizes = {f.stored_shape[:2] for f in features.values() if isinstance(f, ImageFeature)}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)
    if height is None or width is None:
        raise HeadraceError(
            "RandomResizedCrop does not know what size to make: the stored images differ in size.",
            where="augment",
            hint="Give load(…, image_size=(height, width)).",
        )
    return height, width


def _check_batchable(
    shapes: Mapping[str, tuple[Any, Any, int]], ops: Sequence[AugmentFn], batch_size: int | None
) -> None:
    if batch_size is None:
        if any(augmentation.is_batched(op) for op in ops):
            raise HeadraceError(
                "MixUp and CutMix mix the examples of a batch.", where="augment", hint="Give batch_size."
            )
        return
    if any(isinstance(op, RandomResizedCrop) for op in ops):
        return
    for name, shape in shapes.items():
        if None in shape:
            raise HeadraceError(
                "Images of different sizes cannot be batched.",
                where=f"feature {name!r}, batch_size={batch_size}",
                value=f"shape {list(shape)}",
                hint="Give load(…, image_size=(height, width)), or batch_size=None for single examples.",
            )


def _make_cache(
    kind: str, place: str | Path | None, columns: Sequence[Column], stored: Split, *identity: object
) -> Cache:
    if kind == "memory":
        return memory_cache(columns, stored.records)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    return disk_cache(columns, stored.records, Path(place) if place else home, identity)
