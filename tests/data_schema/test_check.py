"""Anomalies: every kind is found where it was planted, none where nothing is wrong, and bounds are inclusive."""

from __future__ import annotations

import typing
from typing import Any

import numpy as np
import pytest

from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.differences import align, drift_from, skew_between
from beam_jobs.data_schema.distances import infinity_norm, jensen_shannon
from schemas.anomalies import Anomaly, Kind
from schemas.statistics import Images, Statistics
from tests.data_schema.made import (
    RECORDS,
    SCHEMA,
    feature,
    features,
    numbers,
    of_texts,
    schema,
    statistics,
    top,
)

SIDES = numbers([10, 20])


def photo(**changes: Any) -> dict[str, Any]:
    """The photos with other facts."""
    images = features()["photo"].images
    assert images is not None
    parts = {"bytes": numbers([100, 900]), "images": images.model_copy(update=changes)}
    return {"photo": feature("image", **parts)}


# name: (what is planted, its kind, feature, what is found)
PLANTED: dict[str, tuple[dict[str, Any], Kind, str, str]] = {
    "missing feature": ({"kind": None}, "missing_feature", "kind", "photo, label, good"),
    "unknown feature": ({"more": feature("bool", labels={})}, "unknown_feature", "more", "more: bool"),
    "wrong type": ({"age": feature("text")}, "wrong_type", "age", "text"),
    "too few": ({"records": 999}, "too_few_records", "", "999"),
    "too many": ({"records": 1001}, "too_many_records", "", "1,001"),
    "low presence": (
        {"tags": feature("int64", count=799, missing=201, values=9, lengths=numbers([1]))},
        "low_presence", "tags", "799 of 1,000 (79.9000%)",
    ),
    "defaults": (
        {"tags": feature("int64", defaulted=201, lengths=numbers([1]))},
        "low_presence", "tags", "799 of 1,000 (79.9000%)",
    ),
    "below min": (
        {"age": feature("int64", numbers=numbers([-1, 5]), top=top({-1: 500, 5: 500}))},
        "below_min", "age", "minimum -1",
    ),
    "above max": ({"weight": feature("float32", numbers=numbers([0.0, 0.25]))}, "above_max", "weight", "maximum 0.25"),
    "NaN": (
        {"weight": feature("float32", numbers=numbers([0.0, 0.05], nan=1, infinite=2))},
        "not_finite", "weight", "1 NaN and 2 infinite of 5 (60.0000%)",
    ),
    "only NaN": ({"weight": feature("float32", numbers=numbers([], nan=4))}, "not_finite", "weight", "4 NaN"),
    "unknown text": (
        {"kind": of_texts({"city": 999, "land": 1})}, "unknown_values", "kind", "1 of 1,000: 'land' (1)",
    ),
    "unknown number": (
        {"code": feature("int64", numbers=numbers([1, 9]), top=top({1: 989, 9: 6, 8: 5}))},
        "unknown_values", "code", "11 of 1,000: '9' (6), '8' (5)",
    ),
    "unknown label": (
        {"label": feature("class_label", labels={"cat": 500, "dog": 499, "cow": 1})},
        "unknown_values", "label", "1 of 1,000: 'cow' (1)",
    ),
    "unlisted text": (
        {"kind": feature("text", top=top({"city": 900, "sea": 50}, skipped=50), bytes=SIDES)},
        "unknown_values", "kind", "50 of 1,000",
    ),
    "short list": (
        {"parts": feature("float32", lengths=numbers([0, 5]))}, "too_short", "parts", "0 values",
    ),
    "long list": ({"parts": feature("float32", lengths=numbers([1, 6]))}, "too_long", "parts", "6 values"),
    "short text": ({"name": of_texts({"a": RECORDS}, (0, 20))}, "too_short", "name", "0 characters"),
    "long text": (
        {"name": feature("text", characters=SIDES, bytes=numbers([1, 41]), top=top({"a": RECORDS}))},
        "too_long", "name", "41 bytes",
    ),
    "long bytes": ({"raw": feature("bytes", bytes=numbers([1, 11]))}, "too_long", "raw", "11 bytes"),
    "low image": (photo(height=numbers([9, 20])), "wrong_image_size", "photo", "9 pixels"),
    "wide image": (photo(width=numbers([10, 21])), "wrong_image_size", "photo", "21 pixels"),
    "rare channels": (photo(channels=numbers([1] * 999 + [2, 3])), "wrong_channels", "photo", "2"),
    "other channels": (photo(channels=numbers([4])), "wrong_channels", "photo", "4"),
    "other format": (
        photo(formats={"jpeg": 990, "png": 10}), "wrong_format", "photo", "10 png",
    ),
    "large file": (
        {"photo": feature("image", bytes=numbers([100, 901]), images=features()["photo"].images)},
        "too_long", "photo", "901 bytes",
    ),
    "rare class": (
        {"good": feature("bool", labels={"false": 249, "true": 751})}, "imbalance", "good", "'false' 24.9000%",
    ),
    "common class": (
        {"label": feature("class_label", labels={"cat": 251, "dog": 754})}, "imbalance", "label", "'dog'",
    ),
}  # fmt: skip


def test_clean_data_have_no_anomaly() -> None:
    """All bounds are inclusive: much of what fits lies on one."""
    assert find_anomalies(schema(), statistics()) == []
    assert drift_from(schema(), statistics(), statistics(), "pond 1.0.0") == []
    assert skew_between(schema(), statistics(), ["train", "test"]) == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    changes, kind, where, told = PLANTED[name]
    found = find_anomalies(schema(), statistics(**changes))
    right = [each for each in found if (each.kind, each.feature or "") == (kind, where)]
    assert right, found
    assert right[0].found.startswith(told)
    assert right[0].severity == ("warning" if kind == "imbalance" else "error")
    assert right[0].split in (None, "train")
    assert all(each.hint.endswith((".", "job.")) and each.allowed for each in found)
    # Nothing else is wrong, but for what is wrong with the same feature.
    assert {each.feature or "" for each in found} == {where}


def test_a_split_that_is_not_there() -> None:
    without = statistics().model_copy(update={"splits": {"train": statistics().splits["train"]}})
    (found,) = find_anomalies(schema(), without)
    assert (found.kind, found.split, found.found) == ("missing_split", "test", "train")


def test_what_the_statistics_do_not_know_is_said_and_is_no_error() -> None:
    unknown = feature("image", bytes=numbers([100, 900]), images=None)
    found = find_anomalies(schema(), statistics(photo=unknown))
    assert {each.kind for each in found} == {"not_checked"}
    assert [each.what for each in found] == [
        f"The statistics do not tell the {what} of its values."
        for what in ("height", "width", "channels", "formats")
    ]
    assert {each.severity for each in found} == {"warning"}


def test_an_empty_split_has_no_values_to_be_wrong() -> None:
    empty = {
        name: feature(
            each.type,
            count=0,
            values=0,
            labels=None if each.labels is None else dict.fromkeys(each.labels, 0),
        )
        for name, each in features().items()
    }
    found = find_anomalies(
        schema(SCHEMA.replace("min_records: 1000", "min_records: 0")), statistics(0, **empty)
    )
    assert found == []


def test_bounds_of_float32_are_float32() -> None:
    """0.1 as float32 is more than 0.1 as float64, and it is what data hold."""
    most = float(np.float32(0.1))
    assert most > 0.1
    assert find_anomalies(schema(), statistics(weight=feature("float32", numbers=numbers([0.0, most])))) == []
    above = float(np.nextafter(np.float32(0.1), np.float32(1)))
    (found,) = find_anomalies(schema(), statistics(weight=feature("float32", numbers=numbers([0.0, above]))))
    assert (found.found, found.allowed) == ("maximum 0.10000001", "max 0.1")


def test_values_that_are_not_listed_are_not_accused() -> None:
    """Of many values only the most frequent are known; the others may be in the domain."""
    few = schema("features: {kind: {type: text, values: [a, b, c]}}")
    only = statistics()

    def found(**parts: Any) -> list[Anomaly]:
        kind = feature("text", **parts)
        split = only.splits["train"].model_copy(update={"features": {"kind": kind}})
        return find_anomalies(few, only.model_copy(update={"splits": {"train": split}}))

    assert found(top=top({"a": 990})) == []  # the other ten may be b and c
    assert [each.found for each in found(top=top({"a": 400, "b": 1}))] == [
        "598 of 1,000"
    ]  # but c at most once
    assert found(top=top({"a": 400, "b": 300}, error=300)) == []
    assert [each.found[:3] for each in found(top=top({"a": 400, "b": 300, "c": 200}))] == ["100"]


def drift(before: Statistics, after: Statistics) -> list[tuple[str, str | None, str | None]]:
    found = drift_from(schema(), after, before, "pond 1.0.0")
    return [(each.kind, each.feature, each.split) for each in found]


RNG = np.random.default_rng(20)
MOVED: dict[str, dict[str, Any]] = {
    "label": {"label": feature("class_label", labels={"cat": 360, "dog": 640})},
    "good": {"good": feature("bool", labels={"false": 351, "true": 649})},
    "age": {"age": feature("int64", numbers=numbers(np.arange(50)), top=top(dict.fromkeys(range(50), 20)))},
    "weight": {"weight": feature("float32", numbers=numbers(RNG.beta(8, 2, RECORDS) / 10))},
    "name": {"name": of_texts({"name 1": 500, **{f"name {n}": 5 for n in range(100, 200)}}, (1, 20))},
    "photo": photo(brightness=numbers(RNG.normal(200, 20, RECORDS))),
}


@pytest.mark.parametrize("name", MOVED)
def test_drift_is_found_where_it_was_planted(name: str) -> None:
    assert {found[:2] for found in drift(statistics(), statistics(**MOVED[name]))} == {("drift", name)}
    assert {found[2] for found in drift(statistics(), statistics(**MOVED[name]))} == {"train"}


def test_thresholds_are_inclusive() -> None:
    old = statistics(label=feature("class_label", labels={"cat": 500, "dog": 500}))
    at = statistics(label=feature("class_label", labels={"cat": 600, "dog": 400}))
    over = statistics(label=feature("class_label", labels={"cat": 601, "dog": 399}))
    assert drift(old, at) == []
    (found,) = drift_from(schema(), over, old, "pond 1.0.0")
    assert found.found == "L-infinity 0.101 ('cat' from 50.00% to 60.10%)"
    assert found.allowed == "at most 0.1"
    assert found.what == "The values have moved away from those of pond 1.0.0."
    assert "features.label.drift.infinity_norm" in found.hint
    # A threshold that is exactly the distance.
    aligned = align(old.splits["train"].features["label"], over.splits["train"].features["label"])
    assert aligned is not None
    assert aligned.values is not None
    exact = jensen_shannon(aligned.pairs)
    assert infinity_norm(aligned.values) == (0.101, "cat")
    text = SCHEMA.replace("infinity_norm: 0.1, jensen_shannon: 0.05", f"jensen_shannon: {exact!r}")
    assert drift_from(schema(text), over, old, "") == []
    lower = SCHEMA.replace(
        "infinity_norm: 0.1, jensen_shannon: 0.05", f"jensen_shannon: {float(np.nextafter(exact, 0))!r}"
    )
    assert [each.kind for each in drift_from(schema(lower), over, old, "")] == ["drift"]


def test_skew_is_of_the_first_split_and_each_of_the_others() -> None:
    skewed = statistics(label=feature("class_label", labels={"cat": 360, "dog": 640}))
    (found,) = skew_between(schema(), skewed, ["train", "test"])
    assert (found.kind, found.feature, found.split) == ("skew", "label", "test")
    assert found.what == "The values are distributed otherwise than those of train."


def test_what_cannot_be_compared_is_said() -> None:
    old = statistics(
        label=feature("class_label", labels={"cat": 0, "dog": 0}),
        weight=feature("float32", numbers=numbers([])),
        name=feature("bytes"),
        good=None,
    )
    found = drift_from(schema(), statistics(), old, "pond 1.0.0")
    assert {(each.kind, each.feature) for each in found if each.split == "train"} == {
        ("not_checked", name) for name in ("label", "weight", "name", "good")
    }
    new_split = statistics()
    gone = new_split.model_copy(update={"splits": {"test": new_split.splits["test"]}})
    assert {each.split for each in drift_from(schema(), new_split, gone, "")} == {"train"}


def test_whole_numbers_of_which_not_all_are_listed_are_compared_by_bins() -> None:
    text = "features: {age: {type: int64, drift: {jensen_shannon: 0.05, infinity_norm: 0.05}}}"
    rng = np.random.default_rng(5)

    def ages(low: int) -> Statistics:
        values = rng.integers(low, low + 100_000, 20_000)
        return statistics(
            age=feature("int64", values=20_000, numbers=numbers(values), top=top({low: 2}, error=1))
        )

    def kinds(before: Statistics, after: Statistics) -> list[Kind]:
        return [each.kind for each in drift_from(schema(text), after, before, "")]

    assert kinds(ages(0), ages(0)) == []
    assert kinds(ages(0), ages(50_000)) == ["drift"]


def test_every_kind_is_tested() -> None:
    planted = {kind for _, kind, *_ in PLANTED.values()} | {"missing_split", "not_checked", "drift", "skew"}
    assert planted == set(typing.get_args(Kind))


def test_facts_of_images_may_be_known_in_part() -> None:
    only = photo(height=None, channels=None)["photo"]
    assert isinstance(only.images, Images)
    found = find_anomalies(schema(), statistics(photo=only))
    assert [each.what.split()[6] for each in found] == ["height", "channels"], found
