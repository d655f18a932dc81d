"""`profile`: which stage bounds a loader's speed, how idle it leaves an accelerator, and what would change that.

Every stage is run by itself with its input in memory, and its processor time is counted: that is exact to a few
percent even for a small stage behind a large one, and on a busy machine, where differences between longer and longer
pipelines drown in noise. The whole loader is run too; what the stages do not explain of it is moving examples on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loader import native, profile_stages
from loader.api import load
from loader.checks import check_count
from loader.loader import Loader
from loader.profile_changes import Change, changes
from loader.profile_cost import Processors
from loader.profile_flow import Flow
from loader.profile_runs import Feed, Run, Setup, fill, probe
from loader.profile_stages import Stage
from loader.records import Texts
from schemas import HeadraceError, read_manifest
from schemas.features import ImageFeature


@dataclass(frozen=True)
class Profile:
    """What was found.

    Attributes:
      data: the data set and the part of it that was looked at.
      records, bytes: of that part.
      options: of `load`.
      processors: that the loader uses.
      native: whether its native core is there.
      stages: in the order of the flow.
      whole: the loader as training meets it.
      other: what of its processor time the stages do not explain.
      bound: the name of the stage that bounds its speed.
      waits: whether that stage leaves processors free: it waits, or runs on one of them only.
      step_seconds: of the simulated step.
      idle_predicted, idle_measured: share of the time that an accelerator with such steps waits.
      changes: what would help, the best first.
      complete: whether there was time to try all of them.
      seconds: that all of this took.
    """

    data: str
    records: int
    bytes: int
    options: Mapping[str, Any]
    processors: int
    native: bool
    stages: tuple[Stage, ...]
    whole: Run
    other: float
    bound: str
    waits: bool
    step_seconds: float
    idle_predicted: float
    idle_measured: float
    changes: tuple[Change, ...]
    complete: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Everything, for scripts. Times are in seconds, of processors per example; speeds in examples a second."""
        return dataclasses.asdict(self)


def profile(
    directory: str | Path,
    split: str = "train",
    *,
    step_seconds: float = 0.05,
    seconds: float = 20.0,
    batch_size: int = 64,
    image_size: int | tuple[int, int] | None = None,
    augment: str | None = "standard",
    cache: str | None = None,
    threads: int | None = None,
) -> Profile:
    """Measures a loader stage by stage, as training would use it.

    Args:
      directory: of the data set.
      split: or a part of one.
      step_seconds: that the accelerator takes for a batch.
      seconds: to spend, about.
      batch_size: examples of a batch.
      image_size: as of `load`; None for the size that images are stored in, or 224 where they differ in size.
      augment: a preset's name, or None. Tables are not augmented.
      cache: as of `load`. What is measured then is an epoch from the cache, of the first records of the split if it
        takes too long to fill it with all.
      threads: as of `load`.

    Raises:
      HeadraceError: as of `load`, or there are too few records for a batch.
    """
    started, unit = time.perf_counter(), seconds / 34  # of which there are about 23, and time to start
    check_count("batch_size", batch_size, 1)
    options = _options(
        directory,
        batch_size=batch_size,
        image_size=image_size,
        augment=augment,
        cache=cache,
        threads=threads,
    )

    def make(split: str = split, **more: Any) -> Loader:
        return load(directory, split, training=True, repeat=True, **{**options, **more})

    loader = make()
    records = len(loader._recipe.part)
    if records < batch_size:
        raise HeadraceError(
            "There are too few records to measure.",
            where=f"{directory}, {split}",
            value=f"{records} records",
            allowed=f"{batch_size} or more, so that there is a batch",
            hint="Give a smaller batch size, or another split.",
        )
    if cache is not None:
        loader = fill(make, split, 3 * unit * probe(make, split)[1], cache=cache)
    recipe = loader._recipe
    setup = measure_stages(loader, make, split, unit)
    idle = max(0.0, 1 - step_seconds * setup.whole.speed / batch_size)
    idle_measured = setup.feed.run(3 * unit, step_seconds).idle
    found, complete = changes(setup, unit, started + seconds)
    return Profile(
        data=recipe.data.rpartition(",")[0],
        records=records,
        bytes=recipe.mean_bytes * records,
        options={**options, "split": split},
        processors=recipe.workers,
        native=native.core is not None,
        stages=setup.stages,
        whole=setup.whole,
        other=setup.other,
        bound=setup.bound,
        waits=setup.waits,
        step_seconds=step_seconds,
        idle_predicted=idle,
        idle_measured=idle_measured,
        changes=tuple(found),
        complete=complete,
        seconds=time.perf_counter() - started,
    )


def measure_stages(loader: Loader, make: Callable[..., Loader], split: str, unit: float) -> Setup:
    """Every stage by itself, and the whole."""
    recipe = loader._recipe
    flow = Flow(recipe)
    stages: list[Stage | None] = []
    sample: Texts = np.empty(0, object)
    encoded: Mapping[str, Texts] = {}
    if recipe.cache is not None:
        stages.append(profile_stages.measure_cache(flow, unit))
    else:
        read, sample = profile_stages.measure_read(flow, unit)
        encoded = flow.encoded(sample)
        stages += [read, profile_stages.measure_parse(flow, sample, unit)]
        stages.append(profile_stages.measure_decode(flow, encoded, 2 * unit))
    stages += profile_stages.measure_rest(flow, unit)
    stages.append(profile_stages.measure_transfer(flow, 0.5 * unit))
    # Other records than those that were read for the stages, which are in the page cache now. Not before: a loader
    # makes batches ahead, which would be counted with the stages.
    feed = Feed(loader if recipe.cache is not None else make(seed=1))
    processors = Processors()
    whole = feed.run(3 * unit)
    return Setup(
        make=make,
        split=split,
        flow=flow,
        stages=tuple(stage for stage in stages if stage is not None),
        whole=whole,
        sample=sample,
        encoded=encoded,
        feed=feed,
        free=processors.idle(),
    )


def _options(
    directory: str | Path,
    *,
    batch_size: int,
    image_size: int | tuple[int, int] | None,
    augment: str | None,
    cache: str | None,
    threads: int | None,
) -> dict[str, Any]:
    """The options of `load`, as far as they differ from its defaults."""
    features = read_manifest(directory).features.values()
    images = [feature for feature in features if isinstance(feature, ImageFeature)]
    if images and image_size is None:
        shapes = {feature.stored_shape[:2] for feature in images}
        image_size = 224 if len(shapes) > 1 or None in shapes.copy().pop() else None
    given = {
        "batch_size": batch_size,
        "image_size": image_size if images else None,
        "augment": augment if images else None,
        "cache": cache,
        "threads": threads,
    }
    return {name: value for name, value in given.items() if value is not None}
