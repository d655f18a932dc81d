"""What `load` gives: a `tf.data.Dataset` that knows where it is and how it fares."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from loader import state
from loader.pipeline import Recipe, build


class Loader(tf.data.Dataset):
    """A `tf.data.Dataset` of examples or batches; see `load` for what it yields.

    Whatever tf.data offers (`map`, `take`, `zip` …) gives plain data sets, which know nothing of states any more:
    keep the loader itself to ask it.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._dataset = build(recipe)
        super().__init__(self._dataset._variant_tensor)

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
        return self._recipe.start.step

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Batches of an epoch, the same on every host; examples of this host where there are no batches."""
        return self._recipe.batches.steps(self._recipe.order.count(epoch))

    def state(self, step: int) -> dict[str, Any]:
        """Where training stands after `step` batches: give it to `load(…, state=…)` to go on from there.

        A pure function: it does not matter what has been read so far, here or ahead by `prefetch`. The same on every
        host, and any number of hosts can go on from it. JSON-able, less than 1 KB.

        Args:
          step: batches (examples, where there are none) taken since the beginning of training, over all restarts.

        Raises:
          HeadraceError: the step lies before the one this loader started at.
        """
        recipe = self._recipe
        place = state.advance(recipe.start, recipe.order, recipe.batches, step)
        return state.to_dict(place, recipe.order, recipe.data)
