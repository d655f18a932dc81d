"""The deciders of exact fractions and of caps; see `beam_jobs.placement` and `beam_jobs.fractions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_jobs.fractions import MIXED, UNIT, Cuts, Hashes, Units, find_caps, find_cuts
from beam_jobs.placed import OVER_CAP
from beam_jobs.placing import Placing, Runs
from beam_jobs.plan import JobPlan
from beam_jobs.splits import CLASS, POSITION, STRATUM
from beam_jobs.store import Sink
from beam_jobs.store_path import StorePath
from schemas.hashing import ranks

_MIXED_FILE = "mixed.groups"  # among the files of placements
_PIECE = 1 << 19  # rows of that file read at a time, 8 MiB


@dataclass(frozen=True)
class Fractions:
    """Exact fractions.

    Attributes:
      cuts: where each stratum is cut.
      mixed: the file of groups that are in the stratum of most of their records, if there are any.
    """

    cuts: Cuts
    mixed: StorePath | None

    def apply(self, placing: Placing) -> None:
        """Moves every record to its split."""
        positions, strata = _positions(placing), _strata(placing, STRATUM)
        if self.mixed is not None:
            strata = _of_groups(self.mixed, positions, strata)
        placing.move(np.ones(len(positions), np.bool_), self.cuts.splits(positions, strata))


def decide_fractions(plan: JobPlan, runs: Runs) -> Fractions | None:
    """The cuts of a job whose fractions hold exactly."""
    split = plan.spec.split
    if not split.ranked:
        return None
    path = plan.workspace.placements / _MIXED_FILE

    def units() -> Iterator[Units]:
        return (_units(each, each.written, _positions(each), _strata(each, STRATUM)) for each in runs())

    with ExitStack() as stack:
        sinks: list[Sink] = []

        def note_mixed(rows: npt.NDArray[np.void]) -> None:
            if not sinks:
                sinks.append(stack.enter_context(path.writing(durable=False)))
            sinks[0].write(rows.tobytes())

        cuts = find_cuts(
            units(),
            runs.records,
            list(split.fractions.values()),
            by_groups=split.exact == "groups",
            note_mixed=note_mixed,
        )
    return Fractions(cuts, path if sinks else None)


@dataclass(frozen=True)
class Caps:
    """Classes of which there were too many records.

    Attributes:
      cuts: of the classes of each split, by its number.
    """

    cuts: Mapping[int, Cuts]

    def apply(self, placing: Placing) -> None:
        """Leaves out what is behind its class's cut."""
        for number, cuts in self.cuts.items():
            own = placing.final == number
            over = cuts.splits(ranks(placing.index["hash"]), _strata(placing, CLASS)) > 0
            placing.leave_out(own & over, OVER_CAP)


def decide_caps(plan: JobPlan, runs: Runs) -> Caps | None:
    """The cuts of the splits in which a class has more records than the cap."""
    split = plan.spec.split
    if split.cap is None:
        return None

    def units(number: int) -> Iterator[Units]:
        for each in runs():
            positions = ranks(each.index["hash"])
            yield _units(each, each.final == number, positions, _strata(each, CLASS))

    found = {}
    for name in split.cap.splits or split.names[:1]:
        number = split.names.index(name)
        cuts = find_caps(units(number), runs.records, split.cap.most)
        if bool((cuts.counts > split.cap.most).any()):
            found[number] = cuts
    return Caps(found) if found else None


def _units(placing: Placing, chosen: npt.NDArray[Any], positions: Hashes, strata: Hashes) -> Units:
    hashes = placing.index["hash"][chosen]
    rows = np.zeros(len(hashes), UNIT)
    rows["position"], rows["stratum"] = positions[chosen], strata[chosen]
    rows["hi"], rows["lo"] = hashes["hi"], hashes["lo"]
    return rows


def _positions(placing: Placing) -> Hashes:
    return placing.fact(POSITION)


def _strata(placing: Placing, name: str) -> Hashes:
    """The fact of that name, or one stratum for all."""
    known = name in (placing.plan.fact_row.names or ())
    return placing.fact(name) if known else np.zeros(len(placing.final), np.uint64)


def _of_groups(path: StorePath, positions: Hashes, strata: Hashes) -> Hashes:
    """The strata of the records' groups, which a file sorted by position tells of some."""
    found = strata.copy()
    size = MIXED.itemsize
    rows = (path.size() or 0) // size
    for first in range(0, rows, _PIECE):
        count = min(_PIECE, rows - first)
        mixed = np.frombuffer(path.read_range(first * size, count * size), MIXED)
        places = np.minimum(np.searchsorted(mixed["position"], positions), count - 1)
        same = mixed["position"][places] == positions
        found[same] = mixed["stratum"][places[same]]
    return found
