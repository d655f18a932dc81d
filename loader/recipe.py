"""All that decides what a data set yields. `load` makes one, `pipeline` does what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loader.augment import Ops
from loader.cache import Cache, Column
from loader.finish import Affine
from loader.mixture import MixedPart, MixedReader
from loader.order import Batches, Order
from loader.part import Part
from loader.read import CachedReader, Reader
from loader.state import Start
from loader.transformed import Transformed
from schemas.features import Feature


@dataclass(frozen=True)
class Recipe:
    """All that decides what a data set yields. Built and checked by `load`."""

    data: str  # what is read, in words
    order: Order
    batches: Batches
    start: Start
    epochs: int | None  # of an iteration; None for ever
    part: Part | MixedPart
    reader: Reader | MixedReader | CachedReader
    skip_corrupt: bool
    mean_bytes: int  # of a record
    features: Mapping[str, Feature]
    label: str | None
    with_ids: bool
    firsts: tuple[int, ...] | None  # of a mixture: the id of each data set's first record
    image_size: tuple[int, int] | None
    resize: str
    image_shapes: Mapping[str, tuple[int, int, int]]  # of what is cached
    ops: Ops
    normalize: Mapping[str, Affine]  # images to make float32 at the end
    crop_first: bool  # the first operation crops the stored image to image_size
    cache: Cache | None
    columns: Sequence[Column]
    transform: Transformed | None  # what a batch goes through last
    chosen: tuple[str, ...] | None  # of what comes out of it; all if None
    one_hot: int  # classes, or 0 for labels as they are stored
    reads: int  # chunks read at a time
    parallel: int
    threads: int
    workers: int  # threads that decode
    prefetch: int

    @property
    def has_holes(self) -> bool:
        """Whether rows of a batch may hold no example."""
        return self.order.has_holes or self.batches.has_holes
