"""What a piece of work costs: processor time over many runs, with what it works on in memory; see `loader.profile`."""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tensorflow as tf

from loader import pipeline
from loader.decode import Features
from loader.recipe import Recipe

IDLE = 0.2  # share of the processors' time: with less of it they, and not waiting, are what bounds
LEAST = 0.05  # share of what was measured that is the work itself
_LEAST_RUNS = 10  # elements that a measurement takes at least, however slow they are
_GROUP = 16  # elements that come to Python at a time

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Of an example.

    Attributes:
      cpu: seconds of processor time.
      wall: seconds from one to the next, with all threads at work.
      idle: share of the processors' time that nobody used meanwhile.
    """

    cpu: float
    wall: float
    idle: float

    def alone(self, threads: int) -> float:
        """Seconds from one to the next on a machine of its own: the clock's where processors were left to wait.

        On a busy machine the clock tells more of its other processes.
        """
        return self.wall if self.idle > IDLE else self.cpu / threads


class Processors:
    """How much of this process's processors nobody used, since it was made."""

    def __init__(self) -> None:
        self._before = self._read()

    def idle(self) -> float:
        """Share of the time, 0 … 1."""
        (idle, total), (idle_before, total_before) = self._read(), self._before
        return (idle - idle_before) / max(1, total - total_before)

    @staticmethod
    def _read() -> tuple[int, int]:
        own = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text("ascii").splitlines()]
        ticks = [[int(number) for number in words[1:9]] for words in lines if words[0] in own]
        return sum(times[3] + times[4] for times in ticks), sum(map(sum, ticks))  # idle and iowait


def cost(work: Callable[[T], int], inputs: Iterable[T], threads: int, seconds: float) -> Cost:
    """Of `work`, which gives the number of examples that it did, on endless `inputs`, `threads` at a time.

    The first one does not count: it may have memory to get and graphs to trace.
    """
    given = iter(inputs)
    work(next(given))
    count, processors = 0, Processors()
    wall, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        while not count or time.perf_counter() - wall < seconds:
            # A few for each thread, so that none runs dry; the results say if one failed.
            count += sum(pool.map(work, itertools.islice(given, 4 * threads)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(cpu / count, wall / count, processors.idle())


def graph_cost(
    recipe: Recipe,
    source: tf.data.Dataset,
    work: Callable[[Any], Features],
    seconds: float,
    *,
    group: int = _GROUP,
    calls: int | None = None,
) -> float:
    """Processor seconds of TensorFlow's `work` on an element of `source`, without getting and handing it on.

    `group` elements come to Python at a time; `calls` are under way at a time, as many as of examples if None.
    """

    def full(value: Any) -> tf.Tensor:
        return _touch(work(value))

    costs = []
    for touch, share in ((full, 0.7), (_touch, 0.3)):
        dataset = source.map(touch, num_parallel_calls=calls or recipe.parallel).batch(group)
        costs.append(run_cost(recipe, dataset, share * seconds).cpu / group)
    return max(costs[0] - costs[1], LEAST * costs[0])  # below that, it is lost in noise


def run_cost(recipe: Recipe, dataset: tf.data.Dataset, seconds: float) -> Cost:
    """Of an element; the first one does not count."""
    elements = iter(dataset.with_options(pipeline._options(recipe)))
    hand_over(next(elements))
    count, processors = 0, Processors()
    wall, cpu = time.perf_counter(), time.process_time()
    while count < _LEAST_RUNS or time.perf_counter() - wall < seconds:
        hand_over(next(elements))
        count += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(cpu / count, wall / count, processors.idle())


@functools.cache
def accelerator() -> str | None:
    """The device to train on, if there is one besides the processors."""
    return next((d.name for kind in ("GPU", "TPU") for d in tf.config.list_logical_devices(kind)), None)


def hand_over(batch: Any) -> None:
    """A batch to who trains: onto its accelerator, else as NumPy arrays, as `as_numpy_iterator` gives them."""
    device = accelerator()
    for value in tf.nest.flatten(batch, expand_composites=True):
        if device is None:
            value._numpy()  # `numpy` would copy it
            continue
        with tf.device(device):
            moved = tf.identity(value)
        tf.reshape(moved, [-1])[:1].numpy()  # waits until it has arrived


def bytes_of(value: Any) -> float:
    """Bytes of the tensors in `value`; of strings, their characters."""
    total = 0
    for part in tf.nest.flatten(value, expand_composites=True):
        strings = part.dtype == tf.string
        total += (
            int(tf.reduce_sum(tf.strings.length(part))) if strings else part.dtype.size * int(tf.size(part))
        )
    return float(total)


def _touch(features: Any) -> tf.Tensor:
    """A number that needs all of the largest tensors there are, so that nothing is optimised away."""
    flat = tf.nest.flatten(features, expand_composites=True)
    images = [value for value in flat if value.shape.rank in (3, 4)] or flat
    firsts = [tf.reshape(value, [-1])[:1] for value in images]
    numbers = [tf.strings.length(v) if v.dtype == tf.string else tf.cast(v, tf.int32) for v in firsts]
    return tf.add_n([tf.reduce_sum(number) for number in numbers])
