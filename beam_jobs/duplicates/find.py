"""Clusters of duplicates among all records, and which record of each survives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from beam_jobs.duplicates.buckets import Buckets, Clusters, Numbers, Pairs, link
from beam_jobs.duplicates.gathered import Gathered
from beam_jobs.duplicates.images import KEY_BITS, NO_KEY, SLACK, distances, window_keys
from beam_jobs.duplicates.signatures import fact_of
from beam_jobs.duplicates.texts import EMPTY, HASHES, band_keys, bands_for, equal_minima
from schemas.duplicates import Check, Duplicates
from schemas.features import Feature, ImageFeature

Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A check with what it compares.

    Attributes:
      check: as the job says.
      fact: the name of the signatures' field.
      image: whether it compares images.
    """

    check: Check
    fact: str
    image: bool

    @property
    def name(self) -> str:
        """As reports say it: "exact: image", "near: text"."""
        if self.check.exact is not None:
            return f"exact: {', '.join(self.check.exact)}"
        assert self.check.near is not None
        return f"near: {self.check.near.feature}"

    def distances(self, gathered: Gathered, some: Numbers, others: Numbers) -> Distances:
        """How far records are from each other, float64 (n,): 0 the same, above 1 not to be compared at all."""
        one, other = (gathered.signatures[self.fact][each] for each in (some, others))
        if self.check.exact is not None:
            return np.where((one == other).all(axis=1), 0.0, 2.0)
        if self.image:
            return distances(one, other)
        # An empty text is like no other.
        return np.where(one[:, 0] == EMPTY, 2.0, 1 - equal_minima(one, other) / HASHES)

    def are_alike(self, gathered: Gathered, some: Numbers, others: Numbers) -> npt.NDArray[np.bool_]:
        """Which records are duplicates of those beside them, bool (n,)."""
        return self.alike(self.distances(gathered, some, others))

    def alike(self, found: Distances) -> npt.NDArray[np.bool_]:
        """Which of such distances make a duplicate, bool (n,)."""
        if self.check.near is None:
            return found == 0
        if self.image:
            return found <= self.check.near.distance
        # Exact: the similarity is a number of minima.
        return np.rint((1 - found) * HASHES) >= self.check.near.similarity * HASHES


def compared(check: Check, features: Mapping[str, Feature]) -> Compared:
    """The check on the job's features."""
    image = check.near is not None and isinstance(features[check.near.feature], ImageFeature)
    return Compared(check, fact_of(check, features).name, image)


def find_clusters(gathered: Gathered, checks: Sequence[Compared]) -> Iterator[tuple[int, int, Clusters]]:
    """What belongs together by any of the checks: with each tier's bounds, among its records and those of tiers before.

    Time grows as the number of records does; see `buckets`.
    """
    clusters = Clusters(len(gathered))
    with ExitStack() as stack:
        filed = [stack.enter_context(_bucketed(gathered, check)) for check in checks]
        for low, high in pairwise(gathered.bounds):
            for check, buckets in zip(checks, filed, strict=True):
                pairs = _between(buckets.pairs(among_all=not check.image), low, high)
                link(clusters, pairs, partial(check.are_alike, gathered))
            yield low, high, clusters


def _between(found: Iterable[Pairs], low: int, high: int) -> Iterator[Pairs]:
    """The pairs whose later member is of a tier."""
    for some, others in found:
        here = (others >= low) & (others < high)
        yield some[here], others[here]


def _bucketed(gathered: Gathered, check: Compared) -> Buckets:
    near = check.check.near
    if near is None:
        buckets = Buckets(len(gathered))
        for numbers, rows in gathered.chunks():
            content = np.ascontiguousarray(rows[check.fact])
            buckets.add(content.view("<u8")[:, 0], numbers)
    elif check.image:
        buckets = Buckets(97 * len(gathered), bits=KEY_BITS, slack=SLACK)
        for numbers, rows in gathered.chunks():
            filed, asked = window_keys(rows[check.fact])
            for keys, asks in ((filed, False), (asked, True)):
                owners = np.repeat(numbers, keys.shape[1])[keys.ravel() != NO_KEY]
                buckets.add(keys.ravel()[keys.ravel() != NO_KEY], owners, asks=asks)
    else:
        buckets = Buckets(bands_for(near.similarity)[0] * len(gathered))
        for numbers, rows in gathered.chunks():
            found = rows[check.fact]
            filled = found[:, 0] != EMPTY
            keys = band_keys(found[filled], near.similarity)
            buckets.add(keys.ravel(), np.repeat(numbers[filled], keys.shape[1]))
    return buckets


@dataclass(frozen=True)
class Members:
    """The job's own records of clusters of several; n of them.

    Attributes:
      numbers: int64 (n,), of the records, ascending.
      survivors: int64 (n,), the number of each one's survivor.
      out: bool (n,), which are left out.
      across: pairs that stay, in different tiers.
    """

    numbers: Numbers
    survivors: Numbers
    out: npt.NDArray[np.bool_]
    across: int


def choose(
    gathered: Gathered,
    found: Iterable[tuple[int, int, Clusters]],
    rule: Duplicates,
    continued: npt.NDArray[np.bool_],
) -> Members:
    """Who survives of each cluster.

    Of the first tier that has any of a cluster one survives, by the job's rule; of later tiers none, nor where an
    earlier version has one, unless it has a record of the tier under the same key (`continued`, bool of all records).
    """
    count = len(gathered)
    survivors, out, across = np.arange(count), np.zeros(count, np.bool_), 0
    for low, high, clusters in found:
        mine, roots = np.arange(low, high), clusters.roots(np.arange(high))
        before = np.arange(gathered.earlier, low)
        own = _first(roots, before[survivors[before] == before], count)[roots[mine]]
        old = _first(roots, np.arange(gathered.earlier), count)[roots[mine]]
        best = _best(gathered, mine, roots[mine], rule, continued)
        best = np.where((old < count) & ~continued[best], old, best)
        survivors[mine] = np.where(own < count, own, best)
        out[mine] = survivors[mine] != mine
        if rule.action == "report":
            out[mine] = False
        elif rule.action == "keep_within_split":
            split = gathered.records["split"]
            out[mine] &= split[mine] != split[survivors[mine]]
        counts = [np.bincount(roots[part[~out[part]]], minlength=1 + high) for part in (before, mine)]
        across += int((counts[0] * counts[1]).sum())
    involved = survivors != np.arange(count)
    involved[survivors[involved]] = True
    involved[: gathered.earlier] = False
    numbers = np.flatnonzero(involved)
    return Members(numbers, survivors[numbers], out[numbers], across)


def _first(roots: Numbers, numbers: Numbers, count: int) -> Numbers:
    """The smallest of `numbers` in each root's cluster, int64 (count,); `count` where none is."""
    found = np.full(count, count)
    np.minimum.at(found, roots[numbers], numbers)
    return found


def _best(
    gathered: Gathered, mine: Numbers, roots: Numbers, rule: Duplicates, continued: npt.NDArray[np.bool_]
) -> Numbers:
    """Which of a tier's records in its cluster each would be left out for, int64 (n,)."""
    records = gathered.records[mine]
    # The last key that is given counts most.
    keys: list[npt.NDArray[np.generic]] = [mine]
    if rule.keep == "largest":
        keys.append(-records["length"])
    elif rule.keep == "hash":
        keys += [records["hash"]["lo"], records["hash"]["hi"]]
    order = np.lexsort([*keys, ~continued[mine], roots])
    first = np.ones(len(order), np.bool_)
    first[1:] = roots[order][1:] != roots[order][:-1]
    found = np.zeros(len(mine), np.int64)
    found[order] = mine[order][first][np.cumsum(first) - 1]
    return found
