"""Time zones as tables of when their clocks change, made where a job is planned: workers need no database of zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from schemas import HeadraceError

FIRST_YEAR, LAST_YEAR = 1900, 2100
_FIRST, _LAST = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@lru_cache(maxsize=16)
def zone_table(name: str, where: str) -> dict[str, Any]:
    """When the clocks of a zone change, from 1900 to 2100, and to what: JSON-able.

    `changes` are seconds since 1970 in UTC; `offsets` seconds to be added to UTC, those before the first change first.
    The database is that of the package tzdata, whatever the machine has.

    Raises:
      HeadraceError: there is no such zone.
    """
    if name == "UTC":
        return {"changes": [], "offsets": [0]}
    zone = _zone(name, where)
    changes, offsets = [], [_offset(zone, _FIRST)]
    day = _FIRST
    while day < _LAST:
        # Clocks change a few times a year, so a day with another offset at its end holds one change.
        following = day + timedelta(days=1)
        if _offset(zone, following) != offsets[-1]:
            low, high = day, following
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
                low, high = (middle, high) if _offset(zone, middle) == offsets[-1] else (low, middle)
            changes.append((high - _EPOCH) // timedelta(seconds=1))
            offsets.append(_offset(zone, high))
        day = following
    return {"changes": changes, "offsets": offsets}


def to_utc(
    local: Numbers,
    table: dict[str, Any],
    ambiguous: Literal["dead_letter", "earlier", "later"],
    nonexistent: Literal["dead_letter", "shift"],
) -> tuple[Numbers, dict[str, Mask]]:
    """Seconds of a zone's clock as seconds since 1970 in UTC, int64 (n,), and where they cannot be, by why."""
    changes, offsets = np.array(table["changes"], np.int64), np.array(table["offsets"], np.int64)
    before, after = offsets[:-1], offsets[1:]
    # A change is over, by the clock of either side, from here on; before that it may be under way.
    over = changes + np.maximum(before, after)
    passed = np.searchsorted(over, local, side="right")
    begun = np.zeros(len(local), np.bool_)
    if len(changes):
        coming = np.minimum(passed, len(changes) - 1)
        begun = (passed < len(changes)) & (local >= changes[coming] + np.minimum(before, after)[coming])
        twice = begun & (after < before)[coming]
        never = begun & (after > before)[coming]
    else:
        twice = never = begun
    offset = offsets[passed]
    if ambiguous == "later":
        offset = np.where(twice, offsets[np.minimum(passed + 1, len(changes))], offset)
    problems = {}
    if ambiguous == "dead_letter":
        problems["comes twice there, as clocks go back"] = twice
    if nonexistent == "dead_letter":
        problems["does not exist there, as clocks go forward"] = never
    return local - offset, problems


def _offset(zone: ZoneInfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset // timedelta(seconds=1)


def _zone(name: str, where: str) -> ZoneInfo:
    try:
        folder = resources.files("tzdata")
    except ModuleNotFoundError as error:
        raise HeadraceError(
            "Time zones need the package tzdata, which is not installed.",
            where=where,
            hint="pip install 'headrace[etl]'",
        ) from error
    parts = name.split("/")
    known = folder.joinpath("zones").read_text().split()
    if name not in known or ".." in parts:
        import difflib

        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise HeadraceError(
            "There is no such time zone.",
            where=where,
            value=name,
            allowed="a name of the IANA's database, such as Europe/Berlin or UTC",
            hint=f"The nearest are {', '.join(near)}." if near else None,
        )
    with folder.joinpath("zoneinfo", *parts).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)
