"""The whole loader for a while, and what was measured of its stages; see `loader.profile`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loader.loader import Loader
from loader.profile_cost import IDLE, hand_over
from loader.profile_flow import Flow
from loader.profile_stages import Stage
from loader.read import CachedReader
from loader.recipe import Recipe
from loader.records import Texts

_SETTLE = 0.15  # share of a run's time before it counts …
_SETTLE_BATCHES = 8  # … and batches, at least
_LEAST_BATCHES = 6  # of a run
_PROBE = 8  # batches that tell how fast a cache fills


@dataclass(frozen=True)
class Run:
    """The whole loader, for a while.

    Attributes:
      speed: examples a second.
      cpu: processor seconds of an example.
      idle: share of the time that the consumer waited.
    """

    speed: float
    cpu: float
    idle: float


class Feed:
    """Batches of a loader, taken one after the other over several runs."""

    def __init__(self, loader: Loader) -> None:
        self._size, self._batches = loader._recipe.batches.host_size, iter(loader)
        next(self._batches)

    def run(self, seconds: float, step_seconds: float = 0.0) -> Run:
        """Takes batches for some seconds, with a simulated step for each."""
        # What was made ahead while nobody asked is no measure of speed.
        self._take(_SETTLE * seconds, step_seconds, _SETTLE_BATCHES)
        wall, cpu = time.perf_counter(), time.process_time()
        batches, waited = self._take(seconds, step_seconds, _LEAST_BATCHES)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        count = batches * self._size
        return Run(count / wall, cpu / count, waited / wall)

    def _take(self, seconds: float, step_seconds: float, least: int) -> tuple[int, float]:
        """Batches that were taken, and the seconds that they were waited for."""
        count, waited, start = 0, 0.0, time.perf_counter()
        while count < least or time.perf_counter() - start < seconds:
            if step_seconds:
                time.sleep(step_seconds)
            asked = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - asked
            hand_over(batch)
            count += 1
        return count, waited


@dataclass(frozen=True)
class Setup:
    """A loader and what was measured of it. `make(split, **options)` gives one with other options of `load`."""

    make: Callable[..., Loader]
    split: str
    flow: Flow
    stages: tuple[Stage, ...]
    whole: Run
    sample: Texts
    encoded: Mapping[str, Texts]
    feed: Feed
    free: float  # share of the processors' time that nobody used

    @property
    def recipe(self) -> Recipe:
        """Of the loader."""
        return self.flow.recipe

    @property
    def cached(self) -> bool:
        """Whether it takes examples from a cache, in whatever form."""
        return self.recipe.cache is not None or isinstance(self.recipe.reader, CachedReader)

    @property
    def other(self) -> float:
        """Processor seconds of an example that the stages do not explain."""
        return max(0.0, self.whole.cpu - sum(stage.cpu for stage in self.stages))

    def stage(self, name: str) -> Stage | None:
        """The stage of this name, if there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def cpu(self, *names: str) -> float:
        """Processor seconds of some stages."""
        return sum(stage.cpu for stage in self.stages if stage.name in names)

    def without(self, *names: str) -> float:
        """Processor seconds of all but some stages."""
        return sum(stage.cpu for stage in self.stages) + self.other - self.cpu(*names)

    @property
    def waits(self) -> bool:
        """Whether the loader leaves processors free that it may use: it waits, or runs on one of them only."""
        got = self.whole.speed * self.whole.cpu
        return self.free > IDLE and got < (1 - IDLE) * self.recipe.workers

    @property
    def bound(self) -> str:
        """The stage that bounds the speed."""
        if self.waits:
            return max(self.stages, key=lambda stage: stage.seconds).name
        # Stages that compute share the processors, so that what bounds is the one that takes most of them.
        heaviest = max(self.stages, key=lambda stage: stage.cpu)
        return heaviest.name if heaviest.cpu >= self.other else "other"

    @property
    def starved(self) -> bool:
        """Whether processors are free because reading takes long."""
        return self.waits and self.bound == "read"

    def compare(self, loader: Loader, unit: float) -> float:
        """Examples a second of another loader, as far as the machine is as busy as when `whole` was measured.

        Both are run in turn, since other processes come and go.
        """
        other = Feed(loader)
        before, speed, after = self.feed.run(unit), other.run(2 * unit).speed, self.feed.run(unit)
        return 2 * speed / (before.speed + after.speed) * self.whole.speed

    def speed(self, cpu: float, *, read: float | None = None) -> float:
        """Examples a second, were `cpu` the processor time of one and `read` the time to read one.

        The processors that the loader got so far are what it gets, unless it left them to wait for reading.
        """
        stage = self.stage("read")
        if not self.starved or stage is None:
            return self.whole.speed * self.without() / cpu
        return 1 / max(cpu / self.recipe.workers, stage.seconds if read is None else read)


def probe(make: Callable[..., Loader], split: str) -> tuple[Loader, float]:
    """A loader whose cache holds a few examples, and how many a second it took to fill.

    What it takes to start counts too, which is as well: who stores more by that speed loses no second.
    """
    if "[" not in split:
        recipe = make(split)._recipe
        split = f"{split}[:{min(len(recipe.part), _PROBE * recipe.batches.host_size)}]"
    loader = make(split, cache="memory")
    return loader, len(loader._recipe.part) / _epoch(loader)


def fill(make: Callable[..., Loader], split: str, examples: float, **options: Any) -> Loader:
    """A loader whose cache is full: of so many of the first examples, or of all of a part of a split."""
    if "[" not in split:
        recipe = make(split)._recipe
        least = min(len(recipe.part), _PROBE * recipe.batches.host_size)
        split = f"{split}[:{max(least, min(len(recipe.part), int(examples)))}]"
    loader = make(split, **options)
    _epoch(loader)
    return loader


def _epoch(loader: Loader) -> float:
    """Seconds of an epoch."""
    start = time.perf_counter()
    for _ in zip(range(loader.steps_per_epoch()), loader, strict=False):
        pass
    return time.perf_counter() - start
