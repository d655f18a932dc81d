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
from loader.bucket import Bucketed, Buckets
from loader.cached import CacheRequest, columns_of, open_cache
from loader.checks import check_count, check_name, check_size
from loader.decode import RESIZES
from loader.finish import Normalize, affines
from loader.loader import Loader
from loader.mixture import MixedPart, MixedReader, mix
from loader.order import LAST_BATCHES, Batches, Order
from loader.packing import Packed, Packing, window_of
from loader.part import Part, Where, split_name
from loader.plan import BLOCK_BYTES
from loader.read import KEPT_BYTES, ON_CORRUPT, CachedReader, Reader
from loader.recipe import Recipe
from loader.sources import Directory, Source, check_lists, choose, lengths_of, open_sources
from loader.state import Start, from_dict
from loader.transformed import Transformed, choose_outputs
from schemas import HeadraceError
from schemas.features import BoolFeature, ClassLabelFeature, Feature, ImageFeature

Size = tuple[int, int]
_READS, _REMOTE_READS = 2, 8  # chunks read at a time


def load(
    directory: Directory | Sequence[Directory],
    split: str | Sequence[str] = "train",
    *,
    weights: Sequence[float] | None = None,
    epoch_size: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    features: str | Sequence[str] | None = None,
    label: str | bool = True,
    one_hot: bool = False,
    with_ids: bool = False,
    sequences: Buckets | Packing | None = None,
    image_size: int | Size | None = None,
    resize: str = "crop",
    augment: Augment = None,
    normalize: Normalize = None,
    transform: bool = False,
    training: bool | None = None,
    shuffle: bool | None = None,
    repeat: bool | int = False,
    last_batch: str = "keep",
    process_index: int = 0,
    process_count: int = 1,
    state: Mapping[str, Any] | None = None,
    where: Where | Sequence[Where | None] | None = None,
    on_corrupt: str = "raise",
    cache: str | None = None,
    cache_as: str | None = None,
    cache_bytes: int | None = None,
    cache_dir: str | Path | None = None,
    shuffle_block: int = BLOCK_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    num_parallel_reads: int | None = None,
    num_parallel_calls: int | None = None,
    threads: int | None = None,
    prefetch: int = 2,
) -> Loader:
    """A split of a prepared data set, or a part of one, as a `tf.data.Dataset` ready for `model.fit`.

    Every epoch holds every record exactly once (but see `last_batch`), in an order, and with an augmentation, that
    depend on the data set, `seed` and the epoch's number, and on nothing else: not on threads, hosts, machines or
    earlier runs. Iterating again gives the next epoch, as with tf.data's own `shuffle`.

    Elements are `(features, label)` where the data set has a label, else a dict. Features are a dict of tensors by
    name, or the tensor itself where there is only one besides the label. With a batch in front:

      image                uint8 (height, width, channels), 0 … 255
      class_label, int64   int64 ()         · a vector (n,) · a list of any length: RaggedTensor (batch, None)
      float32              float32 ()       · the same
      bool                 bool ()
      text, bytes          string ()

    Args:
      directory: of one version, such as out/elpv/1.0.0: where manifest.json is. A path, or a URL such as gs://… or
        s3://… of a kind that fsspec knows. Or several of them in a list, to be mixed: those of the features that
        are wanted must be declared alike in all.
      split: "train", "validation", … as the job named them, or a part: "train[:80%]", "train[10%:20%]", "train[:1000]".
        Of a mixture one for all, or one for each.
      weights: of a mixture: how often examples of each data set come, in numbers of any sum. Of the first positions
        of training, whatever their number in blocks of 1,000, each has its share exactly, rounded down or up (with
        a share below 1/1000, blocks are as long as it takes to hold one). Each comes in the order it has alone,
        starting its next epoch when it is through. None for the sizes, so that an epoch has each record once.
      epoch_size: of a mixture: examples of an epoch; None for as many as the data sets have records.
      batch_size: examples of a batch over all hosts; None for single examples.
      seed: another one gives another order and augmentation.
      features: the features wanted, all but the label if None. Others are not even parsed.
      label: True for the label that the data set declares, the name of another feature, False for dicts.
      one_hot: the label as float32 (classes,) instead of a number, as MixUp and CutMix make it in training.
      with_ids: adds the feature "example_id": int64, the record's position in the split; of a mixture also
        "dataset": int64, which of the directories it is from.
      sequences: `Buckets("tokens", [32, 64, 128])` for batches of lists of like length, padded to one of the bounds, or
        `Packing("tokens", 512)` for rows of several lists each. Both are planned from the lengths in the index.
        Packed are all the features it names, and no others are read; "tokens_segment_ids" and "tokens_positions",
        int32 (batch, 512), say which value belongs to which example, and "example_id" is one for each value.
      image_size: height and width, or one number for both. The result is the same as of `resize`, except that a
        `RandomResizedCrop()` without a size that comes first in `augment` makes its crops of this size instead.
      resize: how images get `image_size`: "crop" cuts the middle to the aspect ratio and resizes it, "stretch"
        resizes all of it, "pad" resizes and adds black bars, "center" cuts the middle without resizing.
      augment: True or "standard" (random resized crop and flip), "light", "strong", or operations of
        `loader.augment` or your own `op(features, seed) -> features`, in a list. Applied in training only.
      normalize: images as float32, (x / 255 - mean) / std by channel, in training or not: "imagenet", "signed"
        (-1 … 1), "unit" (0 … 1), or (mean, std), each a number or one for each channel. All images, or those
        that a dict names.
      transform: batches go through the data set's `transform_fn/`, the function that the job's tf-transform step has
        analysed: features and label are what it gives, and images. It is a program of TensorFlow's, so that the data
        set should be one that you trust. Lists come as RaggedTensors.
      training: whether to shuffle and augment; None for "only the split called train".
      shuffle: True or False to differ from `training`. Not shuffled is stored order.
      repeat: True for epochs without end, or a number of epochs. Each is a fresh one, and no batch holds records
        of two.
      last_batch: of an epoch, if it is smaller: "keep" it; "drop" it, so that shapes are static; or "pad" it with
        zeros and tell which rows are real, so that every host evaluates every record exactly once in the same
        number of steps: elements are `(features, label, mask)` then, mask float32, which Keras takes for sample
        weights; dicts get "example_mask", bool.
      process_index: this host's number, 0 … `process_count - 1`. It yields its rows of every batch, so that all
        hosts' rows together are the batch that one host would yield.
      process_count: hosts that share each batch; divides `batch_size`.
      state: what `loader.state(step)` gave, to go on from there: the same data set, split, seed, shuffle and filter,
        on any number of hosts.
      where: a filter: a function of the index's columns, by name, to bool of shape (records,). Labels, and whatever
        else the job put into the index, are read from it without touching a record. Of a mixture one for all, or
        one or None for each.
      on_corrupt: "raise" an error at a damaged record, or "skip" it: just this one is left out and reported.
      cache: "memory" or "disk" to read and decode only once, "auto" for the first of them that has room. It lies
        under the shuffle: order and augmentation stay fresh.
      cache_as: "decoded", or "encoded" as the records are stored, which is less and can be cropped at random;
        decoded where that is possible if None.
      cache_bytes: the most it may hold: as many of the examples as fit, always the same ones.
      cache_dir: of caches on disk; ~/.cache/headrace if None. Processes share what is there and fill it together.
      shuffle_block: bytes of neighbouring records that the shuffle keeps together, so that one read brings them; a
        record that is larger is a block of its own. Small records far away are read faster in blocks of 256 KiB, and
        mixed a little less finely. Part of the order.
      storage_options: for fsspec's file system where `directory` is a URL.
      num_parallel_reads: chunks of about 1 MiB, or batches of images, on their way at a time; 2 of local files and
        8 of remote ones if None.
      num_parallel_calls: examples decoded or augmented one by one at a time; 4 for each thread if None, or
        `tf.data.AUTOTUNE`. What the native core decodes, it does on as many threads, but no more than `threads`.
      threads: size of the pipeline's own thread pool; all of this process's processors if None.
      prefetch: batches made ahead, or `tf.data.AUTOTUNE`.

    Raises:
      HeadraceError: there is no such data set, split, feature or option; a shard is missing or not the one that the
        manifest describes; images of different sizes are to be batched.
    """
    sources = open_sources(directory, split, where, storage_options)
    training = split_name(sources[0].part.name) == "train" if training is None else training
    size = check_size("image_size", image_size)
    _check_counts(
        batch_size=batch_size,
        threads=threads,
        num_parallel_reads=num_parallel_reads,
        num_parallel_calls=None if num_parallel_calls == tf.data.AUTOTUNE else num_parallel_calls,
        epoch_size=epoch_size,
        repeat=repeat if repeat is not True else None,
    )
    check_name("resize", resize, RESIZES, "The loader knows no such way to resize.")
    check_name(
        "last_batch", last_batch, LAST_BATCHES, "The loader knows nothing else to do with a last batch."
    )
    check_name(
        "on_corrupt", on_corrupt, ON_CORRUPT, "The loader knows nothing else to do with damaged records."
    )
    request = CacheRequest(cache, cache_as, cache_bytes, cache_dir)
    request.check()
    remote = any(source.split.place.is_remote for source in sources)
    chosen, label_name, model, outputs = _choose(
        sources, directory, features, label, sequences=sequences, transform=transform
    )
    asked = augmentation.resolve(augment)
    ops = _bind(asked if training else (), chosen, label_name, size)
    # A crop that knows no size of its own makes image_size, and so sees the stored image.
    leads = bool(ops) and isinstance(ops[0], RandomResizedCrop)
    crop_first = leads and (size is None or ops[0] != asked[0])
    shapes = {
        n: _shape(f, None if crop_first else size) for n, f in chosen.items() if isinstance(f, ImageFeature)
    }
    _check_batchable(shapes, ops, batch_size)
    batches = _batches(batch_size, last_batch, process_index, process_count, ops)
    check_count("shuffle_block", shuffle_block, 1)
    plans = [
        source.plan(seed=seed, shuffle=training if shuffle is None else shuffle, block_bytes=shuffle_block)
        for source in sources
    ]
    capacity = min(KEPT_BYTES, 4 * KEPT_BYTES // len(sources))
    readers = [
        Reader(source.split, block=plan.block, on_corrupt=on_corrupt, capacity=capacity)
        for source, plan in zip(sources, plans, strict=True)
    ]
    order: Order = plans[0]
    part: Part | MixedPart = sources[0].part
    plain: Reader | MixedReader = readers[0]
    firsts = None
    if isinstance(directory, (str, Path)):
        _check_alone(weights=weights, epoch_size=epoch_size)
    else:
        order = mix(plans, weights, epoch_size)
        part = MixedPart(tuple(s.part for s in sources), tuple(s.split.records for s in sources))
        plain, firsts = MixedReader(readers, part.firsts, remote=remote), tuple(part.firsts)
    mean_bytes = max(source.mean_bytes for source in sources)
    if sequences is not None:
        check_lists(sequences, chosen, batch_size=batch_size, augmented=bool(ops))
        lengths = lengths_of(sources, sequences)
        order = (
            Packed(order, lengths, sequences, window_of(mean_bytes), plans[0].shuffle)
            if isinstance(sequences, Packing)
            else Bucketed(order, lengths, sequences, batch_size or 1, last_batch)
        )
    data = [source.data for source in sources]
    words = f"{' + '.join(source.words for source in sources)}, seed {seed}"
    reader: Reader | MixedReader | CachedReader = plain
    columns = columns_of(chosen, shapes)
    made = open_cache(
        request,
        columns,
        len(part),
        mean_bytes,
        {
            "encoded": data,
            "decoded": [*data, sorted(chosen), None if crop_first else size, resize, tf.__version__],
        },
        remote=remote,
    )
    kept = made[1] if made and made[0] == "decoded" else None
    if made and made[0] == "encoded":
        reader = CachedReader(plain, made[1], part)
    threads = threads or len(os.sched_getaffinity(0))
    return Loader(
        Recipe(
            data=words,
            order=order,
            batches=batches,
            start=Start() if state is None else from_dict(state, order, words),
            epochs=None if repeat is True else max(int(repeat), 1),
            part=part,
            reader=reader,
            skip_corrupt=on_corrupt == "skip",
            mean_bytes=mean_bytes,
            features=chosen,
            label=label_name,
            with_ids=with_ids,
            firsts=firsts,
            image_size=size,
            resize=resize,
            image_shapes=shapes,
            ops=ops,
            normalize=affines(normalize, {name: shape[-1] for name, shape in shapes.items()}),
            crop_first=crop_first,
            cache=kept,
            columns=columns,
            transform=model,
            chosen=outputs,
            one_hot=_one_hot(chosen, label_name) if one_hot else 0,
            reads=num_parallel_reads or (_REMOTE_READS if remote else _READS),
            parallel=num_parallel_calls or 4 * threads,
            # A read that waits for the network holds a thread.
            threads=threads + (num_parallel_reads or _REMOTE_READS if remote else 0),
            workers=min(threads, num_parallel_calls or threads)
            if num_parallel_calls != tf.data.AUTOTUNE
            else threads,
            prefetch=prefetch,
        )
    )


def _choose(
    sources: Sequence[Source],
    directory: Directory | Sequence[Directory],
    features: str | Sequence[str] | None,
    label: str | bool,
    *,
    sequences: Buckets | Packing | None,
    transform: bool,
) -> tuple[dict[str, Feature], str | None, Transformed | None, tuple[str, ...] | None]:
    """The features to read, the label's name, the transform, and which of what comes out of that is wanted."""
    if isinstance(sequences, Packing):
        features = sequences.names if features is None else features
        label = False if label is True else label
    if not transform:
        return *choose(sources, features, label), None, None
    if not isinstance(directory, (str, Path)) or sequences is not None:
        raise HeadraceError(
            "transform=True goes with one data set and plain batches.",
            where="transform",
            value="several directories" if sequences is None else "sequences",
            hint="Write transformed records instead: `materialize: true` in the job.",
        )
    model = Transformed(sources[0].manifest, sources[0].split.place)
    needed, outputs, name = choose_outputs(model, sources[0].manifest, features, label)
    chosen, _ = choose(sources, needed, False)
    return chosen, name, model, outputs


def _batches(
    batch_size: int | None, last: str, process_index: int, process_count: int, ops: Sequence[AugmentFn]
) -> Batches:
    check_count("process_count", process_count, 1)
    check_count("process_index", process_index, 0)
    if process_index >= process_count:
        raise HeadraceError(
            "There is no such host.",
            where="process_index",
            value=process_index,
            allowed=f"0 … {process_count - 1}, as process_count={process_count}",
        )
    # MixUp and CutMix mix neighbours, which must not be on two hosts.
    unit = (
        2 * process_count
        if process_count > 1 and any(augmentation.is_batched(op) for op in ops)
        else process_count
    )
    if batch_size is not None and batch_size % unit:
        raise HeadraceError(
            "The hosts cannot share such a batch evenly.",
            where=f"batch_size, process_count={process_count}",
            value=batch_size,
            allowed=f"a multiple of {unit}",
            hint="batch_size is that of all hosts together.",
        )
    return Batches(batch_size, last, process_index, process_count)


def _check_alone(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise HeadraceError(
                "Only a mixture of data sets has this option.",
                where=name,
                value=value,
                hint="Give a list of directories.",
            )


def _check_counts(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value is not False:
            check_count(name, value, 1)


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
