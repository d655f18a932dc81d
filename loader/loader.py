"""What `load` gives: a `tf.data.Dataset` that knows where it is and how it fares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from loader.bucket import Bucketed
from loader.iterator import BatchIterator
from loader.packing import Packed
from loader.pipeline import build, cardinality
from loader.read import CachedReader
from loader.recipe import Recipe
from loader.state import Cursor, Start, advance, end_of_iteration, from_dict, to_dict
from loader.timing import Stats, Waits


class Loader(tf.data.Dataset):
    """A `tf.data.Dataset` of examples or batches; see `load` for what it yields.

    Whatever tf.data offers (`map`, `take`, `zip` …) gives plain data sets, which know nothing of states any more:
    keep the loader itself to ask it.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._start = recipe.start
        self._cursor = Cursor(recipe.start)
        self._waits = Waits()
        # After a seek an iteration may be shorter than `len` says, so that what is iterated is not what is counted.
        self._plain = build(recipe, self._cursor)
        # Timing single examples would cost more than many of them do.
        self._is_timed = recipe.batches.batch_size is not None
        self._unchecked = self._waits.timed(self._plain) if self._is_timed else self._plain
        self._dataset, total = self._unchecked, cardinality(recipe)
        if total is not None:
            self._dataset = self._dataset.apply(tf.data.experimental.assert_cardinality(total))
        super().__init__(self._dataset._variant_tensor)

    def __iter__(self) -> Iterator[Any]:
        if not (self._is_timed and tf.executing_eagerly()):
            return iter(self._unchecked)
        ahead = bool(self._recipe.prefetch)
        return BatchIterator(self._plain, self._waits, lambda: self._cursor.place, self._rest, ahead=ahead)

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._dataset]

    @property
    def element_spec(self) -> Any:
        """Types and shapes of an element."""
        return self._dataset.element_spec

    @property
    def batch_size(self) -> int | None:
        """Examples of a batch over all hosts."""
        return self._recipe.batches.batch_size

    @property
    def step(self) -> int:
        """The step at which this loader starts: 0, or that of the state it was loaded with."""
        return self._start.step

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Batches of an epoch, the same on every host; examples of this host where there are no batches."""
        return self._recipe.batches.steps(self._recipe.order.count(epoch))

    def efficiency(self, epoch: int = 0) -> float:
        """Share of the values in the padded or packed lists of an epoch that are no padding; 1 without `sequences`."""
        order = self._recipe.order
        return order.efficiency(epoch) if isinstance(order, (Bucketed, Packed)) else 1.0

    def state(self, step: int) -> dict[str, Any]:
        """Where training stands after `step` batches: give it to `load(…, state=…)` to go on from there.

        A pure function: it does not matter what has been read so far, here or ahead by `prefetch`. The same on every
        host, and any number of hosts can go on from it. JSON-able, less than 1 KB.

        Args:
          step: batches (examples, where there are none) taken since the beginning of training, over all restarts.

        Raises:
          HeadraceError: the step lies before the one this loader started at.
        """
        return to_dict(self._place(step), self._recipe.order, self._recipe.data)

    def _place(self, step: int) -> Start:
        return advance(self._start, self._recipe.order, self._recipe.batches, step)

    def _resume(self, saved: Mapping[str, Any]) -> None:
        """Go on from a state, as `load(…, state=saved)` does, whatever has been iterated before."""
        self._start = from_dict(saved, self._recipe.order, self._recipe.data)
        self._cursor.place = self._start

    def _seek(self, step: int) -> int | None:
        """Begin the next iteration at `step`; its batches, or None if it never ends."""
        self._cursor.place = self._place(step)
        return self._steps(self._cursor.place)

    def _rest(self, begin: Start, taken: int) -> tf.data.Dataset:
        """What is left of an iteration after so many batches, to be iterated next."""
        if not taken:
            return self._unchecked
        if taken == self._steps(begin):
            return self._unchecked.take(0)
        order, batches = self._recipe.order, self._recipe.batches
        self._cursor.place = advance(begin, order, batches, begin.step + taken)
        return self._unchecked

    def _steps(self, place: Start) -> int | None:
        """Batches of an iteration from a place on, or None if it never ends."""
        recipe = self._recipe
        if recipe.epochs is None:
            return None
        counts = [
            recipe.order.count(epoch) for epoch in range(place.epoch, end_of_iteration(place, recipe.epochs))
        ]
        return sum(map(recipe.batches.steps, [counts[0] - place.position, *counts[1:]]))

    def stats(self) -> Stats:
        """How this loader fares so far, over all iterations: a dict, JSON-able, that prints as one line.

        wait: None without batches, else how long the consumer waited for them, from the request to the delivery. The
          first of an iteration is counted apart, since it waits for the pipeline to start. Measured around `next` in a
          loop in Python; where TensorFlow iterates, as in Keras' `fit`, without the way out of its graph. What reads
          ahead behind the loader, such as a `prefetch` or a strategy with several devices, is the consumer that is
          measured.
            steps: batches delivered.
            seconds: waited for all but the first of each iteration.
            total_seconds: from the first delivery of an iteration to its last, waits and work.
            share: seconds / total_seconds.
            mean_seconds, p50_seconds, p90_seconds, max_seconds: of a step; p50 and p90 to within 5 %.
            starts, start_seconds: iterations begun, and seconds waited for the first of each.
        reader: see `Reader.stats`: records, bytes, reads, retries, and corrupt records with shard and offset. It
          includes what was read ahead.
        cache: None without one, else `examples` that it holds, and its `room`, in examples.
        """
        recipe = self._recipe
        cache = recipe.reader.cache if isinstance(recipe.reader, CachedReader) else recipe.cache
        return Stats(
            wait=None if recipe.batches.batch_size is None else self._waits.stats(),
            reader=recipe.reader.stats(),
            cache=None if cache is None else {"examples": cache.stored, "room": cache.room},
        )
