"""statistics.json: what is written is read, and what is foreign, damaged or hostile is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import HeadraceError
from schemas.naming import STATISTICS
from schemas.statistics import (
    Distinct,
    FeatureStatistics,
    Histogram,
    Numbers,
    SplitStatistics,
    Statistics,
    Top,
    TopValue,
    parse_statistics,
    read_statistics,
)

NUMBERS = Numbers(
    count=3,
    zeros=1,
    min=0,
    max=2**62,
    mean=0.1,
    std=0.5,
    quantiles=[0, 1, 2**62],
    histogram=Histogram(edges=[0.0, 1.0, 4.6e18], counts=[1, 2]),
)
STATS = Statistics(
    splits={
        "train": SplitStatistics(
            records=3,
            bytes=300,
            features={
                "n": FeatureStatistics(
                    type="int64",
                    count=3,
                    values=3,
                    numbers=NUMBERS,
                    top=Top(values=[TopValue(value="ünï\ncode", count=2), TopValue(value=-7, count=1)]),
                    distinct=Distinct(estimate=3),
                ),
                "label": FeatureStatistics(type="class_label", count=3, values=3, labels={"b": 0, "a": 3}),
            },
        )
    }
)


def changed(path: list[Any], value: object) -> bytes:
    data = json.loads(STATS.to_json())
    at = data
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return json.dumps(data).encode()


def test_statistics_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / STATISTICS).write_text(STATS.to_json(), "utf-8")
    found = read_statistics(tmp_path)
    assert found == STATS
    assert found.to_json() == STATS.to_json()
    feature = found.splits["train"].features["n"]
    assert feature.numbers is not None
    assert feature.numbers.max == 2**62  # no float on the way
    assert isinstance(feature.numbers.quantiles[1], int)


def test_lists_of_numbers_are_one_line() -> None:
    assert '"quantiles": [0, 1, 4611686018427387904]' in STATS.to_json()


def test_a_version_without_statistics_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_statistics(tmp_path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "not a file of statistics"),
        (changed(["format_version"], 2), "another version"),
        (changed(["splits", "train", "records"], -1), "damaged"),
        (changed(["splits", "train", "features", "n", "numbers", "mean"], float("nan")), "damaged"),
        (changed(["splits", "train", "features", "n", "numbers", "min"], None), "damaged"),
        (changed(["splits", "train", "features", "n", "numbers", "quantiles"], []), "damaged"),
        (changed(["splits", "train", "features", "n", "numbers", "histogram", "counts"], [1]), "damaged"),
        (changed(["splits", "train", "features", "n", "surprise"], 1), "damaged"),
    ],
)
def test_what_is_no_statistics_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(HeadraceError, match=match):
        parse_statistics(data, "x/statistics.json")
