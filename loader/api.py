"""`load`: checks what the user asked for and makes the recipe of it."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from loader import augment as augmentation
from loader.augment import Augment, AugmentFn
from loader.dataset import open_split
from loader.decode import RESIZES
from loader.pipeline import Recipe, build
from loader.plan import make_plan
from loader.read import Reader
from schemas import HeadraceError, Manifest
from schemas.features import BoolFeature, ClassLabelFeature, Feature, ImageFeature


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
    image_size: int | tuple[int, int] | None = None,
    resize: str = "crop",
    augment: Augment = None,
    training: bool | None = None,
    shuffle: bool | None = None,
    repeat: bool | int = False,
    first_epoch: int = 0,
    drop_remainder: bool = False,
    num_parallel_calls: int | None = None,
    prefetch: int = 2,
) -> tf.data.Dataset:
    """TODO"""
    manifest, stored = open_split(directory, split)
    training = split == "train" if training is None else training
    chosen, label_name = _choose(manifest, features, label)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    ops = augmentation.resolve(augment)
    ops = _bind(ops if training else (), chosen, label_name, size)
    _check_sizes(chosen, size, ops, batch_size)
    plan = make_plan(
        stored.records,
        stored.bytes,
        f"{manifest.fingerprint}/{split}",
        seed=seed,
        shuffle=training if shuffle is None else shuffle,
    )
    recipe = Recipe(
        plan=plan,
        reader=Reader(stored, plan),
        mean_bytes=max(1, stored.bytes // max(1, stored.records)),
        features=chosen,
        label=label_name,
        with_ids=with_ids,
        bare=len(chosen) == 2 and not with_ids,
        image_size=size,
        resize=resize,
        ops=ops,
        one_hot=_classes(chosen, label_name) or 0 if one_hot else 0,
        batch_size=batch_size,
        drop_remainder=drop_remainder,
        first_epoch=first_epoch,
        epochs=None if repeat is True else max(int(repeat), 1),
        parallel=num_parallel_calls or len(os.sched_getaffinity(0)),
        prefetch=prefetch,
    )
    return build(recipe)


def _choose(
    manifest: Manifest, features: str | Sequence[str] | None, label: str | bool
) -> tuple[dict[str, Feature], str | None]:
    """The features to read, the label last, and the label's name."""
    name = (manifest.spec.get("label") if label else None) if isinstance(label, bool) else label
    wanted = [features] if isinstance(features, str) else list(manifest.features if features is None else features)
    for asked in [*wanted, *([name] if name else [])]:
        if asked not in manifest.features:
            near = difflib.get_close_matches(asked, manifest.features, n=1)
            raise HeadraceError(
                "The data set has no such feature.",
                where="label" if asked == name else "features",
                value=asked,
                allowed=", ".join(manifest.features),
                hint=f"Did you mean {near[0]!r}?" if near else None,
            )
    order = [w for w in wanted if w != name] + ([name] if name else [])
    return {asked: manifest.features[asked] for asked in order}, name


def _classes(features: Mapping[str, Feature], label: str | None) -> int | None:
    feature = features.get(label or "")
    if isinstance(feature, ClassLabelFeature):
        return len(feature.names)
    return 2 if isinstance(feature, BoolFeature) else None


def _bind(
    ops: Sequence[AugmentFn], features: Mapping[str, Feature], label: str | None, size: tuple[int, int] | None
) -> tuple[AugmentFn, ...]:
    """The operations with what the data set knows filled in: sizes of crops, labels and classes to mix."""
    bound: list[AugmentFn] = []
    for op in ops:
        changes: dict[str, Any] = {}
        if isinstance(op, augmentation.RandomResizedCrop) and op.size is None:
            changes = {"size": size or _common_size(features)}
        elif isinstance(op, (augmentation.MixUp, augmentation.CutMix)):
            changes = {"label": op.label or label, "classes": op.classes or _classes(features, label)}
        bound.append(dataclasses.replace(op, **changes) if changes else op)  # type: ignore[type-var]
    return tuple(bound)


def _common_size(features: Mapping[str, Feature]) -> tuple[int, int]:
    sizes = {f.stored_shape[:2] for f in features.values() if isinstance(f, ImageFeature)}
    size = sizes.pop() if len(sizes) == 1 else (None, None)
    if None in size:
        raise HeadraceError(
            "RandomResizedCrop does not know what size to make: the stored images differ in size.",
            where="augment",
            hint="Give load(…, image_size=(height, width)).",
        )
    return size


def _check_sizes(
    features: Mapping[str, Feature],
    size: tuple[int, int] | None,
    ops: Sequence[AugmentFn],
    batch_size: int | None,
) -> None:
    if batch_size is None or size is not None or any(isinstance(op, augmentation.RandomResizedCrop) for op in ops):
        return
    for name, feature in features.items():
        if isinstance(feature, ImageFeature) and None in feature.stored_shape:
            raise HeadraceError(
                "Images of different sizes cannot be batched.",
                where=f"feature {name!r}, batch_size={batch_size}",
                value=f"shape {list(feature.stored_shape)}",
                hint="Give load(…, image_size=(height, width)), or batch_size=None for single examples.",
            )
