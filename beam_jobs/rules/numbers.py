"""Numbers as people write them, and numbers of several units: to plain numbers, column by column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Batch, Ledger, Problem
from beam_jobs.reshape import cast_or_places
from beam_jobs.rules.distinct import Mask, as_mask, as_numbers, distinct_texts, problems_at
from schemas import HeadraceError
from schemas.value_rules import ConvertUnitsRule, ParseNumberRule

_SIGN = "[+\\-−]"
_THOUSANDS = {" ": "[ \u00a0\u202f\u2009]", "'": "['’]", "’": "['’]"}
_LARGEST_WHOLE = 2**53  # up to here every whole number is a float64


def parse_numbers(batch: Batch, rule: ParseNumberRule, ledger: Ledger) -> Batch:
    """Makes numbers of columns of texts; a record with a text that is no number is a dead letter.

    Raises:
      HeadraceError: a column holds neither texts nor numbers.
    """
    problems: list[Problem] = []
    kind = pa.float64() if rule.type == "float64" else pa.int64()
    for name in rule.parse_number:
        column, where = batch.records.column(name), f"clean, parse_number {name}"
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            numbers, lost = cast_or_places(column, kind, where)
            batch = batch.with_column(name, numbers)
            wrong = np.isin(np.arange(len(column)), lost)
            problems += problems_at(wrong, "parse_number", name, column, f"is no {rule.type}")
            continue
        texts, places = distinct_texts(column, where)
        numbers, missing = numbers_of(texts, rule)
        bad = pc.and_(pc.is_null(numbers), pc.invert(missing))
        what = f"is no {'number' if rule.type == 'float64' else 'whole number'} as the rule has them"
        problems += problems_at(as_mask(bad.take(places)), "parse_number", name, column, what)
        batch = batch.with_column(name, numbers.take(places))
    return ledger.refuse(batch, "clean", problems)


def numbers_of(texts: pa.Array, rule: ParseNumberRule) -> tuple[pa.Array, pa.Array]:
    """The number of each text, float64 or int64 (n,), null where it is none; and which texts stand for no value."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, value_set=pa.array([text.strip() for text in rule.missing], trimmed.type))
    found = pc.extract_regex(trimmed, _pattern(rule))
    part = dict(zip((field.name for field in found.type), found.flatten(), strict=True))
    given = {name: pc.fill_null(pc.not_equal(values, ""), False) for name, values in part.items()}
    good = pc.is_valid(found)
    good = pc.and_(good, pc.or_(given["whole"], given["places"]))
    for one, other in (("sign", "inner"), ("before", "behind"), ("sign", "open"), ("inner", "open")):
        good = pc.and_(good, pc.invert(pc.and_(given[one], given[other])))
    good = pc.and_(good, pc.equal(given["open"], given["close"]))
    negative = pc.or_(
        given["open"],
        pc.or_(pc.is_in(part["sign"], pa.array(["-", "−"])), pc.is_in(part["inner"], pa.array(["-", "−"]))),
    )
    whole = pc.replace_substring_regex(part["whole"], "[^0-9]", "")
    sign = pc.if_else(negative, "-", "")
    if rule.type == "int64":
        zeros = pc.equal(pc.utf8_trim(part["places"], "0"), "")
        good = pc.and_(good, pc.and_(pc.and_(zeros, given["whole"]), pc.invert(given["power"])))
        digits = pc.utf8_ltrim(whole, "0")
        good = pc.and_(good, pc.less_equal(pc.utf8_length(digits), 19))
        digits = pc.if_else(pc.equal(digits, ""), "0", digits)
        numbers = _whole(pc.binary_join_element_wise(sign, digits, ""), good)
    else:
        digits = pc.if_else(given["whole"], whole, "0")
        places = pc.if_else(given["places"], part["places"], "0")
        joined = pc.binary_join_element_wise(sign, digits, ".", places, part["power"], "")
        numbers = pc.cast(pc.if_else(pc.fill_null(good, False), joined, None), pa.float64())
        numbers = pc.if_else(given["percent"], pc.divide(numbers, 100.0), numbers)
        numbers = pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))
    none = pa.scalar(None, numbers.type)
    return pc.if_else(pc.fill_null(missing, False), none, numbers), pc.or_(missing, pc.is_null(texts))


def _whole(texts: pa.Array, good: pa.Array) -> pa.Array:
    """Whole numbers of texts of at most 19 digits, null where they are not good or do not fit."""
    texts = pc.if_else(pc.fill_null(good, False), texts, None)
    try:
        return pc.cast(texts, pa.int64())
    except pa.ArrowInvalid:  # 19 digits can be too much
        numbers = [None if text is None else int(text) for text in texts.to_pylist()]
        return pa.array([n if n is not None and -(2**63) <= n < 2**63 else None for n in numbers], pa.int64())


@lru_cache(maxsize=64)
def _pattern_of(
    decimal: str, thousands: str | None, percent: bool, currency: tuple[str, ...], parentheses: bool
) -> str:
    whole = r"[0-9]*"
    if thousands is not None:
        mark = _THOUSANDS.get(thousands, re.escape(thousands))
        whole = rf"[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+|{whole}"
    signs = "|".join(
        re.escape(sign.strip()) for sign in sorted(currency, key=lambda sign: (-len(sign), sign))
    )
    money = signs or "[^\\x00-\\x{10FFFF}]"  # no character
    return (
        rf"^(?P<open>{'[(]?' if parentheses else '(?:)'})\s*(?P<sign>{_SIGN}?)\s*(?P<before>(?:{money})?)\s*"
        rf"(?P<inner>{_SIGN}?)(?P<whole>{whole})(?:{re.escape(decimal)}(?P<places>[0-9]*))?"
        rf"(?P<power>(?:[eE][+\-]?[0-9]{{1,4}})?)[\s\x{{00A0}}\x{{202F}}]*(?P<behind>(?:{money})?)\s*"
        rf"(?P<percent>{'%?' if percent else '(?:)'})\s*(?P<close>{'[)]?' if parentheses else '(?:)'})$"
    )


def _pattern(rule: ParseNumberRule) -> str:
    return _pattern_of(rule.decimal, rule.thousands, rule.percent, tuple(rule.currency), rule.parentheses)


Factor = Sequence[float]  # a, b, c: a value v is (v * a + b) / c in the unit wanted


def unit_factors(rule: ConvertUnitsRule) -> dict[str, list[float]]:
    """How values of each unit become values of the one wanted, by what says the unit. Computed by pint, exactly.

    Raises:
      HeadraceError: a unit is not known, two do not go together, or pint is not installed.
    """
    where = f"clean, convert_units {rule.convert_units}"
    try:
        import pint
    except ImportError as error:
        raise HeadraceError(
            "Converting units needs pint, which is not installed.",
            where=where,
            hint="pip install 'headrace[units]'",
        ) from error
    registry = _registry()
    found = {}
    for text, unit in rule.units_by_text.items():
        try:
            points = [Fraction(registry.Quantity(Fraction(n), unit).to(rule.to).magnitude) for n in range(3)]
        except (
            pint.PintError,
            TypeError,
            ValueError,
            AttributeError,
            AssertionError,
            ArithmeticError,
        ) as error:
            raise HeadraceError(
                "There is no such conversion of units.",
                where=where,
                value=f"{unit} to {rule.to}",
                hint=str(error).strip().splitlines()[0] if str(error).strip() else None,
            ) from error
        factor, offset = points[1] - points[0], points[0]
        if points[2] - points[1] != factor:
            raise HeadraceError(
                "A logarithmic unit has no factor.", where=where, value=f"{unit} to {rule.to}"
            )
        found[text.strip()] = _factor(factor, offset)
    return found


def convert_units(
    batch: Batch, rule: ConvertUnitsRule, ledger: Ledger, factors: Mapping[str, Factor]
) -> Batch:
    """Converts a column of numbers to one unit, float64; a value of an unknown unit is a dead letter.

    Raises:
      HeadraceError: the column holds no numbers, or that of the units no texts.
    """
    where = f"clean, convert_units {rule.convert_units}"
    column = batch.records.column(rule.convert_units)
    values = as_numbers(column, where)
    problems: list[Problem] = []
    if rule.unit_column is None:
        a, b, c = factors[""]
        numbers = _converted(values, np.array(a), np.array(b), np.array(c))
    else:
        units = batch.records.column(rule.unit_column)
        texts, places = distinct_texts(units, where)
        rows = pc.index_in(pc.utf8_trim_whitespace(texts), pa.array(list(factors), texts.type)).take(places)
        unknown = as_mask(pc.and_(pc.is_null(rows), pc.is_valid(values)))
        problems = problems_at(unknown, "convert_units", rule.unit_column, units, "is no unit of the rule")
        known = pc.fill_null(rows, 0).to_numpy(zero_copy_only=False)
        a, b, c = np.array(list(factors.values())).T
        numbers = _converted(values, a[known], b[known], c[known])
    batch = batch.with_column(rule.into or rule.convert_units, numbers)
    return ledger.refuse(batch, "clean", problems)


def _converted(values: pa.Array, a: Any, b: Any, c: Any) -> pa.Array:
    given: npt.NDArray[np.float64] = pc.fill_null(values, 0.0).to_numpy(zero_copy_only=False)
    missing: Mask = values.is_null().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return pa.array((given * a + b) / c, mask=missing)


def _factor(factor: Fraction, offset: Fraction) -> list[float]:
    """Whole numbers where there are some: 170 cm are 170 / 100 m, while 170 * 0.01 is not the same."""
    both = factor.denominator * offset.denominator // gcd(factor.denominator, offset.denominator)
    parts = (factor * both, offset * both, Fraction(both))
    if all(abs(part) <= _LARGEST_WHOLE for part in parts):
        return [float(part) for part in parts]
    return [float(factor), float(offset), 1.0]


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint

    return pint.UnitRegistry(non_int_type=Fraction, cache_folder=None)
