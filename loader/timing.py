"""How long training waits for data: measured for every batch, around `next` in Python or inside the graph."""

from __future__ import annotations

import math
import threading
import time
import uuid
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.data.ops.map_op import _MapDataset  # as `map`, whose caller cannot say who runs it
from tensorflow.python.eager import context
from tensorflow.python.framework import config  # its name elsewhere only sets it

# What is counted, one behind the other in a vector of float64: five sums, the longest wait, and a histogram of
# waits whose bounds are powers of 2 ** (1 / 8), 9 % apart, from 1 µs to 71 minutes.
_STARTS, _START_SECONDS, _STEPS, _SECONDS, _TOTAL, _LONGEST, _BINS = range(7)
_PER_OCTAVE, _OCTAVES, _FINEST = 8, 32, 1e-6
_SIZE = _BINS + _PER_OCTAVE * _OCTAVES


def _now() -> tf.Tensor:
    """Seconds; by Python's clock where TensorFlow's own is forbidden, by `enable_op_determinism`."""
    if not config.is_op_determinism_enabled():
        return tf.timestamp()
    return tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), [])


def _destroy(resource: tf.Tensor) -> None:
    # Garbage may be collected while a function is traced, whose graph this is not for: it would wait for its own lock.
    with context.eager_mode():
        tf.raw_ops.DestroyResourceOp(resource=resource, ignore_lookup_error=True)


class Stats(dict[str, Any]):
    """A dict, JSON-able, that prints as one line: waited 0.31 s of 12.60 s (2.5 %) for 240 steps."""

    def __str__(self) -> str:
        wait = self.get("wait")
        if wait is None:
            return f"read {self['reader']['records']} records; waits are measured for batches only"
        return (
            f"waited {wait['seconds']:.2f} s of {wait['total_seconds']:.2f} s ({100 * wait['share']:.1f} %) "
            f"for {wait['steps']} steps, and {wait['start_seconds']:.2f} s to start"
        )


class Waits:
    """Counts how long the consumer of a data set waits for its elements; any number of iterations at a time."""

    def __init__(self) -> None:
        self._lock, self._python = threading.Lock(), np.zeros(_SIZE)
        # Not a tf.Variable: one that is made in the scope of a tf.distribute strategy is mirrored. And not a
        # Python function, which costs three times as much and would wait for the interpreter's lock.
        with tf.device("CPU"):
            self._counts = tf.raw_ops.VarHandleOp(
                dtype=tf.float64, shape=[_SIZE], shared_name=f"headrace-waits-{uuid.uuid4().hex}"
            )
            tf.raw_ops.AssignVariableOp(resource=self._counts, value=tf.zeros([_SIZE], tf.float64))
        weakref.finalize(self, _destroy, self._counts)

    def count(self, wait: float, since: float | None) -> None:
        """Counts an element that came `since` seconds after the one before it, None if it is the first."""
        with self._lock:
            counts = self._python
            counts[_STEPS] += 1
            if since is None:
                counts[_STARTS] += 1
                counts[_START_SECONDS] += wait
                return
            counts[_SECONDS] += wait
            counts[_TOTAL] += since
            counts[_LONGEST] = max(counts[_LONGEST], wait)
            octave = math.log2(max(wait, _FINEST) / _FINEST)
            counts[_BINS + min(int(octave * _PER_OCTAVE), _SIZE - _BINS - 1)] += 1

    def timed(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The same data set, whose every element is timed from the request for it to its delivery, within the graph.

        Put it last: what is behind it, such as another `prefetch`, is the consumer that is timed.
        """
        timed: tf.data.Dataset = tf.autograph.experimental.do_not_convert(self._timed)(dataset)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it would be what is timed
        return timed.with_options(options)

    def _timed(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        # The clock is read by the thread that asks: in the pool it would queue behind the decoding that is waited for.
        asked = _MapDataset(tf.data.Dataset.counter(), lambda _: _now(), use_inter_op_parallelism=False)
        # A zip asks its parts one after the other: the clock, then the data.
        return tf.data.Dataset.zip(asked, dataset).scan(tf.constant(0.0, tf.float64), self._count)

    def stats(self) -> dict[str, Any]:
        """What was measured so far; see `Loader.stats`."""
        graph = tf.raw_ops.ReadVariableOp(resource=self._counts, dtype=tf.float64).numpy()
        with self._lock:
            counts = graph + self._python
            counts[_LONGEST] = max(graph[_LONGEST], self._python[_LONGEST])
        steady = int(counts[_STEPS] - counts[_STARTS])
        total = float(counts[_TOTAL])
        return {
            "steps": int(counts[_STEPS]),
            "seconds": float(counts[_SECONDS]),
            "total_seconds": total,
            "share": float(counts[_SECONDS]) / total if total else 0.0,
            "mean_seconds": float(counts[_SECONDS]) / steady if steady else 0.0,
            "p50_seconds": _quantile(counts, 0.5),
            "p90_seconds": _quantile(counts, 0.9),
            "max_seconds": float(counts[_LONGEST]),
            "starts": int(counts[_STARTS]),
            "start_seconds": float(counts[_START_SECONDS]),
        }

    def _count(self, before: tf.Tensor, item: tuple[tf.Tensor, Any]) -> tuple[tf.Tensor, Any]:
        """Counts an element that was asked for at a time, the one before it having come at `before`."""
        asked, element = item
        came = _now()
        # Clocks may be set back.
        self._add(tf.equal(before, 0), tf.maximum(came - asked, 0), tf.maximum(came - before, 0))
        return came, element

    def _add(self, is_first: tf.Tensor, wait: tf.Tensor, since: tf.Tensor) -> None:
        """Adds a wait, and the time since the element before, both in seconds."""
        first = tf.cast(is_first, tf.float64)
        later = 1 - first
        octave = tf.math.log(tf.maximum(wait, _FINEST) / _FINEST) / np.log(2)
        place = tf.minimum(tf.cast(octave * _PER_OCTAVE, tf.int32), _SIZE - _BINS - 1)
        tf.raw_ops.ResourceScatterAdd(
            resource=self._counts,
            indices=tf.stack([_STARTS, _START_SECONDS, _STEPS, _SECONDS, _TOTAL, _BINS + place]),
            updates=tf.stack([first, first * wait, 1, later * wait, later * since, later]),
        )
        tf.raw_ops.ResourceScatterMax(resource=self._counts, indices=_LONGEST, updates=later * wait)


def _quantile(counts: npt.NDArray[np.float64], share: float) -> float:
    """Read off the histogram: within 5 %."""
    seen = np.cumsum(counts[_BINS:])
    if not seen[-1]:
        return 0.0
    place = int(np.searchsorted(seen, share * seen[-1]))
    middle = _FINEST * 2 ** ((place + 0.5) / _PER_OCTAVE)
    return float(min(middle, counts[_LONGEST]))
