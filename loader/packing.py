"""Several short examples in each row of one length: rows planned from the lengths in the index. No TensorFlow.

Best fit decreasing (the longest example first, each where it leaves the least room) within windows of the order: as
good as full rows on lengths as they come in practice, while a window's records lie together on disk. Examples of one
length are placed at once, so that a window costs what it has of different lengths.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loader.bucket import Lengths
from loader.checks import check_count
from loader.memo import kept
from loader.order import HOLE, Order
from loader.plan import WINDOW_BYTES, Ids, philox_key, sorted_by_philox
from schemas.hashing import fingerprint

_WINDOW = (1 << 12, 1 << 16)  # examples, at least and at most


@dataclass(frozen=True)
class Packing:
    """What `load(…, sequences=Packing("tokens", 512))` asks for: rows of several examples, one behind the other.

    Attributes:
      by: a feature that is a list of any length, or several of which an example has equally many values.
      length: values of a row.
    """

    by: str | Sequence[str]
    length: int

    def __post_init__(self) -> None:
        check_count("length", self.length, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """The features of `by`."""
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)

    @property
    def most(self) -> int:
        """The most values of an example."""
        return int(self.length)


@dataclass(frozen=True, eq=False)
class Packed:
    """Another order, packed: its positions are rows, and `examples` says what is in them. `ids` gives their numbers.

    Examples without values are in no row.

    Attributes:
      order: that is packed.
      lengths: of the examples, by id.
      packing: as asked for.
      window: positions of `order` that are packed together.
      shuffle: whether the rows of a window are permuted; else they come as their longest examples do.
    """

    order: Order
    lengths: Lengths
    packing: Packing
    window: int
    shuffle: bool

    @functools.cached_property
    def identity(self) -> str:
        """Names all that decides the order but the epoch."""
        asked = (self.packing.names, self.packing.most, self.window, self.shuffle)
        return fingerprint("packing", self.order.identity, *asked)

    @property
    def is_even(self) -> bool:
        """Epochs pack more or less well."""
        return False

    @property
    def has_holes(self) -> bool:
        """Every position is a row."""
        return False

    def count(self, epoch: int) -> int:
        """Rows of an epoch."""
        return _count(self, epoch)

    def ids(self, epoch: int, start: int, stop: int) -> Ids:  # noqa: ARG002
        """The numbers of the rows, int64 of shape (stop - start,)."""
        return np.arange(start, stop, dtype=np.int64)

    def seeds(self, epoch: int, positions: Ids, ids: Ids) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """Rows have none."""
        return np.zeros((len(ids), 2), np.int64)

    def examples(self, epoch: int, rows: Ids) -> tuple[Ids, Ids]:
        """The examples in some rows, int64 (m,), and how many of them are in each, int64 (n,): none in a HOLE."""
        ids, starts = _packed(self, epoch)
        first = np.where(rows == HOLE, 0, starts[rows])
        counts = np.where(rows == HOLE, 0, starts[np.where(rows == HOLE, 0, rows + 1)] - first)
        places = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        return ids[places].astype(np.int64), counts

    def efficiency(self, epoch: int) -> float:
        """Share of the values in an epoch's rows that are no padding."""
        ids, _ = _packed(self, epoch)
        return int(self.lengths[ids].sum(dtype=np.int64)) / max(1, self.count(epoch) * self.packing.most)

    @property
    def examples_of_a_row(self) -> int:
        """About how many examples share a row."""
        return max(1, len(self.lengths) * self.packing.most // max(1, int(self.lengths.sum(dtype=np.int64))))


def window_of(mean_bytes: int) -> int:
    """How many records of that size are packed together: what memory holds at a time."""
    return min(max(WINDOW_BYTES // mean_bytes, _WINDOW[0]), _WINDOW[1])


@kept(2)
def _packed(packed: Packed, epoch: int) -> tuple[Lengths, Ids]:
    """All examples of an epoch, row by row, and where each row begins and the last one ends."""
    count, most = packed.order.count(epoch), packed.packing.most
    small = np.int32 if len(packed.lengths) < 2**31 else np.int64
    found: list[Lengths] = [np.zeros(0, small)]
    sizes = [np.zeros(1, np.int64)]
    for number, start in enumerate(range(0, count, packed.window)):
        ids = packed.order.ids(epoch, start, min(start + packed.window, count))
        ids = ids[packed.lengths[ids] > 0]
        rows, openers = best_fit(packed.lengths[ids], most)
        if packed.shuffle:
            order = sorted_by_philox(len(openers), philox_key("packing", packed.identity, epoch, number))
        else:
            order = np.argsort(openers)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        rows = place[rows]
        # In a row they keep their order.
        found.append(ids[np.argsort(_narrow(rows, len(order)), kind="stable")].astype(small))
        sizes.append(np.bincount(rows, minlength=len(order)))
    return np.concatenate(found), np.cumsum(np.concatenate(sizes))


def _narrow(numbers: Ids, most: int) -> npt.NDArray[np.integer]:
    """The numbers 0 … most in 16 bits where they fit: those are sorted by counting."""
    return numbers.astype(np.uint16) if most < 1 << 16 else numbers


@kept(None)
def _count(packed: Packed, epoch: int) -> int:
    return len(_packed(packed, epoch)[1]) - 1


def best_fit(lengths: Lengths, room: int) -> tuple[Ids, Ids]:
    """Packs examples into rows of `room` values, the longest first, each into the fullest row that has room for it.

    Args:
      lengths: of the examples, 1 … room.
      room: of a row.

    Returns:
      The row of each example, int64 (n,), and the first example of each row, int64 (rows,).
    """
    by_length = np.argsort(_narrow(room - lengths.astype(np.int64), room), kind="stable")
    counts = np.bincount(lengths, minlength=1)
    rows = np.empty(len(lengths), np.int64)  # of the examples as sorted
    openers: list[Ids] = [np.zeros(0, np.int64)]
    free: dict[int, list[Ids]] = {}  # rows by the room they have left
    spaces: list[int] = []  # the rooms that are there, rising
    opened = done = 0

    def add(space: int, some: Ids) -> None:
        if space and len(some):
            if space not in free:
                bisect.insort(spaces, space)
            free.setdefault(space, []).append(some)

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            at = bisect.bisect_left(spaces, length)
            if at < len(spaces):
                space = spaces.pop(at)
                groups = free.pop(space)
                group = groups[0] if len(groups) == 1 else np.concatenate(groups)
            else:
                space, each = room, room // length
                group = np.arange(opened, opened + -(-left // each))
                opened += len(group)
                openers.append(by_length[done + np.arange(len(group)) * each])
            # A row that has taken one is the fullest of those with room, so it takes as many as it can.
            each = space // length
            full, rest = min(len(group), left // each), 0
            rows[done : done + full * each] = np.repeat(group[:full], each)
            done, left = done + full * each, left - full * each
            add(space - each * length, group[:full])
            if full < len(group) and left:
                rest = left
                rows[done : done + rest] = group[full]
                done, left = done + rest, 0
                add(space - rest * length, group[full : full + 1])
            add(space, group[full + bool(rest) :])
    out = np.empty(len(lengths), np.int64)
    out[by_length] = rows
    return out, np.concatenate(openers)
