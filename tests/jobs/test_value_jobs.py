"""Rules for values, from end to end: planted bad values, balanced books, same bytes, updates as from scratch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from beam_jobs import run
from beam_jobs.inspect_dataset import inspect
from schemas import HeadraceError
from tests.jobs import small_job
from tests.jobs.small_job import digests, make_data, make_job, options

ROWS = 400
JOB = """
name: goods
version: 1.0.0
vars: {data: unset}
sources:
  rows: {kind: csv, path: "${data}/rows.csv", key: id, partition_bytes: 4000}
clean:
  - {normalize_text: [text, state], max_length: 60, too_long: truncate, empty: dead_letter}
  - {tag_language: text, into: lang, languages: [de, en, fr]}
  - {drop: gone, where: state = 'gone'}
  - {one_of: state, values: {new: [NEU], used: [worn]}, ignore_case: true}
  - {parse_number: price, thousands: ".", decimal: ",", currency: [€], parentheses: true, missing: ["", "-"]}
  - {repair: negative prices, where: price < 0, set: {price: -price}}
  - {dead_letter: too dear, where: price > 100000, reason: nobody would pay that}
  - {parse_time: made, formats: ["%d.%m.%Y %H:%M"], zone: Europe/Berlin, unit: s}
  - {parse_number: length}
  - {convert_units: length, unit_column: unit, units: [cm, inch], to: m}
  - {impute: price, value: 0}
features:
  text: {type: text}
  lang: {type: class_label, names: [de, en, fr]}
  state: {type: class_label, names: [new, used]}
  price: {type: float32}
  made: {type: int64}
  length: {type: float32}
  name: {type: text, from: id}
split: {fractions: {train: 0.5, test: 0.5}}
write: {shards: 2, max_dead_letters: 10%}
"""
TEXTS = (
    "Bitte geben Sie das Buch zurück.",
    "The cat sat on the warm wall.",
    "Le chat était sur le mur chaud.",
)
# What is planted in which row, and the dead letter that it makes.
BAD = {
    (10, "text"): (" \x00 ", "normalize_text"),
    (50, "state"): ("broken", "one_of"),
    (90, "price"): ("12,34,5", "parse_number"),
    (130, "price"): ("200.000", "too dear"),
    (170, "made"): ("31.03.2024 02:30", "parse_time"),
    (210, "made"): ("30.02.2024 12:00", "parse_time"),
    (250, "length"): ("long", "parse_number"),
    (290, "unit"): ("mile", "convert_units"),
}


def row_of(number: int) -> dict[str, str]:
    row = {
        "id": f"r{number}",
        "text": f" {TEXTS[number % 3]}\u00a0 {'x' * 40 if number % 50 == 3 else ''}",
        "state": "gone" if number % 40 == 5 else ("new", "NEU", " Worn ", "used")[number % 4],
        "price": "-"
        if number % 20 == 7
        else f"{'(' * (number % 25 == 1)}1.{number:03},50 €{')' * (number % 25 == 1)}",
        "made": f"{number % 28 + 1:02}.07.2024 12:30",
        "length": f"{number}.5",
        "unit": ("cm", "inch")[number % 2],
    }
    for (place, name), (value, _) in BAD.items():
        if place == number:
            row[name] = value
    return row


def write_rows(folder: Path, changed: dict[int, dict[str, str]] | None = None) -> Path:
    lines = [",".join(row_of(0))]
    for number in range(ROWS):
        row = row_of(number) | (changed or {}).get(number, {})
        lines.append(",".join(f'"{value}"' for value in row.values()))
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


def values_of(version: Path) -> dict[str, dict[str, Any]]:
    return {
        record.values["name"][0].decode(): {name: value[0] for name, value in record.values.items()}
        for record in inspect(version, records=ROWS).records
        if record.values is not None
    }


def test_every_planted_value_is_in_the_books(tmp_path: Path) -> None:
    result = run(make_job(write_rows(tmp_path), JOB), tmp_path / "out")
    books = result.manifest.books["rows"]
    assert books.balanced
    assert (books.read, books.dead_lettered) == (ROWS, len(BAD))
    assert books.dropped == {"gone": 10}
    assert Counter(result.manifest.dead_letters) == Counter(f"clean.{rule}" for _, rule in BAD.values())
    letters = pq.read_table(result.path / "dead_letters/dead_letters.parquet").to_pylist()
    for letter in letters:
        number = int(letter["key"].removeprefix("r"))
        ((name, (value, rule)),) = [(n, bad) for (place, n), bad in BAD.items() if place == number]
        assert letter["rule"] == rule
        assert letter["origin"] == f"rows.csv, row {number + 1}"
        assert repr(value) in letter["reason"] or rule == "too dear", (name, letter)
    # Rows 1, 26, …, without those that were dropped; -7 of every 20 are no number.
    negative = [n for n in range(ROWS) if n % 25 == 1 and n % 40 != 5 and n % 20 != 7]
    assert books.repaired == {
        "impute price": sum(n % 20 == 7 and n % 40 != 5 for n in range(ROWS)),
        "negative prices": len(negative),
        "truncate text": sum(n % 50 == 3 for n in range(ROWS)),
    }
    values = values_of(result.path)
    assert values["r26"]["price"] == pytest.approx(1026.5)
    assert values["r3"]["text"] == (TEXTS[0] + " " + "x" * 40)[:60].encode()
    assert [int(values[f"r{n}"]["lang"]) for n in (0, 1, 2)] == [0, 1, 2]
    assert [int(values[f"r{n}"]["state"]) for n in (0, 1, 2, 3)] == [0, 0, 1, 1]
    assert values["r0"]["made"] == 1719829800  # 10:30 UTC
    assert (values["r2"]["length"], values["r3"]["length"]) == pytest.approx((0.025, 0.0889))


def test_same_bytes(tmp_path: Path) -> None:
    job = make_job(write_rows(tmp_path), JOB)
    one = run(job, tmp_path / "one", options("multi_threading", 1))
    many = run(job, tmp_path / "many", options("multi_threading", 4))
    processes = run(job, tmp_path / "processes", options("multi_processing", 2))
    assert digests(one.path) == digests(many.path) == digests(processes.path)


REPAIRS = small_job.JOB.replace(
    "  - map: tests",
    """  - {repair: odd notes, where: "probability::DOUBLE > 0.4", set: {note: "note || '!'"}}
  - {normalize_text: note, max_length: 8, too_long: truncate}
  - map: tests""",
)


def test_repaired_records_that_are_taken_over_are_counted(tmp_path: Path) -> None:
    """Images are taken over one by one: what was repaired of them is known without reading them."""
    data = make_data(tmp_path, faults=True)
    first = run(make_job(data, REPAIRS), tmp_path / "out")
    repaired = first.manifest.books["photos"].repaired
    assert 0 < repaired["odd notes"] < small_job.RECORDS
    assert repaired["truncate note"] > 0
    (data / "photos/a/photo0004.jpg").write_bytes((data / "photos/a/photo0002.jpg").read_bytes())
    (data / "photos/b/photo0005.jpg").unlink()
    text = REPAIRS.replace("1.0.0", "1.1.0")
    updated = run(make_job(data, text), tmp_path / "out")
    assert updated.taken_over["records"] > small_job.RECORDS / 2
    assert updated.taken_over["partitions"] < updated.partitions
    fresh = run(make_job(data, text), tmp_path / "fresh")
    assert digests(updated.path) == digests(fresh.path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("normalize_text: [text, state]", "normalize_text: [txt]", "There is no such column"),
        ("where: price < 0", "where: prices < 0", "column 'prices', which does not exist"),
        ("where: state = 'gone'", "where: getenv('HOME') = ''", "'getenv' is not allowed"),
        ("set: {price: -price}", "set: {price: (SELECT 1)}", "holds no subquery"),
        ("zone: Europe/Berlin", "zone: Europe/Berlim", "There is no such time zone"),
        ("to: m}", "to: kg}", "no such conversion"),
        ("languages: [de, en, fr]", "languages: [de, xx]", "language is not known"),
        ("too_long: truncate", "too_long: cut", "'cut' is not known here"),
        ("- {one_of: state, values", "- {oneof: state, values", "a rule needs its verb"),
        ('decimal: ","', 'decimal: "."', "cannot be the same"),
    ],
)
def test_mistakes_are_found_before_anything_is_read(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match=message):
        run(make_job(write_rows(tmp_path), JOB, **{old: new}), tmp_path / "out")
    assert not (tmp_path / "out/goods/.headrace/runs").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pint", None)
    with pytest.raises(HeadraceError, match="pint, which is not installed") as caught:
        run(make_job(write_rows(tmp_path), JOB), tmp_path / "out")
    assert caught.value.hint == "pip install 'headrace[units]'"
