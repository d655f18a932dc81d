"""Batches for a loop in Python: the next one is waiting there already when training asks for it.

A call of tf.data that has slept with its thread takes 0.7 to 2 ms to give a batch that is ready, 1 to 4 % of a step of
50 ms: all of TensorFlow's code and data for it have left the processor's caches. Here another thread makes that call
while training computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops.iterator_ops import OwnedIterator  # TensorFlow's functions take no other

from loader.state import Start
from loader.timing import Waits

_AWAY_SECONDS = 0.002  # between two requests: where it is less, handing over between threads gains nothing
_END = object()


class BatchIterator(OwnedIterator):
    """One iteration of a loader.

    A loop in Python takes batches of `plain` and has its waits measured here. Once TensorFlow itself is to take
    them, since the iterator was given to a `tf.function` as Keras does or is saved in a checkpoint, this becomes an
    iterator of the data set that `rest` gives, for good.

    Args:
      plain: the batches, not timed.
      waits: counts how long they were waited for.
      begin: tells where the iteration that is about to begin does so.
      rest: the timed data set that goes on with an iteration begun at a place, of which so many batches were taken.
      ahead: whether a batch may be taken before it is asked for.
    """

    def __init__(
        self,
        plain: tf.data.Dataset,
        waits: Waits,
        begin: Callable[[], Start],
        rest: Callable[[Start, int], tf.data.Dataset],
        *,
        ahead: bool,
    ) -> None:
        # Not OwnedIterator's own, which would begin to iterate: see `__getattr__`.
        self._element_spec = plain.element_spec
        self._plain, self._waits, self._begin, self._rest = plain, waits, begin, rest
        self._may_be_ahead = ahead
        self._lock = threading.RLock()
        self._source: Iterator[Any] | None = None
        self._place: Start | None = None
        self._taken, self._came = 0, 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Future[Any] | None = None
        self._is_tensorflows = False

    def __next__(self) -> Any:
        if self._is_tensorflows or not tf.executing_eagerly():
            return super().__next__()
        with self._lock:
            return self._next()

    def _next(self) -> Any:
        asked = time.perf_counter()
        if self._source is None:
            self._place, self._source = self._begin(), iter(self._plain)
        if self._coming is None:
            batch = next(self._source, _END)
        else:
            self._coming.exception()  # waits, and nothing is lost if that is interrupted
            coming, self._coming = self._coming, None
            batch = coming.result()
        if batch is _END:
            raise StopIteration
        if self._may_be_ahead and self._taken and asked - self._came > _AWAY_SECONDS:
            self._pool = self._pool or ThreadPoolExecutor(1, "headrace-next")
            self._coming = self._pool.submit(next, self._source, _END)
        came = time.perf_counter()
        self._waits.count(came - asked, came - self._came if self._taken else None)
        self._taken, self._came = self._taken + 1, came
        return batch

    def __getattr__(self, name: str) -> Any:
        # What OwnedIterator keeps of the iterator that it is.
        if name not in ("_iterator_resource", "_dataset", "_flat_output_types", "_flat_output_shapes"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._lock:
            if not self._is_tensorflows:
                self._become_tensorflows()
        return object.__getattribute__(self, name)

    def _become_tensorflows(self) -> None:
        if self._coming is not None:
            self._coming.exception()
        place = self._begin() if self._place is None else self._place
        self._source = self._coming = self._pool = None
        with tf.init_scope():
            super().__init__(self._rest(place, self._taken))
        self._is_tensorflows = True
