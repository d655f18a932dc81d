"""What rules do with what a survey found, and what parts answer: whatever the types, batches and partitions."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from beam_jobs.batch import Batch, Ledger
from beam_jobs.clean import apply_rule
from beam_jobs.store import open_store
from beam_jobs.store_path import StorePath
from beam_jobs.survey.answers import Answers, Part, questions
from beam_jobs.survey.run import Parts, answer
from schemas import HeadraceError
from schemas.rules import Rule

NAN = float("nan")


def batch(**columns: Any) -> Batch:
    records = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    keys = pa.array([f"k{n}".encode() for n in range(len(records))])
    return Batch(records, keys, np.arange(len(records), dtype=np.int64))


def rule_of(data: dict[str, Any]) -> Rule:
    return TypeAdapter(Rule).validate_python(data)


def apply(data: dict[str, Any], found: Any, **columns: Any) -> tuple[Batch, Ledger]:
    ledger = Ledger("rows", lambda row: f"row {row}")
    return apply_rule(batch(**columns), rule_of(data), ledger, found), ledger


def learn(data: dict[str, Any], folder: Path, *batches: Batch) -> Any:
    """What a rule learns of batches, each in a partition of its own."""
    rule = rule_of(data)
    paths = []
    for number, each in enumerate(batches):
        answers = Answers(questions(rule))
        answers.add(each)
        path = StorePath(open_store(folder, "set"), f"part{number}")
        path.write(answers.encode(), durable=False)
        paths.append(path)
    return answer(rule, Parts(paths), questions(rule), 0)


def repaired(ledger: Ledger) -> dict[str, list[int]]:
    return {rule: np.concatenate(rows).tolist() for rule, rows in ledger.repaired.items()}


@pytest.mark.parametrize(
    ("value", "column", "expected"),
    [
        (0, pa.array([1, None, 3]), [1, 0, 3]),
        (0, pa.array([1.5, None, NAN]), [1.5, 0.0, 0.0]),
        (2.5, pa.array([1.0, None], pa.float32()), [1.0, 2.5]),
        (2.5, pa.array([7, None]), [7, 2]),  # half to even
        ("none", pa.array(["a", None]), ["a", "none"]),
        (True, pa.array([False, None]), [False, True]),
        ("x", pa.nulls(2), ["x", "x"]),
        (1, pa.array([2, 3]), [2, 3]),
    ],
)
def test_a_constant_fills_in(value: Any, column: pa.Array, expected: list[Any]) -> None:
    after, ledger = apply({"impute": "a", "value": value}, None, a=column)
    assert after.records["a"].to_pylist() == expected
    if not pa.types.is_null(column.type):
        assert after.records["a"].type == column.type
    missing = [n for n, each in enumerate(column.to_pylist()) if each is None or each != each]
    assert repaired(ledger) == ({"impute a": missing} if missing else {})


@pytest.mark.parametrize(("value", "column"), [("much", pa.array([1, None])), (1, pa.array([[1], None]))])
def test_a_constant_that_does_not_fit(value: Any, column: pa.Array) -> None:
    with pytest.raises(HeadraceError, match="does not fit the column"):
        apply({"impute": "a", "value": value}, None, a=column)


def test_groups_have_values_of_their_own() -> None:
    found = {"a": {"all": 5, "groups": {"x": 1, "y": 2}}}
    rule = {"impute": "a", "with": "median", "by": "g"}
    after, _ = apply(rule, found, a=pa.array([None] * 4, pa.int64()), g=["x", "y", "z", None])
    assert after.records["a"].to_pylist() == [1, 2, 5, 5]
    after, _ = apply(
        rule, {"a": {"all": 5, "groups": {"7": 1}}}, a=pa.array([None] * 2, pa.int64()), g=[7, 8]
    )
    assert after.records["a"].to_pylist() == [1, 5]


@pytest.mark.parametrize(
    ("action", "values", "dropped", "mended", "letters"),
    [
        ("clip", [0.5, 1.0, 2.5, None, NAN, 2.5], [], [0, 5], []),
        ("drop", [1.0, 2.5, None, NAN], [0, 5], [], []),
        (
            "dead_letter",
            [1.0, 2.5, None, NAN],
            [],
            [],
            ["a: 0.1 is not in [0.5, 2.5]", "a: inf is not in [0.5, 2.5]"],
        ),
    ],
)
def test_outliers(
    action: str, values: list[Any], dropped: list[int], mended: list[int], letters: list[str]
) -> None:
    column = pa.array([0.1, 1.0, 2.5, None, NAN, math.inf], from_pandas=False)
    after, ledger = apply(
        {"outliers": "a", "iqr": 1, "action": action, "name": "odd"}, {"low": 0.5, "high": 2.5}, a=column
    )
    assert str(after.records["a"].to_pylist()) == str(values)
    assert [rows.tolist() for rows in ledger.dropped.get("odd", [])] == ([dropped] if dropped else [])
    assert repaired(ledger) == ({"odd": mended} if mended else {})
    assert [letter.reason for letter in ledger.letters] == letters


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint8(), pa.float32()])
def test_clipping_keeps_the_type(kind: pa.DataType) -> None:
    column = pa.array([1, 50, 100], kind)
    after, _ = apply({"outliers": "a", "iqr": 1}, {"low": -7.5, "high": 60.4}, a=column)
    assert after.records["a"].type == kind
    assert after.records["a"].to_pylist()[:2] == [1, 50]
    assert after.records["a"].to_pylist()[2] == pytest.approx(60 if pa.types.is_integer(kind) else 60.4)


def test_weights_of_records() -> None:
    after, _ = apply({"weights": "w", "by": "c"}, {"a": 2.0, "b": 0.5}, c=["b", "a", "new", None])
    assert after.records["w"].to_pylist() == [0.5, 2.0, None, None]
    after, _ = apply({"weights": "w", "by": "c"}, {"1": 2.0, "2": 0.5}, c=[2, 1, 3])
    assert after.records["w"].to_pylist() == [0.5, 2.0, None]


NUMBERS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(width=64), st.integers(-3, 3).map(float)),
        st.sampled_from(["x", "y", None]),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(
    rows=NUMBERS,
    cuts=st.lists(st.integers(0, 40), max_size=3),
    kind=st.sampled_from(["mean", "median", "most_frequent"]),
)
def test_partitions_and_batches_leave_no_trace(
    rows: list[tuple[float | None, str | None]],
    cuts: list[int],
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    finite = [number for number, _ in rows if number is not None and math.isfinite(number)]
    data = {"impute": "a", "with": kind, "by": "g"}

    def of(some: list[tuple[float | None, str | None]]) -> Batch:
        columns = zip(*some, strict=True) if some else ([], [])
        numbers, groups = map(list, columns)
        return batch(a=pa.array(numbers, pa.float64()), g=pa.array(groups, pa.string()))

    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [of(rows[start:end]) for start, end in pairwise(bounds)]
    folder = tmp_path_factory.mktemp("parts")
    if not finite:
        return
    whole = learn(data, folder, of(rows))
    assert str(learn(data, folder, *pieces)) == str(whole)
    assert str(learn(data, folder, *pieces[::-1])) == str(whole)
    one, other = (Answers(questions(rule_of(data))) for _ in range(2))
    one.add(of(rows))
    for piece in pieces:
        other.add(piece)
    assert one.encode() == other.encode()
    if kind == "median":
        assert whole["a"]["all"] == np.quantile(finite, 0.5)
    for group, value in whole["a"]["groups"].items():
        mine = [n for n, g in rows if g == group and n is not None and math.isfinite(n)]
        if kind == "median":
            assert value == np.quantile(mine, 0.5)
        elif kind == "mean":
            assert value == float(sum(map(Fraction, mine)) / len(mine))


def test_the_commonest_is_the_smallest_of_several(tmp_path: Path) -> None:
    data = {"impute": "a", "with": "most_frequent"}
    assert learn(data, tmp_path, batch(a=["b", "a"]), batch(a=["a", "b", None]))["a"]["all"] == "a"
    assert learn(data, tmp_path, batch(a=[10, 9]), batch(a=[9, 10]))["a"]["all"] == 9
    assert learn(data, tmp_path, batch(a=[True, False, True]))["a"]["all"] is True
    assert learn(data, tmp_path, batch(a=[1.5, NAN, NAN, None]))["a"]["all"] == 1.5


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    for kind, expected in (("mean", 2), ("median", 2), ("most_frequent", 1)):
        found = learn({"impute": "a", "with": kind}, tmp_path, batch(a=[1, 1]), batch(a=[2, 2, 5, 4, None]))
        assert found == {"a": {"all": expected, "groups": {}}}
        assert isinstance(found["a"]["all"], int)


def test_columns_of_several_are_asked_together(tmp_path: Path) -> None:
    found = learn({"impute": ["a", "b"], "with": "mean"}, tmp_path, batch(a=[1.0, None], b=[3.0, 5.0]))
    assert {name: each["all"] for name, each in found.items()} == {"a": 1.0, "b": 4.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"z_score": 1}, (0.5857864376269049, 3.414213562373095)),
        ({"iqr": 1.5}, (-2.0, 6.0)),
        ({"quantiles": [0, 0.5]}, (0.0, 2.0)),
    ],
)
def test_bounds(options: dict[str, Any], expected: tuple[float, float], tmp_path: Path) -> None:
    numbers = [0.0, 1.0, 2.0, 3.0, 4.0, NAN, math.inf]
    found = learn({"outliers": "a", **options}, tmp_path, batch(a=numbers[:3]), batch(a=numbers[3:]))
    assert (found["low"], found["high"]) == expected


def test_huge_bounds_are_finite(tmp_path: Path) -> None:
    found = learn({"outliers": "a", "z_score": 1e10}, tmp_path, batch(a=[1.7e308, -1.7e308]))
    assert math.isfinite(found["low"])
    assert math.isfinite(found["high"])


def test_a_part_comes_back_as_it_was() -> None:
    rule = rule_of({"impute": ["a", "b"], "with": "mean", "by": "g"})
    answers = Answers(questions(rule))
    answers.add(batch(a=[1.0, 2.0], b=[1, None], g=["x", None]))
    part = Part.decode(answers.encode())
    assert part.types == {0: "float", 1: "integer"}
    assert {group: each.count for group, each in part.moments[0].items()} == {"x": 1, None: 1}
    assert {group: each.mean for group, each in part.moments[1].items()} == {"x": 1.0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"impute": "a"}, "impute needs"),
        ({"impute": "a", "with": "mean", "value": 1}, "impute needs"),
        ({"impute": "a", "value": 1, "by": "b"}, "`by` goes with `with`"),
        ({"impute": ["a", "b"], "with": "mean", "by": "b"}, "names another column"),
        ({"outliers": "a"}, "needs one of"),
        ({"outliers": "a", "iqr": 1, "z_score": 1}, "needs one of"),
        ({"outliers": "a", "quantiles": [0.9, 0.1]}, "the smaller first"),
        ({"outliers": "a", "quantiles": [0.1, 1.5]}, "two numbers of 0 to 1"),
        ({"outliers": "a", "z_score": 0}, "greater than 0"),
        ({"weights": "w", "by": "c", "beta": 1}, "less than 1"),
    ],
)
def test_rules_that_make_no_sense(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        rule_of(data)
