"""The flow from records on disk to batches, top to bottom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from loader import augment, decode, padding, python_calls, sequences
from loader.augment import Ops, RandomResizedCrop
from loader.bucket import Bucketed
from loader.cached import through_cache
from loader.decode import Features
from loader.finished import finish, normalized
from loader.order import HostView
from loader.packing import Packed
from loader.plan import Ids
from loader.read import Records
from loader.recipe import Recipe
from loader.state import Cursor, Start, end_of_iteration
from schemas import HeadraceError
from schemas.features import ImageFeature

_CHUNK_BYTES = 1 << 20  # 1 MiB: what one read fetches; larger chunks fall out of the processor's caches
_CHUNK_RECORDS = 4096
_MAX_BATCH_CHUNK = 8 << 20  # 8 MiB: a batch of so many bytes is read as one chunk
_FINISHES = 4  # batches flipped and normalised at a time, some 10,000 images of 224 x 224 a second each
_CACHED_CHUNK = 32  # records, so that decoding a chunk is a small share of a batch
_ID, _SEED, _VALID, _BOUND = "/id", "/seed", "/valid", "/bound"  # no feature can have these names
_END = -1  # in place of an epoch's number
_HIDDEN = (_ID, _SEED, _VALID, _BOUND)


def build(recipe: Recipe, cursor: Cursor) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """The data set that a recipe describes, and the same with its length, if it has one.

    Iterations begin at the cursor and move it on.
    """
    # An epoch is its own little data set, so that no batch holds records of two epochs.
    dataset = _epochs(recipe, cursor).flat_map(lambda epoch: _one_epoch(recipe, *tf.unstack(epoch)))
    total, counted = _cardinality(recipe), dataset
    if total is not None:
        counted = dataset.apply(tf.data.experimental.assert_cardinality(total))
    if recipe.prefetch:
        dataset, counted = dataset.prefetch(recipe.prefetch), counted.prefetch(recipe.prefetch)
    return dataset.with_options(_options(recipe)), counted.with_options(_options(recipe))


def _one_epoch(recipe: Recipe, epoch: tf.Tensor, first: tf.Tensor, rows: tf.Tensor) -> tf.data.Dataset:
    """This host's `rows` rows of an epoch from position `first` on."""
    # Python is entered once a chunk of neighbours in the order, not once a record.
    chunk = _chunk_records(recipe)
    dataset = tf.data.Dataset.range(0, rows, chunk)
    read, calls = (_read, recipe.reads) if recipe.cache is None else (_read_cached, recipe.parallel)
    dataset = dataset.map(
        lambda start: read(recipe, epoch, first, start, tf.minimum(start + chunk, rows)),
        num_parallel_calls=calls,
    )
    size = recipe.batches.host_size
    # No batch is smaller then, and so shapes are static.
    drop = recipe.batches.last == "drop" or recipe.has_holes
    prepare = _prepare if recipe.cache is None else _augment
    if recipe.batches.batch_size is None:
        dataset = dataset.unbatch()
        if _VALID in dataset.element_spec:
            dataset = dataset.filter(lambda features: features[_VALID])
        dataset = dataset.map(
            lambda features: normalized(prepare(recipe, features), recipe.normalize),
            num_parallel_calls=recipe.parallel,
        )
    elif _one_by_one(recipe):
        # One example after the other: with images, most passes over whole batches cost more.
        dataset = _map_and_batch(
            dataset.unbatch(), lambda features: prepare(recipe, features), recipe.parallel, size, drop
        )
    elif chunk != size:
        dataset = dataset.rebatch(size, drop)
    elif drop:
        dataset = dataset.map(lambda features: _fixed(features, size))
    if recipe.batches.batch_size is not None and (_flips(recipe) or _batch_ops(recipe) or recipe.normalize):
        calls = _finish_calls(recipe)
        dataset = dataset.map(lambda features: _finish(recipe, features), num_parallel_calls=calls)
    if _BOUND in dataset.element_spec and isinstance(recipe.order, Bucketed):
        lists = recipe.order.buckets.names
        dataset = dataset.map(lambda features: sequences.pad(features, lists, _BOUND))
    if recipe.batches.batch_size is not None and _VALID in dataset.element_spec:
        blank = padding.zero if recipe.batches.last == "pad" else padding.remove
        dataset = dataset.map(lambda features: blank(features, _VALID))
    return dataset.map(lambda features: _arrange(recipe, features))


def _map_and_batch(
    dataset: tf.data.Dataset, function: Callable[[Features], Features], calls: int, size: int, drop: bool
) -> tf.data.Dataset:
    """`map`, then `batch`, each result written to its place in the batch while the processor's caches hold it."""
    # tf.data makes one of the two by itself only where they are not inside a flat_map. What is deprecated is
    # calling it without need, so the wrapped function is called, which does not warn.
    fused = tf.data.experimental.map_and_batch.__wrapped__
    return dataset.apply(fused(function, size, drop_remainder=drop, num_parallel_calls=calls))


def _read(recipe: Recipe, epoch: tf.Tensor, first: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> Features:
    """The parsed records of this host's rows `start` … `stop - 1`."""
    # One entry into Python for both, as each costs.
    ids, seeds, layout, records, valid = python_calls.call(
        lambda *rows: (plan := _plan(recipe, *rows)[1:]) + _records(recipe, plan[0]),
        [epoch, first, start, stop],
        [tf.int64, tf.int64, tf.int64, tf.string, tf.bool],
        stateful=False,
    )
    features = decode.parse(tf.ensure_shape(records, [None]), recipe.features)
    return _rows(recipe, features, ids, seeds, layout, valid)


def _read_cached(
    recipe: Recipe, epoch: tf.Tensor, first: tf.Tensor, start: tf.Tensor, stop: tf.Tensor
) -> Features:
    """As `_read`, with the images decoded: from the cache, or from the shards and into the cache."""
    assert recipe.cache is not None
    places, ids, seeds, layout = python_calls.call(
        lambda *rows: _plan(recipe, *rows), [epoch, first, start, stop], [tf.int64] * 4, stateful=False
    )
    features, valid = through_cache(
        recipe.cache,
        recipe.columns,
        recipe.features,
        places,
        lambda rows: _make(recipe, tf.gather(ids, rows)),
    )
    return _rows(recipe, features, ids, seeds, layout, valid)


def _make(recipe: Recipe, ids: tf.Tensor) -> tuple[Features, tf.Tensor]:
    """Examples `ids` as the cache keeps them, and which of them are valid."""
    records, valid = python_calls.call(
        lambda ids: _records(recipe, ids), [ids], [tf.string, tf.bool], stateful=False
    )
    features = decode.parse(tf.ensure_shape(records, [None]), recipe.features)
    for name, feature in _images(recipe).items():
        features[name] = tf.map_fn(
            lambda data, feature=feature: _image(recipe, data, feature),
            features[name],
            fn_output_signature=tf.TensorSpec(recipe.image_shapes[name], tf.uint8),
        )
    return features, valid


def _plan(recipe: Recipe, epoch: int, first: int, start: int, stop: int) -> tuple[Ids, Ids, Ids, Ids]:
    """Places in the part, ids and seeds of this host's rows `start` … `stop - 1`, and how they are laid out.

    That is the bound of each row's bucket, or how many examples are in each row where they are packed.
    """
    order, epoch = recipe.order, int(epoch)
    positions, places = HostView(order, recipe.batches).take(epoch, int(first), int(start), int(stop))
    seeds = order.seeds(epoch, positions, places) if recipe.ops else np.zeros((0, 2), np.int64)
    layout = np.zeros(0, np.int64)
    if isinstance(order, Bucketed):
        layout = order.bounds(epoch, positions)
    elif isinstance(order, Packed):
        places, layout = order.examples(epoch, places)
    return places, recipe.part.stored(places), seeds, layout


def _records(recipe: Recipe, ids: Ids) -> tuple[Records, npt.NDArray[np.bool_]]:
    """The records `ids`, with another one in place of holes and damaged ones, and which are not such."""
    records, valid = recipe.reader.read(ids)
    if not valid.all():
        # Something that can be parsed and decoded; what comes of it is thrown away.
        records[~valid] = records[valid][0] if valid.any() else _any_record(recipe)
    return records, valid


def _any_record(recipe: Recipe) -> bytes:
    for place in range(len(recipe.part)):
        records, valid = recipe.reader.read(recipe.part.stored(np.array([place])))
        if valid[0]:
            return bytes(records[0])
    raise HeadraceError("Not one record is intact.", where=recipe.data, hint="Prepare the data set again.")


def _rows(  # noqa: PLR0917
    recipe: Recipe, features: Features, ids: tf.Tensor, seeds: tf.Tensor, layout: tf.Tensor, valid: tf.Tensor
) -> Features:
    """The features of some rows, with what travels with them."""
    if not isinstance(recipe.order, Packed):
        return {**features, **_hidden(recipe, ids, seeds, layout, valid)}
    if recipe.skip_corrupt:
        # A damaged example leaves its row without values.
        features = padding.zero({**features, _VALID: tf.ensure_shape(valid, [None])}, _VALID)
        del features[_VALID]
    counts = tf.ensure_shape(layout, [None])
    packing = recipe.order.packing
    rows = sequences.pack(features, counts, packing.most, packing.names[0], ids if recipe.with_ids else None)
    if recipe.with_ids:
        rows[_ID] = rows.pop("")
    return {**rows, _VALID: counts > 0} if recipe.has_holes else rows


def _hidden(
    recipe: Recipe, ids: tf.Tensor, seeds: tf.Tensor, layout: tf.Tensor, valid: tf.Tensor
) -> Features:
    """What travels with the features, as far as it is needed: carrying it costs a little for every example."""
    hidden = {_ID: tf.ensure_shape(ids, [None])} if recipe.with_ids else {}
    if recipe.ops:
        hidden[_SEED] = tf.ensure_shape(seeds, [None, 2])
    if isinstance(recipe.order, Bucketed) and recipe.order.buckets.padded:
        hidden[_BOUND] = tf.ensure_shape(layout, [None])
    if recipe.skip_corrupt or recipe.has_holes:
        hidden[_VALID] = tf.ensure_shape(valid, [None])
    return hidden


def _prepare(recipe: Recipe, features: Features) -> Features:
    """One example: its images decoded, cut and resized, then augmented."""
    ops = _example_ops(recipe)
    crop = ops[0] if ops and recipe.crop_first and isinstance(ops[0], RandomResizedCrop) else None
    for name, feature in _images(recipe).items():
        features[name] = _image(recipe, features[name], feature, crop, features.get(_SEED))
    return _augment(recipe, features, skip=1 if crop else 0)


def _image(
    recipe: Recipe,
    data: tf.Tensor,
    feature: ImageFeature,
    crop: RandomResizedCrop | None = None,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    if crop is not None:
        # The first operation is a crop: decode no more of the image than that.
        assert crop.size is not None
        image = decode.decode_image(data, feature, lambda height, width: crop.box(height, width, seed))
        return decode.resize_image(image, crop.size)
    if recipe.image_size is None or recipe.crop_first:
        return tf.ensure_shape(decode.decode_image(data, feature), feature.stored_shape)
    image = decode.decode_image(data, feature, decode.fit_box(recipe.image_size, recipe.resize))
    return decode.fit(image, recipe.image_size, recipe.resize)


def _augment(recipe: Recipe, features: Features, skip: int = 0) -> Features:
    """One example after the operations that work on single examples, the first `skip` of them done before."""
    hidden = {name: features.pop(name) for name in _HIDDEN if name in features}
    ops = _example_ops(recipe)[skip:]
    return {**(augment.apply(ops, features, hidden[_SEED], first=skip) if ops else features), **hidden}


def _finish_calls(recipe: Recipe) -> int:
    """Batches finished at a time: each is held twice, so no more than the work needs."""
    return recipe.threads if _batch_ops(recipe) else min(recipe.threads, _FINISHES)


def _finish(recipe: Recipe, features: Features) -> Features:
    """A batch flipped, after the operations that work on batches, and normalised."""
    hidden = {name: features.pop(name) for name in (_ID, _SEED, _VALID) if name in features}
    first, flips, mixing = len(_example_ops(recipe)), _flips(recipe), _batch_ops(recipe)
    none = tf.zeros([0], tf.bool)
    mirror, upturn = augment.flipped(flips, hidden[_SEED], first) if flips else (none, none)
    if mixing:
        features = finish(features, mirror, upturn, {}) if flips else features
        first += len(flips)
        features = augment.apply(mixing, features, hidden[_SEED], first, hidden.get(_VALID))
        mirror = upturn = none
    return {**finish(features, mirror, upturn, recipe.normalize), **hidden}


def _arrange(recipe: Recipe, features: Features) -> object:
    """The form that training wants: (features, label), or a dict where there is no label."""
    features.pop(_SEED, None)
    mask = features.pop(_VALID, None) if recipe.batches.last == "pad" else None
    features.pop(_VALID, None)
    if recipe.with_ids:
        features |= _named(recipe, features.pop(_ID))
    if recipe.label is None:
        return features if mask is None else {**features, "example_mask": mask}
    label = features.pop(recipe.label)
    if recipe.one_hot and label.dtype.is_integer:
        label = tf.one_hot(label, recipe.one_hot)
    inputs = next(iter(features.values())) if len(features) == 1 else features
    # Keras takes the third for sample weights.
    return (inputs, label) if mask is None else (inputs, label, tf.cast(mask, tf.float32))


def _named(recipe: Recipe, ids: tf.Tensor) -> Features:
    """What users know examples by."""
    if recipe.firsts is None:
        return {"example_id": ids}
    firsts = tf.constant(recipe.firsts, tf.int64)
    of = tf.searchsorted(firsts, tf.reshape(ids, [-1]), side="right", out_type=tf.int64) - 1
    of = tf.reshape(tf.maximum(of, 0), tf.shape(ids))
    return {"example_id": ids - tf.gather(firsts, of), "dataset": of}


def _fixed(features: Features, size: int) -> Features:
    """Batches of always `size` rows."""
    return tf.nest.map_structure(
        lambda x: x if isinstance(x, tf.RaggedTensor) else tf.ensure_shape(x, [size, *x.shape[1:]]), features
    )


def _chunk_records(recipe: Recipe) -> int:
    if recipe.cache is not None and _images(recipe):
        # A batch at a time, so that it is gathered from the cache into its final place.
        return recipe.batches.host_size if recipe.batches.batch_size else _CACHED_CHUNK
    size = recipe.batches.host_size
    if not _one_by_one(recipe) and _CHUNK_BYTES <= size * recipe.mean_bytes <= _MAX_BATCH_CHUNK:
        return size  # nothing has to be cut anew
    records = max(1, min(_CHUNK_RECORDS, _CHUNK_BYTES // recipe.mean_bytes))
    return -(-records // recipe.order.examples_of_a_row) if isinstance(recipe.order, Packed) else records


def _one_by_one(recipe: Recipe) -> bool:
    """Whether examples are worked on one after the other, rather than a chunk at a time."""
    decoding = recipe.cache is None and bool(_images(recipe))
    return decoding or bool(_example_ops(recipe)) or recipe.batches.batch_size is None


def _images(recipe: Recipe) -> dict[str, ImageFeature]:
    return {name: feature for name, feature in recipe.features.items() if isinstance(feature, ImageFeature)}


def _example_ops(recipe: Recipe) -> Ops:
    return augment.split(recipe.ops, batched=recipe.batches.batch_size is not None)[0]


def _flips(recipe: Recipe) -> Ops:
    return augment.split(recipe.ops, batched=recipe.batches.batch_size is not None)[1]


def _batch_ops(recipe: Recipe) -> Ops:
    return augment.split(recipe.ops, batched=recipe.batches.batch_size is not None)[2]


def _epochs(recipe: Recipe, cursor: Cursor) -> tf.data.Dataset:
    """The epochs of an iteration, int64 (3,): number, first position, rows. It goes on where the last one ended.

    Not `from_generator`: that asks Python to tidy up, which fails when the process ends before the iteration.
    """
    view = HostView(recipe.order, recipe.batches)

    def following(state: Ids) -> tuple[Ids, Ids]:
        begins, number, end = state[0] == 0, int(state[1]), int(state[2])
        place = cursor.place if begins else Start(number)
        if begins:
            end = _END if recipe.epochs is None else end_of_iteration(place, recipe.epochs)
        if place.epoch == end:
            return state, np.array([_END, 0, 0])
        if recipe.epochs is not None:
            cursor.place = Start(place.epoch + 1)
        rows = view.rows(place.epoch, place.position)
        return np.array([1, place.epoch + 1, end]), np.array([place.epoch, place.position, rows])

    def step(state: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        state, epoch = python_calls.call(following, [state], [tf.int64, tf.int64])
        return tf.ensure_shape(state, [3]), tf.ensure_shape(epoch, [3])

    # Begun or not, the next epoch, the one before which to end.
    epochs = tf.data.Dataset.counter().scan(tf.zeros([3], tf.int64), step)
    return epochs.take_while(lambda epoch: epoch[0] != _END)


def _cardinality(recipe: Recipe) -> int | None:
    """Elements of an iteration, or None where iterations differ."""
    if recipe.epochs is None:
        return int(tf.data.INFINITE_CARDINALITY) if recipe.order.count(recipe.start.epoch) else 0
    if recipe.start.position or recipe.start.epoch % recipe.epochs or recipe.skip_corrupt:
        return None
    if not recipe.order.is_even:
        return None
    return recipe.batches.steps(recipe.order.count(0)) * recipe.epochs


def _options(recipe: Recipe) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    auto = tf.data.AUTOTUNE in (recipe.parallel, recipe.prefetch)
    options.autotune.enabled = auto
    # Each host has its part already: tf.distribute is not to take a part of that.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    if not auto:
        options.threading.private_threadpool_size = recipe.threads
    return options
