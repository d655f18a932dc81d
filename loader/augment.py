"""Random changes to training examples: dict → dict, stateless, the same for the same seed whatever the parallelism.

An operation is anything called as `op(features, seed) -> features`, where `features` maps names to the tensors of one
example and `seed`, int64 (2,), depends on the data set, the user's seed, the epoch, the example and the operation's
place in the list, and on nothing else. Operations here change every image among the features (every tensor of rank
3), all in the same way, so that a photo and its mask stay together. Images hold 0 … 255, as uint8 or float32.

Batch operations (`batched = True`) are called with the tensors and the seeds, int64 (n, 2), of a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from loader.batch_ops import CutMix, MixUp
from loader.checks import check_name
from loader.decode import Features, to_uint8
from loader.image_ops import (
    Brightness,
    ColorJitter,
    Contrast,
    FlipLeftRight,
    FlipUpDown,
    Hue,
    ImageOp,
    RandomResizedCrop,
    Rotation,
    Saturation,
    Translate,
)
from schemas import HeadraceError

__all__ = [
    "PRESETS",
    "Augment",
    "AugmentFn",
    "Brightness",
    "ColorJitter",
    "Contrast",
    "CutMix",
    "FlipLeftRight",
    "FlipUpDown",
    "Hue",
    "ImageOp",
    "MixUp",
    "RandomResizedCrop",
    "Rotation",
    "Saturation",
    "Translate",
]

AugmentFn = Callable[[Features, tf.Tensor], Features]
Ops = tuple[AugmentFn, ...]

PRESETS: dict[str, tuple[AugmentFn, ...]] = {
    "light": (Translate(), FlipLeftRight(), ColorJitter(brightness=0.1, contrast=0.1)),
    "standard": (RandomResizedCrop(), FlipLeftRight()),
    "strong": (
        RandomResizedCrop(),
        FlipLeftRight(),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
        MixUp(probability=0.5),
        CutMix(probability=0.5),
    ),
}

_OWN = (ImageOp, RandomResizedCrop, MixUp, CutMix)

Augment = bool | str | AugmentFn | Sequence[AugmentFn] | None


def resolve(augment: Augment) -> tuple[AugmentFn, ...]:
    """The operations that `augment` stands for: a preset's name, True for "standard", one operation or several.

    Raises:
      HeadraceError: no preset has that name, something in it cannot be called, or batch operations come first.
    """
    if augment is None or augment is False:
        return ()
    if augment is True:
        return PRESETS["standard"]
    if isinstance(augment, str):
        check_name("augment", augment, PRESETS, "There is no augmentation of this name.")
        return PRESETS[augment]
    ops = (augment,) if callable(augment) else tuple(augment)
    for number, op in enumerate(ops):
        if not callable(op) or isinstance(op, type):
            raise HeadraceError(
                "An augmentation must be callable as op(features, seed) -> features.",
                where=f"augment[{number}]",
                value=op,
                hint=f"Write {op.__name__}()." if isinstance(op, type) else None,
            )
        if not is_batched(op) and any(is_batched(before) for before in ops[:number]):
            raise HeadraceError(
                "Operations on single examples come before those on batches.",
                where=f"augment[{number}]",
                value=op,
            )
    return ops


def apply(
    ops: Sequence[AugmentFn],
    features: Features,
    seed: tf.Tensor,
    first: int = 0,
    valid: tf.Tensor | None = None,
) -> Features:
    """The features after all `ops`; `first` is the place of the first of them in the user's list.

    Of a batch, `valid`, bool (n,), says which rows hold an example.

    Operations here may leave float32; images that were uint8 are uint8 again before a user's function and at the end.
    """
    whole = _uint8(features)
    for place, op in enumerate(ops, first):
        own = isinstance(op, _OWN)
        given = features if own else _restore(features, whole)
        place_seed = _at(seed, place)
        features = op(given, place_seed, valid) if isinstance(op, (MixUp, CutMix)) else op(given, place_seed)
        whole = whole if own else _uint8(features)
    return _restore(features, whole)


def split(ops: Sequence[AugmentFn], *, batched: bool) -> tuple[Ops, Ops, Ops]:
    """The operations on single examples, those flips at their end that can be done on the batch, the batch's own."""
    own = tuple(op for op in ops if is_batched(op))
    single = tuple(op for op in ops if not is_batched(op))
    last = len(single)
    while batched and last and type(single[last - 1]) in (FlipLeftRight, FlipUpDown):
        last -= 1
    return single[:last], single[last:], own


def flipped(flips: Sequence[AugmentFn], seeds: tf.Tensor, first: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Which examples of a batch are mirrored left to right, and upside down, after all `flips`: bool (n,) each.

    bool (0,) where none can be. `first` is the place of the first of the flips in the user's list.
    """
    flags = {FlipLeftRight.axis: tf.zeros([0], tf.bool), FlipUpDown.axis: tf.zeros([0], tf.bool)}
    for place, op in enumerate(flips, first):
        assert isinstance(op, FlipLeftRight)
        chosen, before = op.chosen(_at(seeds, place)), flags[op.axis]
        flags[op.axis] = chosen if before.shape[0] == 0 else tf.not_equal(before, chosen)
    return flags[FlipLeftRight.axis], flags[FlipUpDown.axis]


def has_foreign(ops: Sequence[AugmentFn]) -> bool:
    """Whether some of the operations are a user's."""
    return not all(isinstance(op, _OWN) for op in ops)


def is_batched(op: AugmentFn) -> bool:
    """Whether an operation works on batches."""
    return bool(getattr(op, "batched", False))


def _at(seed: tf.Tensor, place: int) -> tf.Tensor:
    """The seeds of the operation at a place in the list: seeds that differ at all give independent streams."""
    return seed + tf.constant([0, place], tf.int64)


def _uint8(features: Features) -> set[str]:
    return {name for name, value in features.items() if value.dtype == tf.uint8}


def _restore(features: Features, whole: set[str]) -> Features:
    return {name: to_uint8(v) if name in whole else v for name, v in features.items()}
