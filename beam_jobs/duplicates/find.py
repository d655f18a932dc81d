"""Clusters of duplicates among all records, and which record of each survives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from beam_jobs.duplicates.buckets import Buckets, Clusters, Numbers, link
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


def find_clusters(gathered: Gathered, checks: Sequence[Compared]) -> Clusters:
    """What belongs together by any of the checks. Time grows as the number of records does; see `buckets`."""
    clusters = Clusters(len(gathered))
    for check in checks:
        with _bucketed(gathered, check) as buckets:
            link(clusters, buckets.pairs(among_all=not check.image), partial(check.are_alike, gathered))
    return clusters


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
    """Records of clusters of several, cluster by cluster, the survivor first; n of them.

    Attributes:
      numbers: int64 (n,), of the records.
      survivors: int64 (n,), the number of each one's survivor.
      out: bool (n,), which are left out.
    """

    numbers: Numbers
    survivors: Numbers
    out: npt.NDArray[np.bool_]


def choose(
    gathered: Gathered, clusters: Clusters, rule: Duplicates, continued: npt.NDArray[np.bool_]
) -> Members:
    """Who survives of each cluster.

    Records that an earlier version has under the same key come first (`continued`, bool of all records), then those
    of earlier versions themselves, then by the job's rule.
    """
    roots = clusters.roots(np.arange(len(gathered)))
    several = np.bincount(roots, minlength=1)[roots] > 1
    numbers = np.flatnonzero(several)
    roots, records = roots[numbers], gathered.records[numbers]
    earlier = numbers >= gathered.own
    rank = np.where(continued[numbers], 0, np.where(earlier, 1, 2))
    # The last key that is given counts most.
    keys: list[npt.NDArray[np.generic]] = [numbers]
    if rule.keep == "largest":
        keys.append(-records["length"])
    elif rule.keep == "hash":
        keys += [records["hash"]["lo"], records["hash"]["hi"]]
    order = np.lexsort([*keys, rank, roots])
    numbers, roots, records, earlier = numbers[order], roots[order], records[order], earlier[order]
    first = np.ones(len(numbers), np.bool_)
    first[1:] = roots[1:] != roots[:-1]
    place = np.maximum.accumulate(np.where(first, np.arange(len(numbers)), 0)) if len(numbers) else numbers
    out = ~first & ~earlier
    if rule.action == "report":
        out[:] = False
    elif rule.action == "keep_within_split":
        out &= records["split"] != records["split"][place]
    return Members(numbers, numbers[place], out)
