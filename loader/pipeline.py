"""The flow from records on disk to batches, top to bottom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from loader import augment, padding, python_calls, sequences
from loader.bucket import Bucketed
from loader.decode import Features
from loader.finished import finish, normalized
from loader.images import decode_one, images, leading_crop, split_ops
from loader.order import HostView
from loader.plan import Ids
from loader.reading import BOUND, HIDDEN, ID, SEED, VALID
from loader.recipe import Recipe
from loader.state import Cursor, Start, end_of_iteration
from loader.transformed import Transformed
from loader.work import Work, divide

_FINISHES = 4  # batches flipped and normalised at a time, some 10,000 images of 224 x 224 a second each
_END = -1  # in place of an epoch's number


def build(recipe: Recipe, cursor: Cursor) -> tf.data.Dataset:
    """The data set that a recipe describes. Iterations begin at the cursor and move it on."""
    # Rewriting the source of functions, for conditions and loops over tensors, takes longer than tracing them: only
    # users' operations may need it.
    own = not augment.has_foreign(recipe.ops)
    make = tf.autograph.experimental.do_not_convert(_build) if own else _build
    dataset: tf.data.Dataset = make(recipe, cursor)
    return dataset


def _build(recipe: Recipe, cursor: Cursor) -> tf.data.Dataset:
    work = divide(recipe)
    # An epoch is its own little data set, so that no batch holds records of two epochs.
    dataset = _epochs(recipe, cursor).flat_map(lambda epoch: _one_epoch(recipe, work, *tf.unstack(epoch)))
    if recipe.prefetch:
        dataset = dataset.prefetch(recipe.prefetch)
    return dataset.with_options(_options(recipe))


def _one_epoch(
    recipe: Recipe, work: Work, epoch: tf.Tensor, first: tf.Tensor, rows: tf.Tensor
) -> tf.data.Dataset:
    """This host's `rows` rows of an epoch from position `first` on."""
    # Python is entered once a chunk of neighbours in the order, not once a record.
    chunk, size = work.chunk, recipe.batches.host_size
    starts = tf.data.Dataset.range(0, rows, chunk)

    def read(start: tf.Tensor) -> Features:
        return work.read(epoch, first, start, tf.minimum(start + chunk, rows))

    # No batch is smaller then, and so shapes are static.
    drop = recipe.batches.last == "drop" or recipe.has_holes
    if work.is_done:
        # Every stage costs, so that there is no other where none is needed.
        dataset = starts.map(
            lambda start: _complete(recipe, read(start), drop and chunk == size),
            num_parallel_calls=work.reads,
        )
        return dataset if chunk == size else dataset.rebatch(size, drop)
    dataset = starts.map(read, num_parallel_calls=work.reads)
    if recipe.batches.batch_size is None:
        dataset = dataset.unbatch()
        if VALID in dataset.element_spec:
            dataset = dataset.filter(lambda features: features[VALID])
        dataset = dataset.map(
            lambda features: normalized(_prepare(recipe, work, features), recipe.normalize),
            num_parallel_calls=recipe.parallel,
        )
        return dataset.map(lambda features: _arrange(recipe, features))
    if work.one_by_one:
        # One example after the other: with images, most passes over whole batches cost more.
        dataset = _map_and_batch(
            dataset.unbatch(), lambda features: _prepare(recipe, work, features), recipe.parallel, size, drop
        )
    elif chunk != size:
        dataset = dataset.rebatch(size, drop)
    if work.finish_later:
        dataset = dataset.map(
            lambda features: _finish(recipe, features), num_parallel_calls=_finish_calls(recipe)
        )
    return dataset.map(lambda features: _complete(recipe, features, drop))


def _complete(recipe: Recipe, features: Features, fixed: bool) -> object:
    """A batch whose rows are all there, as training wants it; always of the same size if `fixed`."""
    if fixed:
        features = _fixed(features, recipe.batches.host_size)
    if BOUND in features and isinstance(recipe.order, Bucketed):
        features = sequences.pad(features, recipe.order.buckets.names, BOUND)
    if VALID in features:
        blank = padding.zero if recipe.batches.last == "pad" else padding.remove
        features = blank(features, VALID)
    return _arrange(recipe, features)


def _map_and_batch(
    dataset: tf.data.Dataset, function: Callable[[Features], Features], calls: int, size: int, drop: bool
) -> tf.data.Dataset:
    """`map`, then `batch`, each result written to its place in the batch while the processor's caches hold it."""
    # tf.data makes one of the two by itself only where they are not inside a flat_map. What is deprecated is
    # calling it without need, so the wrapped function is called, which does not warn.
    fused = tf.data.experimental.map_and_batch.__wrapped__
    return dataset.apply(fused(function, size, drop_remainder=drop, num_parallel_calls=calls))


def _prepare(recipe: Recipe, work: Work, features: Features) -> Features:
    """One example: its images decoded, cut and resized, unless they are already, then augmented."""
    crop = leading_crop(recipe)
    if not work.decoded:
        for name, feature in images(recipe).items():
            if name not in work.decoders:
                features[name] = decode_one(recipe, features[name], feature, crop, features.get(SEED))
    return _augment(recipe, features, skip=1 if crop else 0)


def _augment(recipe: Recipe, features: Features, skip: int = 0) -> Features:
    """One example after the operations that work on single examples, the first `skip` of them done before."""
    hidden = {name: features.pop(name) for name in HIDDEN if name in features}
    ops = split_ops(recipe)[0][skip:]
    return {**(augment.apply(ops, features, hidden[SEED], first=skip) if ops else features), **hidden}


def _finish_calls(recipe: Recipe) -> int:
    """Batches finished at a time: each is held twice, so no more than the work needs."""
    return recipe.threads if split_ops(recipe)[2] else min(recipe.threads, _FINISHES)


def _finish(recipe: Recipe, features: Features) -> Features:
    """A batch flipped, after the operations that work on batches, and normalised."""
    hidden = {name: features.pop(name) for name in (ID, SEED, VALID) if name in features}
    single, flips, mixing = split_ops(recipe)
    first = len(single)
    none = tf.zeros([0], tf.bool)
    mirror, upturn = augment.flipped(flips, hidden[SEED], first) if flips else (none, none)
    if mixing:
        features = finish(features, mirror, upturn, {}) if flips else features
        first += len(flips)
        features = augment.apply(mixing, features, hidden[SEED], first, hidden.get(VALID))
        mirror = upturn = none
    return {**finish(features, mirror, upturn, recipe.normalize), **hidden}


def _arrange(recipe: Recipe, features: Features) -> object:
    """The form that training wants: (features, label), or a dict where there is no label."""
    if recipe.transform is not None:
        features = _transform(recipe, recipe.transform, features)
    features.pop(SEED, None)
    mask = features.pop(VALID, None) if recipe.batches.last == "pad" else None
    features.pop(VALID, None)
    if recipe.with_ids:
        features |= _named(recipe, features.pop(ID))
    if recipe.label is None:
        return features if mask is None else {**features, "example_mask": mask}
    label = features.pop(recipe.label)
    if recipe.one_hot and label.dtype.is_integer:
        label = tf.one_hot(label, recipe.one_hot)
    inputs = next(iter(features.values())) if len(features) == 1 else features
    # Keras takes the third for sample weights.
    return (inputs, label) if mask is None else (inputs, label, tf.cast(mask, tf.float32))


def _transform(recipe: Recipe, transform: Transformed, features: Features) -> Features:
    """The features after the data set's own transform, and those of them that are wanted."""
    features = transform(features, batched=recipe.batches.batch_size is not None)
    if recipe.chosen is None:
        return features
    return {name: value for name, value in features.items() if name in (*recipe.chosen, *HIDDEN)}


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


def cardinality(recipe: Recipe) -> int | None:
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
