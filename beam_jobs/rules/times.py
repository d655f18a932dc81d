"""Timestamps of texts, by formats or ISO 8601: the fields by regular expressions, the rest by whole numbers.

Neither the C library's parser nor the machine's language and zone have a part in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.rules.distinct import as_mask, distinct_texts, problems_at
from beam_jobs.rules.zones import FIRST_YEAR, LAST_YEAR, Mask, Numbers, to_utc
from schemas import HeadraceError
from schemas.value_rules import ParseTimeRule

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FULL_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_OFFSET = r"(?P<offset>[Zz]|[+\-][0-9]{2}(?::?[0-9]{2})?)"
_DIRECTIVES = {
    "Y": r"(?P<year>[0-9]{4})",
    "y": r"(?P<short_year>[0-9]{2})",
    "m": r"(?P<month>[0-9]{1,2})",
    "b": r"(?P<name>[A-Za-z]{3,9})",
    "B": r"(?P<name>[A-Za-z]{3,9})",
    "d": r"(?P<day>[0-9]{1,2})",
    "j": r"(?P<day_of_year>[0-9]{1,3})",
    "a": r"[A-Za-z]{2,9}",
    "A": r"[A-Za-z]{2,9}",
    "H": r"(?P<hour>[0-9]{1,2})",
    "I": r"(?P<half_hour>[0-9]{1,2})",
    "p": r"(?P<half>[AaPp])\.?[Mm]\.?",
    "M": r"(?P<minute>[0-9]{1,2})",
    "S": r"(?P<second>[0-9]{1,2})",
    "f": r"(?P<fraction>[0-9]{1,9})[0-9]*",
    "z": _OFFSET,
    "%": "%",
}
_SHORT = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "R": "%H:%M", "D": "%m/%d/%y"}
_FRACTION = r"(?:[.,](?P<fraction>[0-9]{1,9})[0-9]*)?"
_H, _M, _S = (_DIRECTIVES[c].replace("{1,2}", "{2}") for c in "HMS")
_DATE = [_DIRECTIVES[c].replace("{1,2}", "{2}") for c in "Ymd"]
_ISO = (
    rf"^{'-'.join(_DATE)}(?:[Tt ]{_H}:{_M}(?::{_S}{_FRACTION})?\s?{_OFFSET}?)?$",
    rf"^{''.join(_DATE)}(?:[Tt]{_H}{_M}(?:{_S}{_FRACTION})?{_OFFSET}?)?$",
)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST_NS = 9_223_372_035  # seconds that int64 nanoseconds hold, on either side of 1970

Fields = dict[str, Numbers]


@lru_cache(maxsize=256)
def time_pattern(text: str, where: str) -> str:
    """A format as a regular expression with a named group for each field.

    Raises:
      HeadraceError: it holds what is not known, or names no day.
    """
    for short, whole in _SHORT.items():
        text = text.replace(f"%{short}", whole)
    parts: list[str] = []
    for piece in re.findall(r"%.?|\s+|[^%\s]+", text):
        if piece.startswith("%"):
            if piece[1:] not in _DIRECTIVES:
                raise HeadraceError(
                    "The format holds a field that is not known.",
                    where=where,
                    value=f"{piece} in {text}",
                    allowed=" ".join(f"%{name}" for name in [*_DIRECTIVES, *_SHORT]),
                )
            parts.append(_DIRECTIVES[piece[1:]])
        else:
            parts.append(r"\s+" if piece.isspace() else re.escape(piece))
    names = re.findall(r"\(\?P<(\w+)>", "".join(parts))
    whole_year = {"year", "short_year"} & set(names)
    day = ({"month", "name"} & set(names) and "day" in names) or "day_of_year" in names
    clocks = {"hour", "half_hour"} & set(names)
    good = (
        len(names) == len(set(names))
        and len(whole_year) == 1
        and day
        and len(clocks) < 2
        and len({"month", "name", "day_of_year"} & set(names)) == 1
        and ("half_hour" in names) == ("half" in names)
    )
    if not good:
        raise HeadraceError(
            "The format does not name one moment.",
            where=where,
            value=text,
            allowed="each field once: a year, a month and a day (or %j), an hour as %H or as %I with %p",
        )
    return f"^{''.join(parts)}$"


def patterns(rule: ParseTimeRule) -> list[str]:
    """The regular expressions of a rule, and its bounds looked at.

    Raises:
      HeadraceError: a format or a bound is no such thing.
    """
    where = f"clean, parse_time {', '.join(rule.parse_time)}"
    for bound in (rule.not_before, rule.not_after):
        if bound is not None:
            _bound(bound, where)
    return list(_ISO) if rule.formats is None else [time_pattern(text, where) for text in rule.formats]


def parse_times(batch: Batch, rule: ParseTimeRule, ledger: Ledger, zone: Mapping[str, Any]) -> Batch:
    """Makes timestamps of columns of texts, in UTC; a record with a text that is none is a dead letter.

    Raises:
      HeadraceError: a column holds no texts.
    """
    problems: list[Problem] = []
    for name in rule.parse_time:
        column = batch.records.column(name)
        texts, places = distinct_texts(column, f"clean, parse_time {name}")
        times, wrong = times_of(texts, rule, zone)
        rows = pc.fill_null(places, 0).to_numpy(zero_copy_only=False)
        valid = as_mask(pc.is_valid(places))
        for why, mask in wrong.items():
            here = (mask[rows] & valid) if len(mask) else np.zeros(len(column), np.bool_)
            problems += problems_at(here, "parse_time", name, column, why)
        batch = batch.with_column(name, times.take(places))
    return ledger.refuse(batch, "clean", problems)


def times_of(
    texts: pa.Array, rule: ParseTimeRule, zone: Mapping[str, Any]
) -> tuple[pa.Array, dict[str, Mask]]:
    """The time of each text, timestamp (n,), null where there is none; and where there should be one, by why not."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = as_mask(pc.is_in(trimmed, value_set=pa.array([t.strip() for t in rule.missing], trimmed.type)))
    missing |= as_mask(pc.is_null(texts))
    local, fraction, offset, found = _moments(trimmed, patterns(rule))
    named = offset != _NO_OFFSET
    utc, unclear = to_utc(local, dict(zone), rule.ambiguous, rule.nonexistent)
    outside = (local < _YEAR_FIRST) | (local >= _YEAR_END)
    asked = found & ~missing
    wrong = {
        "is no time as the rule has them": ~found & ~missing,
        **{why: mask & asked & ~named for why, mask in unclear.items()},
    }
    if zone["changes"]:
        wrong[f"is not between {FIRST_YEAR} and {LAST_YEAR}, for which the zone's clock is known"] = (
            outside & asked & ~named
        )
    seconds = np.where(named, local - offset, utc)
    per_second = _PER_SECOND[rule.unit]
    if rule.unit == "ns":
        wrong["is out of the range of nanoseconds"] = (np.abs(seconds) > _MOST_NS) & asked
    for bound, beyond, why in ((rule.not_before, np.less, "before"), (rule.not_after, np.greater, "after")):
        if bound is not None:
            second, part = _bound(bound, "")
            out = beyond(seconds, second) | ((seconds == second) & beyond(fraction, part))
            wrong[f"is {why} {bound}"] = out & asked
    none = missing | np.logical_or.reduce(list(wrong.values()))
    counts = np.where(none, 0, seconds) * per_second + fraction * per_second // 10**9
    return pa.array(counts, mask=none).cast(pa.timestamp(rule.unit)), wrong


_NO_OFFSET = np.int64(1 << 40)
_YEAR_FIRST, _YEAR_END = (
    int(np.datetime64(f"{year}-01-01T00:00:00").astype(np.int64)) for year in (FIRST_YEAR, LAST_YEAR + 1)
)


def _moments(texts: pa.Array, expressions: Sequence[str]) -> tuple[Numbers, Numbers, Numbers, Mask]:
    """Seconds of the clock, nanoseconds, the offset of each text, and which of them are times: (n,) each."""
    local, fraction, offset = (np.zeros(len(texts), np.int64) for _ in range(3))
    found = np.zeros(len(texts), np.bool_)
    for expression in expressions:
        rest = np.flatnonzero(~found)
        if not len(rest):
            break
        parts = pc.extract_regex(texts.take(pa.array(rest)), expression)
        texts_of = dict(zip((field.name for field in parts.type), parts.flatten(), strict=True))
        seconds, good = _seconds(texts_of, as_mask(pc.is_valid(parts)))
        shift, good_shift = _shift(texts_of, len(rest))
        good &= good_shift
        here = rest[good]
        local[here], offset[here] = seconds[good], shift[good]
        if "fraction" in texts_of:
            digits = pc.utf8_rpad(pc.fill_null(texts_of["fraction"], ""), 9, "0")
            fraction[here] = pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False)[good]
        found[here] = True
    return local, fraction, offset, found


def _seconds(parts: Mapping[str, pa.Array], good: Mask) -> tuple[Numbers, Mask]:
    """Seconds since 1970 by the clock of each match, and which are real: no 30th of February."""
    number = {
        name: _number(values) for name, values in parts.items() if name not in ("name", "half", "offset")
    }
    nothing = np.zeros(len(good), np.int64)
    if "year" in number:
        year = number["year"]
    else:
        year = number["short_year"] + np.where(number["short_year"] < 69, 2000, 1900)  # as POSIX has it
    month = _month(parts["name"]) if "name" in parts else number.get("month", nothing + 1)
    day = number.get("day", number.get("day_of_year", nothing))
    good = good & (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + np.where(good, day - 1, 0)
    if "day_of_year" in number:
        good &= days.astype("datetime64[Y]").astype(np.int64) + 1970 == year
    else:
        good &= days.astype("datetime64[M]") == months
    hour = number.get("hour", nothing)
    if "half_hour" in number:
        hour = number["half_hour"]
        good &= (hour >= 1) & (hour <= 12)
        late = as_mask(pc.equal(pc.utf8_lower(parts["half"]), "p"))
        hour = hour % 12 + np.where(late, 12, 0)
    minute, second = number.get("minute", nothing), number.get("second", nothing)
    good &= (hour < 24) & (minute < 60) & (second < 60)
    return days.astype(np.int64) * 86_400 + hour * 3600 + minute * 60 + second, good


def _shift(parts: Mapping[str, pa.Array], count: int) -> tuple[Numbers, Mask]:
    """Seconds that the offset of each match adds to UTC; `_NO_OFFSET` where it has none."""
    none = np.full(count, _NO_OFFSET)
    if "offset" not in parts:
        return none, np.ones(count, np.bool_)
    texts = pc.fill_null(parts["offset"], "")
    digits = pc.utf8_rpad(pc.replace_substring_regex(texts, "[^0-9]", ""), 4, "0")
    value = pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False)
    hours, minutes = value // 100, value % 100
    seconds = hours * 3600 + minutes * 60
    negative = as_mask(pc.starts_with(texts, "-"))
    given = as_mask(pc.not_equal(texts, ""))
    return np.where(given, np.where(negative, -seconds, seconds), none), (hours < 24) & (minutes < 60)


def _number(texts: pa.Array) -> Numbers:
    """The numbers of matched digits; 0 where there are none."""
    texts = pc.fill_null(texts, "")
    texts = pc.if_else(pc.equal(texts, ""), "0", texts)
    numbers: npt.NDArray[np.int64] = pc.cast(texts, pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _month(names: pa.Array) -> Numbers:
    """The number of each month by its English name, short or whole; 0 for other words."""
    lower = pc.fill_null(pc.utf8_lower(names), "")
    short = pc.index_in(lower, value_set=pa.array(_MONTHS, lower.type))
    whole = pc.index_in(lower, value_set=pa.array(_FULL_MONTHS, lower.type))
    found = pc.fill_null(pc.coalesce(short, whole), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int64) + 1


def _bound(text: str, where: str) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds of a time in UTC, ISO 8601."""
    local, fraction, offset, found = _moments(pa.array([text.strip()]), _ISO)
    if not found[0]:
        raise HeadraceError(
            "The bound is no time.", where=where, value=text, allowed="ISO 8601, such as 2020-01-31T12:00:00"
        )
    shift = 0 if offset[0] == _NO_OFFSET else int(offset[0])
    return int(local[0]) - shift, int(fraction[0])
