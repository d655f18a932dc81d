"""Fractions that hold exactly, and caps: bounds of a hash that only all records together tell.

A record, or its group, has a position in [0, 2**64). Within a stratum those before a bound are of the first split,
those before the next of the second, and so on. The bounds lie where the counts are as asked, near where the fractions
alone would have them; another record moves each by at most one group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_jobs.spill import ROWS_HELD, Spill
from schemas import HeadraceError

MAX_STRATA = 1_000_000

# One record that is counted: where it lies, in which stratum, and which record it is.
UNIT = np.dtype([("position", "<u8"), ("stratum", "<u8"), ("hi", "<u8"), ("lo", "<u8")])
# A group: where it lies, the stratum of most of its records, how many they are, and whether they are of several.
_GROUP = np.dtype([("position", "<u8"), ("stratum", "<u8"), ("weight", "<i8"), ("mixed", "?")])

# Of a group with records of several strata: that which it is in.
MIXED = np.dtype([("position", "<u8"), ("stratum", "<u8")])

Units = npt.NDArray[np.void]
Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cuts:
    """Where each stratum is cut.

    Attributes:
      strata: uint64 (s,), sorted.
      counts: int64 (s,), what each holds.
      bounds: uint64 (s, splits - 1): positions from the first bound on are of the second split.
    """

    strata: Hashes
    counts: Counts
    bounds: npt.NDArray[np.uint64]

    def splits(self, positions: Hashes, strata: Hashes) -> npt.NDArray[np.int16]:
        """The number of the split of each record, int16 (n,); `strata` are those of their groups, and known."""
        own = np.minimum(np.searchsorted(self.strata, strata), max(0, len(self.strata) - 1))
        numbers = np.zeros(len(positions), np.int16)
        for bound in self.bounds.T if len(self.strata) else ():
            numbers += positions >= bound[own]
        return numbers


def find_cuts(
    units: Iterable[Units],
    expected: int,
    shares: Sequence[float],
    *,
    by_groups: bool = False,
    note_mixed: Callable[[npt.NDArray[np.void]], None] | None = None,
    held: int = ROWS_HELD,
) -> Cuts:
    """The cuts that give every split its share of each stratum, and of all, within one: or as near as groups allow.

    A group whose records are of several strata is in that of most of them, of equals in that of the smallest hash.

    Args:
      units: rows of `UNIT` in parts; a record that is there twice counts once, records of one position are a group.
      expected: how many, about.
      shares: of the splits; they add up to 1.
      by_groups: whether groups are counted, not their records.
      note_mixed: takes such groups, rows of `MIXED`, in the order of their positions.
      held: units held at a time.

    Raises:
      HeadraceError: there are too many strata.
    """
    with Spill(UNIT, expected, held) as spilled, Spill(_GROUP, expected, held) as groups:
        for part in units:
            spilled.add(part, part["position"])
        totals = _Totals()
        for rows in spilled.ranges():
            found = _groups(rows, by_groups=by_groups)
            totals.add(found)
            if note_mixed is not None and bool(found["mixed"].any()):
                note_mixed(found[["position", "stratum"]][found["mixed"]].astype(MIXED))
            groups.add(found, found["position"])
        targets = apportion(totals.counts, shares)
        bounds = _cut(groups, totals.strata, np.cumsum(targets, axis=1)[:, :-1])
    return Cuts(totals.strata, totals.counts, bounds)


def find_caps(units: Iterable[Units], expected: int, most: int, held: int = ROWS_HELD) -> Cuts:
    """The cuts after the first `most` records of each stratum; arguments and errors as of `find_cuts`."""
    with Spill(UNIT, expected, held) as spilled, Spill(_GROUP, expected, held) as groups:
        for part in units:
            spilled.add(part, part["position"])
        totals = _Totals()
        for rows in spilled.ranges():
            found = _groups(rows, by_groups=False)
            totals.add(found)
            groups.add(found, found["position"])
        bounds = _cut(groups, totals.strata, np.minimum(totals.counts, most)[:, None])
    return Cuts(totals.strata, totals.counts, bounds)


class _Totals:
    """How much each stratum holds; grows."""

    def __init__(self) -> None:
        self.strata = np.zeros(0, np.uint64)
        self.counts = np.zeros(0, np.int64)

    def add(self, groups: npt.NDArray[np.void]) -> None:
        both = np.concatenate([self.strata, groups["stratum"]])
        counts = np.concatenate([self.counts, groups["weight"]])
        self.strata, owners = np.unique(both, return_inverse=True)
        self.counts = np.zeros(len(self.strata), np.int64)
        np.add.at(self.counts, owners, counts)
        if len(self.strata) > MAX_STRATA:
            raise HeadraceError(
                "The column has too many values to keep shares or caps within each.",
                where="split",
                value=f"more than {MAX_STRATA:,}",
                allowed=f"{MAX_STRATA:,} values",
                hint="Use a column with fewer, such as a class, or compute one under `clean:`.",
            )


def _groups(units: Units, *, by_groups: bool) -> npt.NDArray[np.void]:
    """The groups of units, sorted by position; each in the stratum of most of its records, of equals the smallest."""
    order = np.lexsort((units["lo"], units["hi"], units["stratum"], units["position"]))
    units = units[order]
    units = units[_firsts(units)]
    # Of equal position and stratum, then of equal position: the first of most.
    firsts = _firsts(units["position"], units["stratum"])
    weights = np.diff(np.append(firsts, len(units)))
    parts = np.zeros(len(firsts), _GROUP)
    parts["position"], parts["stratum"] = units["position"][firsts], units["stratum"][firsts]
    parts["weight"] = weights
    order = np.lexsort((parts["stratum"], -parts["weight"], parts["position"]))
    parts = parts[order]
    firsts = _firsts(parts["position"])
    groups = parts[firsts]
    if len(firsts):
        groups["weight"] = 1 if by_groups else _records(units)
        groups["mixed"] = np.diff(np.append(firsts, len(parts))) > 1
    return groups


def _records(units: Units) -> Counts:
    """How many records lie at each position, in the order of positions; one with several strata counts once."""
    names = ["position", "hi", "lo"]
    records = units[names][np.lexsort([units[name] for name in reversed(names)])]
    records = records[_firsts(*(records[name] for name in names))]
    return np.diff(np.append(_firsts(records["position"]), len(records)))


def _firsts(*columns: npt.NDArray[Any]) -> Counts:
    """Where in sorted columns equal rows begin, int64 (groups,)."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    new = np.zeros(len(columns[0]), np.bool_)
    new[0] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def _cut(groups: Spill, strata: Hashes, targets: Counts) -> npt.NDArray[np.uint64]:
    """For each stratum and target the position that as many records lie before, or the nearest number of them.

    Args:
      groups: rows of `_GROUP`.
      strata: (s,), sorted.
      targets: int64 (s, t).

    Returns: uint64 (s, t).
    """
    bounds = np.zeros(targets.shape, np.uint64)
    distances = targets.copy()  # of a cut before all
    before = np.zeros(len(strata), np.int64)
    for found in groups.ranges():
        rows = found[np.lexsort((found["position"], found["stratum"]))]
        firsts = _firsts(rows["stratum"])
        if not len(firsts):
            continue
        own = np.searchsorted(strata, rows["stratum"][firsts])
        sizes = np.diff(np.append(firsts, len(rows)))
        sums = np.cumsum(rows["weight"])
        sums += np.repeat(before[own] - (sums[firsts] - rows["weight"][firsts]), sizes)  # within the stratum
        for target in range(targets.shape[1]):
            away = np.abs(sums - np.repeat(targets[own, target], sizes))
            nearest = np.minimum.reduceat(away, firsts)
            # Of equally near cuts the first.
            hits = np.flatnonzero(away == np.repeat(nearest, sizes))
            hits = hits[np.searchsorted(hits, firsts)]
            better = nearest < distances[own, target]
            distances[own[better], target] = nearest[better]
            bounds[own[better], target] = rows["position"][hits[better]] + np.uint64(1)
        before[own] = sums[np.append(firsts[1:], len(rows)) - 1]
    return bounds


def apportion(counts: Counts, shares: Sequence[float]) -> Counts:
    """How many of each stratum go to each split, int64 (s, m): rows and columns and all numbers as asked, within one.

    A controlled rounding (Cox 1987) of counts × shares: every number is the exact one rounded down or up, rows add up
    to `counts`, and columns to the exact sums rounded down or up. Such a rounding always exists. Rows are rounded one
    after the other, each paying for what columns got too little so far; the few that are then missing are exchanged.
    """
    if not len(counts):
        return np.zeros((0, len(shares)), np.int64)
    parts, whole = _whole_parts(shares)
    exact = [[divmod(int(count) * part, whole) for part in parts] for count in counts.tolist()]
    floors = [[floor for floor, _ in row] for row in exact]
    rests = [[rest for _, rest in row] for row in exact]
    extra = [int(count) - sum(row) for count, row in zip(counts.tolist(), floors, strict=True)]
    ups = _round_rows(rests, extra, whole)
    _exchange(ups, rests, whole)
    return np.array(floors, np.int64) + np.array(ups, np.int64)


def _whole_parts(shares: Sequence[float]) -> tuple[list[int], int]:
    """Shares as whole parts of a whole, exactly the decimals that they were written as, over their sum.

    As binary fractions 0.7 of 30 would be less than 21, and might be rounded down to 20.
    """
    written = [Fraction(repr(float(share))) for share in shares]
    total = sum(written)
    exact = [share / total for share in written]
    whole = math.lcm(*(share.denominator for share in exact))
    return [int(share * whole) for share in exact], whole


def _round_rows(rests: Sequence[Sequence[int]], extra: Sequence[int], whole: int) -> list[list[int]]:
    """Which numbers are rounded up, 0 or 1 each: as many of a row as its `extra`, those first that are owed most."""
    owed = [0] * len(rests[0])
    ups = []
    for row, count in zip(rests, extra, strict=True):
        owed = [debt + rest for debt, rest in zip(owed, row, strict=True)]
        open_ones = [column for column, rest in enumerate(row) if rest]
        chosen = sorted(open_ones, key=lambda column: (-owed[column], column))[:count]
        ups.append([int(column in chosen) for column in range(len(row))])
        owed = [debt - up * whole for debt, up in zip(owed, ups[-1], strict=True)]
    return ups


def _exchange(ups: list[list[int]], rests: Sequence[Sequence[int]], whole: int) -> None:
    """Moves roundings up between columns, in rows where both may be, until all columns are within one."""
    columns = range(len(rests[0]))
    sums = [sum(row[column] for row in rests) for column in columns]
    has = [sum(row[column] for row in ups) for column in columns]
    low, high = [total // whole for total in sums], [-(-total // whole) for total in sums]

    def path(start: int, good: Sequence[bool], direction: int) -> list[tuple[int, int, int]] | None:
        """The shortest way from a column to a good one: row, column that loses one, column that gains one."""
        seen, queue = {start}, [(start, [])]  # type: tuple[set[int], list[tuple[int, list[tuple[int, int, int]]]]]
        while queue:
            at, steps = queue.pop(0)
            if good[at]:
                return steps
            for to in columns:
                if to in seen:
                    continue
                source, target = (at, to) if direction > 0 else (to, at)
                for row, (up, rest) in enumerate(zip(ups, rests, strict=True)):
                    if up[source] and not up[target] and rest[target]:
                        seen.add(to)
                        queue.append((to, [*steps, (row, source, target)]))
                        break
        return None

    while True:
        over = next((c for c in columns if has[c] > high[c]), None)
        under = next((c for c in columns if has[c] < low[c]), None)
        if over is not None:
            steps = path(over, [has[c] < high[c] for c in columns], 1)
        elif under is not None:
            steps = path(under, [has[c] > low[c] for c in columns], -1)
        else:
            return
        assert steps is not None, "a controlled rounding exists"
        for row, source, target in steps:
            ups[row][source], ups[row][target] = 0, 1
            has[source] -= 1
            has[target] += 1
