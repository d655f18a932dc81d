"""A schema that evolves: only the bounds that are broken change, and the words around them stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.cli import main
from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.update import update_schema
from schemas.data_schema import parse_data_schema
from tests.data_schema.made import SCHEMA, feature, numbers, of_texts, schema, statistics, top
from tests.data_schema.test_check import PLANTED

BY_HAND = {"missing_feature", "unknown_feature", "wrong_type"}


def test_nothing_changes_where_nothing_is_wrong() -> None:
    assert update_schema(SCHEMA, "s.yaml", statistics()) == (SCHEMA, [], [])


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_allowed_then(name: str) -> None:
    changes, kind, *_ = PLANTED[name]
    known = statistics(**changes)
    text, told, left = update_schema(SCHEMA, "s.yaml", known)
    assert left == find_anomalies(parse_data_schema(text), known)
    if kind in BY_HAND:
        assert (text, told) == (SCHEMA, [])
    lines = zip(SCHEMA.splitlines(), text.splitlines(), strict=True)
    assert sum(old != new for old, new in lines) == len(told)


def test_words_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """\
# Of the whole.
features:
  age: {type: int64, min: 0,   max: 99}  # years
  kind:
    type: text
    values:   # where to
      - city
      - "sea"  # not lake
    # Behind it.
  code: {type: int64, values: [1, 2, 3, 9]}
"""
    file, known = tmp_path / "schema.yaml", tmp_path / "statistics.json"
    file.write_text(text)
    changed = statistics(
        age=feature("int64", numbers=numbers([0, 150]), top=top({0: 500, 150: 500})),
        kind=of_texts({"city": 999, "a: b": 1}),
    )
    known.write_text(changed.to_json())
    assert main(["schema", "update", str(file), str(known)]) == 1
    told = capsys.readouterr().out
    assert told.startswith(
        'features.age.max: 99 → 230\nfeatures.kind.values: - city - "sea" → [city, sea, "a: b"]\n'
    )
    assert "unknown_feature  photo" in told
    assert (
        file.read_text()
        == """\
# Of the whole.
features:
  age: {type: int64, min: 0,   max: 230}  # years
  kind:
    type: text
    values:   # where to
      [city, sea, "a: b"]  # not lake
    # Behind it.
  code: {type: int64, values: [1, 2, 3, 9]}
"""
    )
    assert main(["schema", "update", str(file), str(known), "-o", "-"]) == 1
    assert capsys.readouterr().out == file.read_text()


def test_two_splits_are_allowed_at_once() -> None:
    far = statistics(age=feature("int64", numbers=numbers([-9, 500]), top=top({-9: 500, 500: 500})))
    text, told, left = update_schema(SCHEMA, "s.yaml", far)
    assert left == []
    assert [line.split(":")[0] for line in told] == ["features.age.min", "features.age.max"]
    assert parse_data_schema(text).features["weight"] == schema().features["weight"]
