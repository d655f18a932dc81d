"""Cleaning rules for values: texts, languages, numbers, times, units, spellings, conditions; against plain Python."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from beam_jobs.batch import Batch, Ledger
from beam_jobs.clean import apply_rule, columns_after, constants, verb
from beam_jobs.rules.languages import Languages
from beam_jobs.rules.texts import normalized, truncated
from beam_jobs.rules.zones import to_utc, zone_table
from schemas import HeadraceError
from schemas.rules import VERBS, Rule
from schemas.value_rules import NormalizeTextRule


def batch(**columns: Any) -> tuple[Batch, Ledger]:
    records = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    keys = pa.array([f"k{n}".encode() for n in range(len(records))])
    rows = np.arange(len(records), dtype=np.int64)
    return Batch(records, keys, rows), Ledger("rows", lambda row: f"row {row}")


def rule_of(data: dict[str, Any]) -> Rule:
    return TypeAdapter(Rule).validate_python(data)


def apply(data: dict[str, Any], **columns: Any) -> tuple[dict[str, list[Any]], Ledger]:
    """The columns after a rule, as it is written in a job, and the books."""
    rule = rule_of(data)
    before, ledger = batch(**columns)
    columns_after(rule, before.columns)
    after = apply_rule(before, rule, ledger, constants(rule))
    return after.records.to_pydict(), ledger


def planned(data: dict[str, Any]) -> None:
    """What is done with a rule before anything is read."""
    rule = rule_of(data)
    columns_after(rule, None)
    constants(rule)


def counts(book: dict[str, list[np.ndarray]]) -> dict[str, list[int]]:
    return {rule: np.concatenate(rows).tolist() for rule, rows in book.items()}


def reasons(ledger: Ledger) -> dict[int, tuple[str, str]]:
    return {row: (letter.rule, letter.reason) for row, letter in ledger.numbered}


def test_drop_by_condition() -> None:
    found, ledger = apply({"drop": "small", "where": "10 / a > 4"}, a=[1, 5, None, 0, 2])
    assert found == {"a": [5, None]}
    assert counts(ledger.dropped) == {"small": [0, 4]}
    assert reasons(ledger)[3][0] == "where"


def test_dead_letter_by_condition() -> None:
    found, ledger = apply(
        {"dead_letter": "upside down", "where": "top < bottom", "reason": "the top is below the bottom"},
        top=[2, 1, None],
        bottom=[1, 2, 3],
    )
    assert found["top"] == [2, None]
    assert reasons(ledger) == {1: ("upside down", "the top is below the bottom")}


def test_repair_sets_columns_where_the_condition_holds() -> None:
    found, ledger = apply(
        {"repair": "swapped", "where": "w < 0", "set": {"w": "-w * 2.5", "h": "w", "note": "'was ' || w"}},
        w=[1, -2, -3, None],
        h=[5, 6, 7, 8],
    )
    # -3 * 2.5 is no whole number, and the column is one of those.
    assert found == {"w": [1, 5, None], "h": [5, -2, 8], "note": [None, "was -2", None]}
    assert counts(ledger.repaired) == {"swapped": [1]}
    assert reasons(ledger)[2] == ("repair", "w: 7.5 is no int64")


def test_a_repair_that_repairs_nothing_still_adds_its_column() -> None:
    found, ledger = apply({"repair": "none", "where": "a > 9", "set": {"b": "a + 1", "c": "'x'"}}, a=[1, 2])
    assert found == {"a": [1, 2], "b": [None, None], "c": [None, None]}
    assert not ledger.repaired


def test_lists_can_be_repaired() -> None:
    found, _ = apply({"repair": "empty", "where": "len(a) = 0", "set": {"a": "[0]"}}, a=[[1, 2], [], None])
    assert found == {"a": [[1, 2], [0], None]}


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, "  cafe\u0301 \t\n au\u00a0lait\0\x1b ", "café au lait"),
        ({"whitespace": "strip"}, " a  b\n", "a  b"),
        ({"whitespace": "keep"}, " a  b\n", " a  b\n"),
        ({"unicode": "NFKC"}, "ﬁ ½ １２", "fi 1⁄2 12"),
        ({"unicode": "keep"}, "e\u0301", "e\u0301"),
        ({"case": "fold"}, "Straße ΣΊΣΥΦΟΣ", "strasse σίσυφοσ"),
        ({"case": "upper"}, "straße", "STRASSE"),
        ({"control": "space"}, "a\0b", "a b"),
        ({"control": "keep"}, "a\0b", "a\0b"),
        ({}, "\ufeffright\u202eleft\u200b", "rightleft"),
        ({}, "👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_normalized_texts(options: dict[str, Any], text: str, expected: str) -> None:
    assert normalized(text, NormalizeTextRule(normalize_text=["a"], **options)) == expected


@given(
    st.text(max_size=40), st.sampled_from(["NFC", "NFKC", "NFD", "NFKD"]), st.sampled_from(["keep", "fold"])
)
def test_normalising_twice_changes_nothing(text: str, form: Any, case: Any) -> None:
    text = text.encode("utf-8", "replace").decode()
    rule = NormalizeTextRule(normalize_text=["a"], unicode=form, case=case)
    once = normalized(text, rule)
    assert unicodedata.is_normalized(form, once)
    if case == "keep":  # folding and decomposing by turns may take more than one round
        assert normalized(once, rule) == once


@settings(deadline=None)
@given(st.text(max_size=30), st.integers(1, 20), st.sampled_from(["characters", "bytes"]))
def test_truncating_never_cuts_a_code_point(text: str, most: int, unit: Any) -> None:
    text = text.encode("utf-8", "replace").decode()
    rule = NormalizeTextRule(normalize_text=["a"], max_length=most, length_in=unit, whitespace="keep")
    short = truncated(text, rule)
    assert text.startswith(short)
    assert (len(short) if unit == "characters" else len(short.encode())) <= most
    if short != text:  # the next code point does not fit
        longer = text[: len(short) + 1]
        assert (len(longer) if unit == "characters" else len(longer.encode())) > most


@pytest.mark.parametrize(
    ("options", "texts", "dropped", "repaired", "letters"),
    [
        ({"too_long": "truncate"}, ["abc", "äöü", "", None], {}, {"truncate a": [1]}, []),
        ({"too_long": "drop"}, ["abc", "", None], {"too long: a": [1]}, {}, []),
        ({}, ["abc", "", None], {}, {}, [1]),
        ({"too_long": "truncate", "empty": "null"}, ["abc", "äöü", None, None], {}, {"truncate a": [1]}, []),
        (
            {"too_long": "truncate", "empty": "drop"},
            ["abc", "äöü", None],
            {"empty: a": [2]},
            {"truncate a": [1]},
            [],
        ),
        ({"empty": "dead_letter"}, ["abc", None], {}, {}, [1, 2]),
    ],
)
def test_lengths_and_empty_texts(
    options: dict[str, Any], texts: list[Any], dropped: Any, repaired: Any, letters: list[int]
) -> None:
    found, ledger = apply({"normalize_text": "a", "max_length": 3, **options}, a=["abc", "äöü&&", " ", None])
    assert found["a"] == texts
    assert (counts(ledger.dropped), counts(ledger.repaired)) == (dropped, repaired)
    assert sorted(reasons(ledger)) == letters


SENTENCES = {
    "en": "Heavy rain is expected tomorrow in the north.",
    "de": "Bitte geben Sie das Buch bis Freitag zurück.",
    "fr": "Le chat était assis sur le mur chaud.",
    "pl": "Proszę zwrócić książkę do piątku.",
    "ru": "Пожалуйста, верните книгу до пятницы.",
    "ja": "金曜日までに本を返してください。",
}


def test_languages() -> None:
    texts = [*SENTENCES.values(), "12345", None]
    found, _ = apply({"tag_language": "a", "into": "lang"}, a=texts)
    assert found["lang"] == [*SENTENCES, "und", None]
    found, _ = apply(
        {"tag_language": "a", "languages": ["en", "de"], "min_confidence": 0.9, "unknown": "?"},
        a=[SENTENCES["de"], SENTENCES["en"], "Auto"],
    )
    assert found["language"] == ["de", "en", "?"]


def test_languages_are_those_of_the_library() -> None:
    """Whole numbers in place of floats change no tag, and no confidence by more than they are rounded."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    ours = Languages.of(())
    for text in [
        *SENTENCES.values(),
        "small red car",
        "verboden te parkeren",
        "禁止停车",
        SENTENCES["pl"] * 900,
    ]:
        name, confidence = theirs.classify(text[:20_000])
        assert ours.tag(text) == name
        assert ours.tag(text, max(0.0, confidence - 1e-3)) == name
        assert ours.tag(text, min(0.999999, confidence + 1e-3)) in (
            None,
            *([name] if confidence > 0.99 else []),
        )


def test_a_language_that_is_not_known() -> None:
    with pytest.raises(HeadraceError, match="language is not known"):
        columns_after(rule_of({"tag_language": "a", "languages": ["en", "xx"]}), None)


EURO = {"thousands": ".", "decimal": ","}


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        (
            {},
            {"1": 1.0, " -2.5 ": -2.5, "+.5": 0.5, "7.": 7.0, "1e3": 1000.0, "−4": -4.0, "1e-400": 0.0},
            [".", "1,5", "--1", "nan", "inf", "1e999", "٣", "0x10", "1 2", "5%", "$5", "(5)", "1_0"],
        ),
        (
            {"thousands": ","},
            {"1,234,567.5": 1234567.5, "1234.5": 1234.5},
            ["1,23", "12,34,567", ",1", "1,2345"],
        ),
        (EURO, {"1.234,5": 1234.5, "0,5": 0.5}, ["1.5", "1,234.5"]),
        (
            {"thousands": " ", "decimal": ","},
            {"1\u202f234,5": 1234.5, "12 345": 12345.0, "1\u00a0000": 1000.0},
            [],
        ),
        ({"thousands": "'"}, {"1'234": 1234.0, "1’234": 1234.0}, []),
        ({"percent": True}, {"12.5%": 0.125, "100 %": 1.0, "3": 3.0}, ["%", "5%%"]),
        (
            {"currency": ["€", "USD", "$"]},
            {"€5": 5.0, "5 €": 5.0, "-$ 3": -3.0, "$-3": -3.0, "USD12": 12.0, "3": 3.0},
            ["€", "€5$", "5 EUR", "5€€"],
        ),
        (
            {"parentheses": True, "currency": ["$"]},
            {"(12)": -12.0, "($3.5)": -3.5},
            ["(5", "5)", "(-5)", "()"],
        ),
    ],
)
def test_numbers(options: dict[str, Any], good: dict[str, float], bad: list[str]) -> None:
    texts = [*good, *bad, *good]  # some more than once
    found, ledger = apply({"parse_number": "a", **options}, a=[*texts, "", None])
    assert found["a"] == [*good.values(), *good.values(), None, None]
    assert list(reasons(ledger)) == list(range(len(good), len(good) + len(bad)))
    if bad:
        assert reasons(ledger)[len(good)] == (
            "parse_number",
            f"a: {bad[0]!r} is no number as the rule has them",
        )


def test_whole_numbers() -> None:
    texts = [
        "9.223.372.036.854.775.807",
        "-9223372036854775808",
        "007",
        "5,00",
        "9223372036854775808",
        "5,1",
        "1e3",
    ]
    found, ledger = apply(
        {"parse_number": ["a"], "type": "int64", **EURO, "missing": ["-"]}, a=[*texts, " - "]
    )
    assert found["a"] == [2**63 - 1, -(2**63), 7, 5, None]
    assert sorted(reasons(ledger)) == [4, 5, 6]


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_numbers_are_pythons(numbers: list[float]) -> None:
    texts = [f"{number:,.6f}" for number in numbers]
    found, _ = apply({"parse_number": "a", "thousands": ","}, a=texts)
    assert found["a"] == [float(text.replace(",", "")) for text in texts]


def test_numbers_that_are_numbers_already() -> None:
    found, ledger = apply({"parse_number": "a"}, a=[1, None, 3])
    assert found["a"] == [1.0, None, 3.0]
    assert not ledger.letters
    found, ledger = apply({"parse_number": "a", "type": "int64"}, a=[1.0, 2.5, None])
    assert found["a"] == [1, None]
    assert reasons(ledger) == {1: ("parse_number", "a: 2.5 is no int64")}
    found, _ = apply({"convert_units": "a", "unit": "m", "to": "km"}, a=[2**60])
    assert found["a"] == [2**60 / 1000]
    with pytest.raises(HeadraceError, match="The rule is for texts"):
        apply({"parse_number": "a"}, a=[True, False])


BERLIN = {"zone": "Europe/Berlin"}


def at(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        (
            {},
            {
                "2024-07-01": at(2024, 7, 1),
                "2024-07-01T12:30": at(2024, 7, 1, 12, 30),
                "2024-07-01 12:30:01.25": at(2024, 7, 1, 12, 30, 1, 250_000),
                "20240701T123001Z": at(2024, 7, 1, 12, 30, 1),
                "2024-07-01T12:00:00.1234567+02:00": at(2024, 7, 1, 10, 0, 0, 123_456),
                "2024-07-01T12:00:00 -0530": at(2024, 7, 1, 17, 30),
                "0001-01-01": at(1, 1, 1),
                "9999-12-31T23:59:59Z": at(9999, 12, 31, 23, 59, 59),
                "2024-02-29": at(2024, 2, 29),
            },
            [
                "2023-02-29",
                "2024-13-01",
                "2024-07-01T24:00",
                "2024-07-01T12:60",
                "0000-01-01",
                "2024-7-1",
                "today",
            ],
        ),
        (
            BERLIN,
            {"2024-07-01T12:00": at(2024, 7, 1, 10), "2024-01-01": at(2023, 12, 31, 23), "1850-01-01Z": None},
            ["2024-03-31T02:30", "2024-10-27T02:30", "1850-01-01"],
        ),
        (
            {**BERLIN, "ambiguous": "earlier", "nonexistent": "shift"},
            {"2024-10-27T02:30": at(2024, 10, 27, 0, 30), "2024-03-31T02:30": at(2024, 3, 31, 1, 30)},
            [],
        ),
        ({**BERLIN, "ambiguous": "later"}, {"2024-10-27T02:30": at(2024, 10, 27, 1, 30)}, []),
        (
            {
                "formats": [
                    "%a, %d %b %Y %I:%M %p",
                    "%d.%m.%y %T",
                    "%m/%d/%Y",
                    "%Y-%j",
                    "%B %d, %Y %H:%M:%S.%f%z",
                ]
            },
            {
                "Tue, 3 Mar 2020 12:04 am": at(2020, 3, 3, 0, 4),
                "Tue,  3 Mar 2020 12:04 PM": at(2020, 3, 3, 12, 4),
                "03.04.69 23:59:59": at(1969, 4, 3, 23, 59, 59),
                "03.04.68 23:59:59": at(2068, 4, 3, 23, 59, 59),
                "12/25/2020": at(2020, 12, 25),
                "2024-366": at(2024, 12, 31),
                "september 1, 2020 01:02:03.5+01:00": at(2020, 9, 1, 0, 2, 3, 500_000),
            },
            ["2023-366", "25/12/2020", "Tue, 3 Foo 2020 1:00 PM", "Tue, 3 Mar 2020 13:00 PM", "2020-12-25"],
        ),
        (
            {"not_before": "2000-01-01", "not_after": "2000-12-31T23:59:59.5"},
            {"2000-01-01": at(2000, 1, 1), "2000-12-31T23:59:59.5": at(2000, 12, 31, 23, 59, 59, 500_000)},
            ["1999-12-31T23:59:59.999", "2000-12-31T23:59:59.6", "2001-01-01"],
        ),
    ],
)
def test_times(options: dict[str, Any], good: dict[str, datetime | None], bad: list[str]) -> None:
    bad = [*bad, *(text for text, time in good.items() if time is None)]
    good = {text: time for text, time in good.items() if time is not None}
    found, ledger = apply({"parse_time": "t", **options}, t=[*good, *bad, "", None])
    assert found["t"] == [*good.values(), None, None]
    assert list(reasons(ledger)) == list(range(len(good), len(good) + len(bad)))
    assert {rule for rule, _ in reasons(ledger).values()} <= {"parse_time"}


def test_times_say_what_is_wrong() -> None:
    texts = ["2024-03-31T02:30", "2024-10-27T02:30", "1850-01-01", "2024-01-32"]
    _, ledger = apply({"parse_time": "t", **BERLIN}, t=texts)
    assert [reason for _, reason in reasons(ledger).values()] == [
        "t: '2024-03-31T02:30' does not exist there, as clocks go forward",
        "t: '2024-10-27T02:30' comes twice there, as clocks go back",
        "t: '1850-01-01' is not between 1900 and 2100, for which the zone's clock is known",
        "t: '2024-01-32' is no time as the rule has them",
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_units_of_time(unit: str) -> None:
    rule = rule_of({"parse_time": "t", "unit": unit})
    before, ledger = batch(t=["1969-12-31T23:59:58.123456789Z", "1600-01-01", "3000-01-01"])
    after = apply_rule(before, rule, ledger, constants(rule))
    assert after.records.schema.field("t").type == pa.timestamp(unit)
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    assert after.records["t"].cast(pa.int64())[0].as_py() == -2 * per_second + 123456789 * per_second // 10**9
    assert sorted(reasons(ledger)) == ([1, 2] if unit == "ns" else [])


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
@settings(deadline=None)
@given(seconds=st.integers(-2_100_000_000, 4_100_000_000))
def test_zones_are_pythons(name: str, seconds: int) -> None:
    """Of the clock of a zone, whichever of two moments it may mean."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        zone = ZoneInfo.from_file(file)
    local = (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(zone).replace(tzinfo=None)
    )
    count = (local - datetime(1970, 1, 1)) // timedelta(seconds=1)
    for fold, which in enumerate(["earlier", "later"]):
        expected = int(local.replace(tzinfo=zone, fold=fold).timestamp())
        table = zone_table(name, "here")
        found, problems = to_utc(np.array([count]), table, which, "shift")  # type: ignore[arg-type]
        assert (int(found[0]), problems) == (expected, {})
    _, problems = to_utc(np.array([count]), table, "dead_letter", "dead_letter")
    twice = local.replace(tzinfo=zone).utcoffset() != local.replace(tzinfo=zone, fold=1).utcoffset()
    assert [bool(mask[0]) for mask in problems.values()] == [twice, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["%d.%m"]}, "does not name one moment"),
        ({"formats": ["%d.%m.%Y %d"]}, "does not name one moment"),
        ({"formats": ["%I:%M %d.%m.%Y"]}, "does not name one moment"),
        ({"formats": ["%d.%m.%Q"]}, "a field that is not known"),
        ({"not_before": "yesterday"}, "The bound is no time"),
        ({"zone": "Europe/Berln"}, "There is no such time zone"),
        ({"zone": "../../etc/passwd"}, "should match pattern"),
    ],
)
def test_times_that_cannot_be_are_told_beforehand(options: dict[str, Any], message: str) -> None:
    with pytest.raises((HeadraceError, ValidationError), match=message):
        planned({"parse_time": "t", **options})


def test_units() -> None:
    found, ledger = apply(
        {"convert_units": "a", "to": "m", "unit_column": "u", "units": {"cm": "cm", '"': "inch", "m": "m"}},
        a=[170, 10, 3, None, 5, 6],
        u=["cm", ' "', "m", "furlong", "furlong", None],
    )
    assert found["a"] == [1.7, 0.254, 3.0, None]
    assert reasons(ledger)[4] == ("convert_units", "u: 'furlong' is no unit of the rule")
    found, _ = apply(
        {"convert_units": "a", "unit": "degF", "to": "degC", "into": "c"}, a=[32.0, 212.0, -40.0]
    )
    assert found == {"a": [32.0, 212.0, -40.0], "c": [0.0, 100.0, -40.0]}
    found, _ = apply({"convert_units": "a", "unit": "km/hour", "to": "m/s"}, a=[36])
    assert found == {"a": [10.0]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "m", "to": "kg"}, "Cannot convert from"),
        ({"unit": "foo", "to": "kg"}, "not defined"),
        ({"unit": "dBm", "to": "mW"}, "no such conversion|logarithmic"),
        ({"unit": "9**9**9*m", "to": "m"}, "should match pattern"),
        ({"unit": "m", "to": "__import__('os')"}, "should match pattern"),
        ({"to": "m"}, "needs `unit`, or `unit_column`"),
        ({"to": "m", "unit_column": "u"}, "go together"),
    ],
)
def test_units_that_cannot_be_are_told_beforehand(options: dict[str, Any], message: str) -> None:
    with pytest.raises((HeadraceError, ValidationError), match=message):
        planned({"convert_units": "a", **options})


def test_spellings() -> None:
    values = {"new": ["NEU", 1, True], "used": ["worn"]}
    found, ledger = apply(
        {"one_of": "a", "values": values}, a=["new", "NEU", "1", "true", "neu", None, "worn"]
    )
    assert found["a"] == ["new", "new", "new", "new", None, "used"]
    assert reasons(ledger)[4] == ("one_of", "a: 'neu' is none of new, used")
    folded = {"one_of": "a", "values": values, "ignore_case": True}
    found, ledger = apply({**folded, "otherwise": "drop", "into": "b"}, a=[" neu", "WORN", "x", None])
    assert found == {"a": [" neu", "WORN", None], "b": ["new", "used", None]}
    assert counts(ledger.dropped) == {"not one of: a": [2]}
    found, _ = apply({**folded, "otherwise": "keep"}, a=["Neu", "x", None])
    assert found["a"] == ["new", "x", None]
    found, _ = apply({**folded, "otherwise": "null"}, a=["Neu", "x"])
    assert found["a"] == ["new", None]
    found, _ = apply({"one_of": "a", "values": {"few": [1, 2], "many": [3]}}, a=[1, 3, 2, None])
    assert found["a"] == ["few", "many", "few", None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"drop": "x", "column": "a"}, "needs `column` and `values`, or `where`"),
        (
            {"drop": "x", "column": "a", "values": [1], "where": "a"},
            "needs `column` and `values`, or `where`",
        ),
        ({"drop": "x"}, "needs `column` and `values`, or `where`"),
        ({"repair": "x", "where": "a"}, "set"),
        ({"parse_number": "a", "thousands": "."}, "cannot be the same"),
        ({"parse_number": "a", "currency": ["5"]}, "holds no digits"),
        ({"parse_number": "a", "percent": True, "type": "int64"}, "no whole number"),
        ({"parse_number": ["a", "a"]}, "more than once"),
        ({"one_of": "a", "values": {"x": ["y"], "z": ["y"]}}, "stands for both"),
        ({"one_of": "a", "ignore_case": True, "values": {"x": ["Y"], "z": ["y"]}}, "stands for both"),
        ({"tag_language": "a", "languages": ["en"]}, "at least 2"),
    ],
)
def test_rules_that_make_no_sense(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        rule_of(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"drop": "x", "where": "b > 1"}, "column 'b', which does not exist"),
        ({"dead_letter": "x", "where": "b"}, "column 'b', which does not exist"),
        ({"repair": "x", "where": "a", "set": {"a": "b"}}, "column 'b', which does not exist"),
        ({"repair": "x", "where": "a", "set": {"a": "random()"}}, "'random' is not allowed"),
        ({"drop": "x", "where": "(SELECT 1)"}, "holds no subquery"),
        ({"dead_letter": "x", "where": "read_text('/etc/passwd') = ''"}, "more than one SQL|not allowed"),
        ({"normalize_text": ["a", "b"]}, "There is no such column"),
        ({"tag_language": "b"}, "There is no such column"),
        ({"parse_number": "b"}, "There is no such column"),
        ({"parse_time": "b"}, "There is no such column"),
        ({"convert_units": "a", "unit_column": "b", "units": ["m"], "to": "m"}, "There is no such column"),
        ({"one_of": "b", "values": {"x": []}}, "There is no such column"),
        ({"impute": "b", "value": 1}, "There is no such column"),
        ({"outliers": "b", "iqr": 1}, "There is no such column"),
        ({"weights": "w", "by": "b"}, "There is no such column"),
    ],
)
def test_columns_are_looked_for_before_anything_is_read(data: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadraceError, match=message):
        columns_after(rule_of(data), ["a"])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"repair": "x", "where": "a", "set": {"b": "a"}}, ["a", "b"]),
        ({"tag_language": "a"}, ["a", "language"]),
        ({"convert_units": "a", "unit": "m", "to": "m", "into": "b"}, ["a", "b"]),
        ({"one_of": "a", "values": {"x": []}, "into": "b"}, ["a", "b"]),
        ({"weights": "w", "by": "a"}, ["a", "w"]),
        ({"parse_time": "a"}, ["a"]),
    ],
)
def test_columns_there_are_afterwards(data: dict[str, Any], expected: list[str]) -> None:
    assert columns_after(rule_of(data), ["a"]) == expected


def test_texts_are_asked_for() -> None:
    for data in ({"normalize_text": "a"}, {"tag_language": "a"}, {"parse_time": "a"}):
        with pytest.raises(HeadraceError, match="The rule is for texts"):
            apply(data, a=[1, 2])
    with pytest.raises(HeadraceError, match="The rule is for numbers"):
        apply({"convert_units": "a", "unit": "m", "to": "m"}, a=["1"])


def test_the_page_of_rules_shows_every_rule() -> None:
    page = Path(__file__).parents[1].joinpath("docs/cleaning.md").read_text("utf-8")
    shown = set()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        for data in yaml.safe_load(block):
            shown.add(verb(rule_of(data)))
            planned(data)
    assert shown == set(VERBS)
    assert f"{len(Languages.of(()).names)} where absent" in page


def test_columns_of_nothing() -> None:
    for data in ({"normalize_text": "a"}, {"tag_language": "a"}, {"parse_number": "a"}, {"parse_time": "a"}):
        found, ledger = apply(data, a=pa.nulls(2))
        assert set(map(tuple, found.values())) == {(None, None)}
        assert not ledger.letters


def test_each_distinct_text_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from beam_jobs.rules import texts

    seen: list[str] = []
    real = texts.normalized
    monkeypatch.setattr(texts, "normalized", lambda text, rule: seen.append(text) or real(text, rule))
    found, _ = apply({"normalize_text": "a"}, a=["x ", "y"] * 500)
    assert found["a"] == ["x", "y"] * 500
    assert seen == ["x ", "y"]
