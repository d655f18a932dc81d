"""What an order is, and how its positions fall into batches and onto hosts. Pure; no TensorFlow.

An epoch is a row of positions, and an order says which example comes at each. Batch `s` of an epoch is positions
`s * batch_size` and on, whatever the number of hosts; every host takes its own rows of each batch, so that all
hosts' rows, one host behind the other, are the batch that a single host would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loader.plan import Ids

HOLE = -1  # in place of an example: nothing comes here, the row is padding
LAST_BATCHES = ("keep", "drop", "pad")


class Order(Protocol):
    """Which example comes when: a pure function of (epoch, position)."""

    @property
    def identity(self) -> str:
        """Names all that decides the order but the epoch. Equal identities, equal orders."""

    @property
    def is_even(self) -> bool:
        """Whether all epochs have the same number of positions."""

    @property
    def has_holes(self) -> bool:
        """Whether some positions hold no example."""

    def count(self, epoch: int) -> int:
        """Positions of an epoch."""

    def ids(self, epoch: int, start: int, stop: int) -> Ids:
        """The examples at positions `start` … `stop - 1`, int64 of shape (stop - start,); HOLE where there is none."""

    def seeds(self, epoch: int, positions: Ids, ids: Ids) -> npt.NDArray[np.int64]:
        """Seeds of the examples `ids`, which come at `positions` of an epoch: int64 of shape (n, 2)."""


@dataclass(frozen=True)
class Batches:
    """How the positions of an epoch, from position `first` on, fall into batches and onto hosts.

    Attributes:
      batch_size: positions of a batch over all hosts; None for single examples, which hosts take in turn.
      last: what becomes of a last batch that is smaller: "keep" it, "drop" it, or "pad" it with holes.
      process_index: this host.
      process_count: hosts.
    """

    batch_size: int | None = None
    last: str = "keep"
    process_index: int = 0
    process_count: int = 1

    @property
    def size(self) -> int:
        """Positions of a batch over all hosts; one a host where there are no batches."""
        return self.batch_size or self.process_count

    @property
    def host_size(self) -> int:
        """Rows of a batch on this host, but for a last one that is kept."""
        return self.size // self.process_count

    @property
    def has_holes(self) -> bool:
        """Whether rows of a last batch may be holes: padding, or other hosts' where a batch is kept."""
        return self.batch_size is not None and (
            self.last == "pad" or (self.last == "keep" and self.process_count > 1)
        )

    def steps(self, positions: int) -> int:
        """Batches that `positions` positions make: the same on every host. Single examples: of this host."""
        if self.batch_size is None:
            return self.rows(positions)
        whole, rest = divmod(positions, self.size)
        return whole + bool(rest and self.last != "drop")

    def rows(self, positions: int) -> int:
        """This host's rows of all batches of `positions` positions."""
        if self.has_holes:
            return self.steps(positions) * self.host_size
        whole, rest = divmod(positions, self.size)
        own = min(max(rest - self.process_index * self.host_size, 0), self.host_size)
        return whole * self.host_size + (own if self.last == "keep" or self.batch_size is None else 0)

    def positions(self, positions: int, start: int, stop: int) -> Ids:
        """The positions of this host's rows `start` … `stop - 1`, int64 (stop - start,); HOLE behind the last."""
        step, row = np.divmod(np.arange(start, stop, dtype=np.int64), self.host_size)
        places = step * self.size + self.process_index * self.host_size + row
        places[places >= positions] = HOLE
        return places


@dataclass(frozen=True)
class HostView:
    """An order as one host sees it: its own rows only."""

    order: Order
    batches: Batches

    def rows(self, epoch: int, first: int) -> int:
        """Rows of an epoch from position `first` on."""
        return self.batches.rows(self.order.count(epoch) - first)

    def take(self, epoch: int, first: int, start: int, stop: int) -> tuple[Ids, Ids]:
        """Positions and examples of rows `start` … `stop - 1` of an epoch from position `first` on; HOLE in both."""
        positions = self.batches.positions(self.order.count(epoch) - first, start, stop)
        real = positions != HOLE
        positions[real] += first
        ids = np.full(len(positions), HOLE, np.int64)
        if real.any():
            low = int(positions[real][0])
            stretch = self.order.ids(epoch, low, int(positions[real][-1]) + 1)
            ids[real] = stretch[positions[real] - low]
        return positions, ids
