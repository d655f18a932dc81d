"""Several data sets as one, in shares that hold at every place: the order, the parts and the reader. No TensorFlow.

Positions count on over the epochs, and are cut into blocks of about 1,000. How many of the first P positions belong
to each data set is its exact share of P, rounded down or up (largest remainders, Hamilton's method), so the ends of
a block say how many of each it holds, and Philox permutes them. With that, the k-th example of a data set is known
to be its (k mod n)-th of its own epoch k div n, in the order it would have alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.memo import kept
from loader.order import HOLE
from loader.part import Part
from loader.plan import Ids, Plan, philox_key, sorted_by_philox
from loader.read import Reader, Valid
from loader.records import Records, spread
from schemas import HeadraceError
from schemas.hashing import fingerprint

BLOCK = 1000  # positions, at least
MAX_BLOCK = 1 << 20  # permuting as many takes 0.1 s
_MAX_READS = 8  # data sets that are read at a time, where reading waits for a network


@dataclass(frozen=True)
class Mixture:
    """The order of several data sets that are mixed with weights.

    An example's id is its place in `MixedPart`. No rounding adds up: with weights in proportion to the sizes, an
    epoch of as many positions as there are records holds each record exactly once.

    Attributes:
      plans: the order of each data set by itself.
      weights: whole numbers; 0 for a data set that is left out.
      epoch_size: positions of an epoch.
    """

    plans: tuple[Plan, ...]
    weights: tuple[int, ...]
    epoch_size: int

    @functools.cached_property
    def identity(self) -> str:
        """Names all that decides the order but the epoch."""
        return fingerprint("mixture", [p.identity for p in self.plans], self.weights, self.epoch_size)

    @property
    def is_even(self) -> bool:
        """All epochs have the same number of positions."""
        return True

    @property
    def has_holes(self) -> bool:
        """Every position holds an example."""
        return False

    def count(self, epoch: int) -> int:  # noqa: ARG002 (other orders differ from epoch to epoch)
        """Positions of an epoch."""
        return self.epoch_size

    def ids(self, epoch: int, start: int, stop: int) -> Ids:
        """The examples at positions `start` … `stop - 1` of an epoch: int64 of shape (stop - start,)."""
        first = epoch * self.epoch_size
        of, number = self.draws(np.arange(first + start, first + stop))
        ids = np.empty(stop - start, np.int64)
        for k in np.unique(of).tolist():
            rows = np.flatnonzero(of == k)
            # Neighbouring positions hold neighbours of each data set.
            low, high = int(number[rows[0]]), int(number[rows[-1]])
            ids[rows] = _running(self.plans[k], low, high + 1) + self.starts[k]
        return ids

    def seeds(self, epoch: int, positions: Ids, ids: Ids) -> npt.NDArray[np.int64]:
        """What random operations are seeded with: as in each data set by itself. int64 of shape (n, 2)."""
        seeds = np.zeros((len(ids), 2), np.int64)
        real = np.flatnonzero(ids != HOLE)
        of, number = self.draws(positions[real] + epoch * self.epoch_size)
        own = number // np.array([max(1, plan.records) for plan in self.plans])[of]
        for k, at in set(zip(of.tolist(), own.tolist(), strict=True)):
            rows = real[(of == k) & (own == at)]
            seeds[rows] = self.plans[k].seeds(at, positions[rows], ids[rows] - self.starts[k])
        return seeds

    def draws(self, positions: Ids) -> tuple[Ids, Ids]:
        """Which data set each position belongs to, and how many of that one come before it; int64 (n,) each.

        Args:
          positions: counted from the beginning of training.
        """
        turn, place = np.divmod(positions, self._turn)
        inner = np.minimum(place // self.block, self._blocks - 1)
        blocks = turn * self._blocks + inner
        by_block = np.argsort(blocks, kind="stable")
        numbers, first = np.unique(blocks[by_block], return_index=True)
        of, number = np.zeros((2, len(positions)), np.int64)
        if not len(positions):
            return of, number
        for block, rows in zip(numbers.tolist(), np.split(by_block, first[1:]), strict=True):
            order = _block(self, block)
            at = positions[rows] - self._begin(block)
            of[rows], number[rows] = order[0][at], order[1][at]
        return of, number

    @functools.cached_property
    def starts(self) -> Ids:
        """The id of each data set's first example, and behind the last one their number."""
        return np.cumsum([0, *(plan.records for plan in self.plans)])

    @functools.cached_property
    def block(self) -> int:
        """Positions of a block, but for the last of a turn: enough that every data set comes in each."""
        least = -(-sum(self.weights) // min(weight for weight in self.weights if weight))
        return max(least, min(BLOCK, self.epoch_size))

    @functools.cached_property
    def _turn(self) -> int:
        """Positions after which blocks begin anew: whole epochs, so that an epoch can be exact."""
        return self.epoch_size * -(-self.block // self.epoch_size)

    @functools.cached_property
    def _blocks(self) -> int:
        """Blocks of a turn; the last one is the longest."""
        return self._turn // self.block

    def _begin(self, block: int) -> int:
        turn, place = divmod(block, self._blocks)
        return turn * self._turn + place * self.block

    def _shares(self, total: int) -> list[int]:
        """How many of the first `total` positions each data set has, at the end of a block.

        Each is the exact share rounded down or up. It never shrinks from block to block, as every exact share grows
        by one at least.
        """
        weight = sum(self.weights)
        parts = [divmod(total * own, weight) for own in self.weights]
        spare = total - sum(whole for whole, _ in parts)
        up = set(sorted(range(len(parts)), key=lambda k: -parts[k][1])[:spare])
        return [whole + (k in up) for k, (whole, _) in enumerate(parts)]


@kept(4)
def _block(mixture: Mixture, block: int) -> tuple[Ids, Ids]:
    """The data sets of a block's positions, and how many of the same come before each in all; not to be changed."""
    begin, end = (mixture._begin(number) for number in (block, block + 1))
    before = np.array(mixture._shares(begin))
    counts = np.array(mixture._shares(end)) - before
    of = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(end - begin) - np.repeat(np.cumsum(counts) - counts, counts)
    if any(plan.shuffle for plan in mixture.plans):
        order = sorted_by_philox(end - begin, philox_key("mixture", mixture.identity, block))
    else:  # evenly
        order = np.argsort((number + 0.5) / counts[of], kind="stable")
    of = of[order]
    # The examples of a data set keep their own order.
    number[np.argsort(of, kind="stable")] = number.copy()
    return of, number + before[of]


def _running(plan: Plan, start: int, stop: int) -> Ids:
    """The examples `start` … `stop - 1` of a data set, counted on over its epochs."""
    parts = []
    while start < stop:
        epoch, place = divmod(start, plan.records)
        end = min(stop - start + place, plan.records)
        parts.append(plan.ids(epoch, place, end))
        start += end - place
    return np.concatenate(parts)


def mix(plans: Sequence[Plan], weights: Sequence[float] | None, epoch_size: int | None) -> Mixture:
    """The mixture of several data sets.

    Args:
      plans: of each.
      weights: numbers of any sum; None for the sizes of the data sets.
      epoch_size: positions of an epoch; None for as many as the data sets that come up have records.

    Raises:
      HeadraceError: the weights make no mixture.
    """
    given: Sequence[float] = [plan.records for plan in plans] if weights is None else weights
    if len(given) != len(plans) or not all(math.isfinite(w) and w >= 0 for w in given) or not any(given):
        raise HeadraceError(
            "These weights make no mixture.",
            where="weights",
            value=list(given),
            allowed=f"{len(plans)} numbers of at least 0, one for each data set, not all 0",
        )
    # As they are written: 0.1 is a tenth.
    exact = [Fraction(str(weight)) for weight in given]
    unit = math.lcm(*(weight.denominator for weight in exact))
    whole = tuple(int(weight * unit) for weight in exact)
    common = math.gcd(*whole)
    mixture = Mixture(tuple(plans), tuple(w // common for w in whole), 1)
    for k, (plan, weight) in enumerate(zip(plans, whole, strict=True)):
        if weight and not plan.records:
            raise HeadraceError(
                "A data set without records cannot have a share of a mixture.",
                where=f"weights[{k}]",
                value=given[k],
                hint="Give it the weight 0, or look at its part and filter.",
            )
    if mixture.block > MAX_BLOCK:
        least = min(range(len(given)), key=lambda k: given[k] or math.inf)
        raise HeadraceError(
            "A data set has too small a share of the mixture.",
            where=f"weights[{least}]",
            value=given[least],
            allowed=f"at least {sum(given) / MAX_BLOCK:.3g}, a {MAX_BLOCK:,}th of all, or 0",
        )
    records = sum(plan.records for plan, weight in zip(plans, whole, strict=True) if weight)
    return Mixture(mixture.plans, mixture.weights, epoch_size or records)


@dataclass(frozen=True)
class MixedPart:
    """Parts of several splits as one; an id counts the records of all splits, one behind the other.

    Attributes:
      parts: of each split.
      records: of each split as a whole.
    """

    parts: tuple[Part, ...]
    records: tuple[int, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def name(self) -> str:
        """The parts' names."""
        return " + ".join(part.name for part in self.parts)

    @property
    def firsts(self) -> list[int]:
        """The id of each split's first record."""
        return np.cumsum([0, *self.records[:-1]]).tolist()

    def stored(self, places: Ids) -> Ids:
        """Ids of the records at `places` of this part, int64; HOLE stays HOLE."""
        starts = np.cumsum([0, *(len(part) for part in self.parts)])
        return _by_part(places, starts, lambda k, own: self.parts[k].stored(own) + self.firsts[k])

    def places(self, ids: Ids) -> Ids:
        """The places of the records `ids` in this part, int64; HOLE stays HOLE."""
        starts = np.cumsum([0, *(len(part) for part in self.parts)])
        return _by_part(
            ids,
            np.array([*self.firsts, sum(self.records)]),
            lambda k, own: self.parts[k].places(own) + starts[k],
        )


def _by_part(numbers: Ids, starts: Ids, change: Callable[[int, Ids], Ids]) -> Ids:
    """`change(k, own)` of those numbers that lie in stretch k, counted from its start; HOLE stays HOLE."""
    out = np.full(len(numbers), HOLE, np.int64)
    for k, rows in _rows_by_part(numbers, starts):
        out[rows] = change(k, numbers[rows] - starts[k])
    return out


def _rows_by_part(numbers: Ids, starts: Ids) -> Iterator[tuple[int, Ids]]:
    of = np.searchsorted(starts, numbers, side="right") - 1
    for k in np.unique(of[numbers != HOLE]).tolist():
        yield k, np.flatnonzero(of == k)


class MixedReader:
    """Reads records of several splits by the ids of a `MixedPart`. Any number of threads may use it.

    Args:
      readers: of each split.
      firsts: the id of each split's first record.
      remote: whether reading waits for a network, so that several data sets are read at a time.
    """

    def __init__(self, readers: Sequence[Reader], firsts: Sequence[int], *, remote: bool) -> None:
        self._readers, self._firsts = readers, np.array(firsts)
        self._pool = ThreadPoolExecutor(_MAX_READS, "headrace-mixture") if remote else None

    def read(self, ids: Ids) -> tuple[Records, Valid]:
        """As `Reader.read`."""
        valid = np.zeros(len(ids), bool)
        groups = list(_rows_by_part(ids, self._firsts))
        calls = [(self._readers[k].read, ids[rows] - self._firsts[k]) for k, rows in groups]
        if self._pool is None:
            found = [read(own) for read, own in calls]
        else:
            found = [waiting.result() for waiting in [self._pool.submit(read, own) for read, own in calls]]
        for (_, rows), (_, good) in zip(groups, found, strict=True):
            valid[rows] = good
        return spread(
            len(ids), [(rows, own) for (_, rows), (own, _) in zip(groups, found, strict=True)]
        ), valid

    def stats(self) -> dict[str, Any]:
        """As `Reader.stats`, of all data sets together."""
        every = [reader.stats() for reader in self._readers]
        return {name: sum((stats[name] for stats in every[1:]), every[0][name]) for name in every[0]}
