"""Batches of examples of like length, planned from the lengths in the index. No TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader.checks import check_count
from loader.memo import kept
from loader.order import HOLE, Order
from loader.plan import Ids, Plan
from schemas import HeadraceError
from schemas.hashing import fingerprint

Lengths = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Buckets:
    """What `load(…, sequences=Buckets("tokens", [32, 64, 128]))` asks for: batches of examples of like length.

    Attributes:
      by: a feature that is a list of any length, or several; the longest decides.
      bounds: the most values of an example of each bucket, rising.
      padded: whether the lists named in `by` are padded with zeros up to the bound, so that there are as few shapes
        as buckets, (batch, bound); else they are RaggedTensors.
    """

    by: str | Sequence[str]
    bounds: Sequence[int]
    padded: bool = True

    def __post_init__(self) -> None:
        for bound in self.bounds:
            check_count("bounds", bound, 1)
        if not self.bounds or any(a >= b for a, b in zip(self.bounds, self.bounds[1:], strict=False)):
            raise HeadraceError(
                "The bounds of buckets must rise.",
                where="bounds",
                value=list(self.bounds),
                allowed="such as [32, 64, 128]",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The features of `by`."""
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)

    @property
    def most(self) -> int:
        """The most values of an example."""
        return int(self.bounds[-1])


@dataclass(frozen=True, eq=False)
class Bucketed:
    """Another order, dealt to buckets: a batch comes when it is full, and the rest at the end of the epoch.

    Every batch holds examples of one bucket in the order given. What is left in each bucket makes a last batch of
    it, with holes.

    Attributes:
      order: that is dealt.
      lengths: of the examples, by id.
      buckets: as asked for.
      batch_size: examples of a batch.
      last: what becomes of batches with holes: "drop", else they are there.
    """

    order: Order
    lengths: Lengths
    buckets: Buckets
    batch_size: int
    last: str

    @functools.cached_property
    def identity(self) -> str:
        """Names all that decides the order but the epoch."""
        bounds = [int(bound) for bound in self.buckets.bounds]
        return fingerprint("buckets", self.order.identity, self.buckets.names, bounds, self.batch_size)

    @property
    def is_even(self) -> bool:
        """Whether all epochs have the same number of positions: they do if each has every example once."""
        return isinstance(self.order, Plan)

    @property
    def has_holes(self) -> bool:
        """Whether some positions hold no example."""
        return self.last != "drop"

    def count(self, epoch: int) -> int:
        """Positions of an epoch: whole batches."""
        return _count(self, 0 if self.is_even else epoch)

    def ids(self, epoch: int, start: int, stop: int) -> Ids:
        """The examples at positions `start` … `stop - 1`, int64 of shape (stop - start,); HOLE where there is none."""
        return _dealt(self, epoch).ids[start:stop].astype(np.int64)

    def seeds(self, epoch: int, positions: Ids, ids: Ids) -> npt.NDArray[np.int64]:
        """Seeds of the examples, which are those of the order that is dealt."""
        places = _dealt(self, epoch).positions
        own = np.where(ids == HOLE, HOLE, places[np.where(ids == HOLE, 0, positions)])
        return self.order.seeds(epoch, own.astype(np.int64), ids)

    def bounds(self, epoch: int, positions: Ids) -> Ids:
        """The bound of the bucket that each position belongs to, int64 (n,)."""
        bounds = np.array(self.buckets.bounds, np.int64)
        return bounds[_dealt(self, epoch).buckets[positions // self.batch_size]]

    def efficiency(self, epoch: int) -> float:
        """Share of the values in an epoch's padded batches that are no padding."""
        dealt = _dealt(self, epoch)
        real = dealt.ids != HOLE
        rows = real.reshape(-1, self.batch_size).sum(1) if self.last == "keep" else self.batch_size
        room = int((np.array(self.buckets.bounds)[dealt.buckets] * rows).sum())
        return int(self.lengths[dealt.ids[real]].sum(dtype=np.int64)) / max(1, room)


@dataclass(frozen=True)
class _Dealt:
    """An epoch: per position the example and its position in the order that is dealt; per batch its bucket."""

    ids: Lengths
    positions: Lengths
    buckets: Ids


@kept(2)
def _dealt(bucketed: Bucketed, epoch: int) -> _Dealt:
    size, count = bucketed.batch_size, bucketed.order.count(epoch)
    ids = bucketed.order.ids(epoch, 0, count)
    # Sorting 16 bits each is a matter of counting.
    of = np.searchsorted(bucketed.buckets.bounds, bucketed.lengths[ids]).astype(np.uint16)
    sizes = np.bincount(of, minlength=len(bucketed.buckets.bounds))
    batches = -(-sizes // size)
    # Half the memory, as long as it holds every number.
    small = np.int32 if max(count, len(bucketed.lengths)) < 2**31 else np.int64
    places = np.full(batches.sum() * size, HOLE, small)
    first = (np.cumsum(batches) - batches) * size
    places[np.arange(count) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)] = np.argsort(
        of, kind="stable"
    )
    places = places.reshape(-1, size)
    buckets = np.repeat(np.arange(len(sizes)), batches)
    filled = places[:, -1].astype(np.int64)
    order = np.argsort(np.where(filled == HOLE, count + buckets, filled), kind="stable")
    if bucketed.last == "drop":
        order = order[filled[order] != HOLE]
    places = places[order].ravel()
    return _Dealt(
        np.where(places == HOLE, HOLE, ids[places] if count else places).astype(small), places, buckets[order]
    )


@kept(None)
def _count(bucketed: Bucketed, epoch: int) -> int:
    if not bucketed.is_even:
        return len(_dealt(bucketed, epoch).ids)
    sizes = np.bincount(np.searchsorted(bucketed.buckets.bounds, bucketed.lengths))
    size = bucketed.batch_size
    return int((sizes // size if bucketed.last == "drop" else -(-sizes // size)).sum()) * size
