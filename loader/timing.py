"""How long training waits for data."""

from __future__ import annotations

import tensorflow as tf


class WaitTimer:
    """Measures, inside the graph, how long the consumer of a data set waits for its elements.

    >>> wait = WaitTimer()                                  # doctest: +SKIP
    >>> model.fit(wait.timed(train), epochs=2)              # doctest: +SKIP
    >>> print(wait)                                         # doctest: +SKIP
    waited 0.31 s of 12.60 s (2.5 %) for 240 elements
    """

    def __init__(self) -> None:
        with tf.device("CPU"):
            # Seconds waited, elements, when the first was asked for, when the last one came.
            self._state = tf.Variable(tf.zeros([4], tf.float64), trainable=False)

    def timed(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same data set, whose every element is timed from the request for it to its delivery.

        Put it last: what is behind it, such as another `prefetch`, would be the consumer that is timed.
        """
        before, after = (tf.data.Dataset.counter().map(lambda _: tf.timestamp()) for _ in range(2))
        # A zip asks its parts one after the other: the clock, the data, the clock again.
        timed = tf.data.Dataset.zip(before, dataset, after).map(self._count)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it would be what is timed
        return timed.with_options(options)

    @property
    def seconds(self) -> float:
        """Seconds waited so far."""
        return float(self._state[0])

    @property
    def elements(self) -> int:
        """Elements (batches, where the data set is batched) delivered so far."""
        return int(self._state[1])

    @property
    def total_seconds(self) -> float:
        """Seconds from the first request to the last delivery."""
        return float(self._state[3] - self._state[2])

    def reset(self) -> None:
        """Start again from nothing."""
        self._state.assign(tf.zeros([4], tf.float64))

    def __str__(self) -> str:
        total = self.total_seconds
        share = 100 * self.seconds / total if total else 0.0
        return f"waited {self.seconds:.2f} s of {total:.2f} s ({share:.1f} %) for {self.elements} elements"

    def _count(self, asked: tf.Tensor, element: object, came: tf.Tensor) -> object:
        old = self._state.read_value()
        first = tf.where(old[1] == 0, asked, old[2])
        update = self._state.assign(tf.stack([old[0] + came - asked, old[1] + 1, first, came]))
        with tf.control_dependencies([update]):
            return tf.nest.map_structure(tf.identity, element, expand_composites=True)
