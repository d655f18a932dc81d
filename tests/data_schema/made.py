"""Statistics made by hand: one feature of every type, in two splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas.data_schema import DataSchema, parse_data_schema
from schemas.statistics import (
    FeatureStatistics,
    Histogram,
    Images,
    Numbers,
    SplitStatistics,
    Statistics,
    Top,
    TopValue,
)

RECORDS = 1000

SCHEMA = """
splits:
  train: {min_records: 1000, max_records: 1000}
  test: {min_records: 500}
features:
  photo:
    type: image
    height: {min: 10, max: 20}
    width: {min: 10, max: 20}
    channels: [1, 3]
    formats: [jpeg]
    bytes: {min: 100, max: 900}
    drift: {jensen_shannon: 0.05}
  label:
    type: class_label
    values: [cat, dog]
    balance: {max: 0.75}
    drift: {infinity_norm: 0.1, jensen_shannon: 0.05}
    skew: {infinity_norm: 0.1}
  good:
    type: bool
    balance: {min: 0.25}
    drift: {infinity_norm: 0.1}
  age:
    type: int64
    min: 0
    max: 99
    drift: {jensen_shannon: 0.05}
  code:
    type: int64
    values: [1, 2, 3]
    min_domain_mass: 0.99
  weight:
    type: float32
    min: 0
    max: 0.1
    max_not_finite: 0
    drift: {jensen_shannon: 0.05}
    skew: {jensen_shannon: 0.05}
  tags:
    type: int64
    min_presence: 0.8
  parts:
    type: float32
    length: {min: 1, max: 5}
  name:
    type: text
    characters: {min: 1, max: 20}
    bytes: {max: 40}
    drift: {infinity_norm: 0.1}
  kind:
    type: text
    values: [city, sea]
  raw:
    type: bytes
    bytes: {min: 1, max: 10}
"""


def schema(text: str = SCHEMA) -> DataSchema:
    """The schema that `statistics()` fits."""
    return parse_data_schema(text)


def numbers(values: Any, *, nan: int = 0, infinite: int = 0) -> Numbers:
    """The statistics of numbers, exact: quantiles as `schemas.statistics` defines them."""
    ranked = np.sort(np.asarray(values))
    exact = ranked.astype(np.float64)
    if not len(ranked):
        return Numbers(nan=nan, infinite=infinite)
    places = np.maximum(0, np.ceil(np.arange(101) / 100 * len(ranked)).astype(int) - 1)
    low, high = float(ranked[0]), float(ranked[-1])
    edges = np.linspace(low, high, 21)
    inner = np.searchsorted(exact, edges[1:-1])
    counts = np.diff([0, *inner, len(ranked)])
    return Numbers(
        count=len(ranked), nan=nan, infinite=infinite, min=ranked[0].item(), max=ranked[-1].item(),
        mean=float(exact.mean()), std=float(exact.std()), quantiles=ranked[places].tolist(),
        histogram=Histogram(edges=edges.tolist(), counts=counts.tolist()),
    )  # fmt: skip


def top(counts: dict[Any, int], **more: int) -> Top:
    """A list of the most frequent values."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Top(values=[TopValue(value=value, count=count) for value, count in ranked], **more)


def feature(kind: str, **parts: Any) -> FeatureStatistics:
    """The statistics of a feature that every record has once, unless told otherwise."""
    return FeatureStatistics(**{"type": kind, "count": RECORDS, "values": RECORDS, **parts})


def of_texts(counts: dict[str, int], length: Sequence[int] = (3, 10)) -> FeatureStatistics:
    """The statistics of texts of which all are listed."""
    sizes = numbers(length)
    values = sum(counts.values())
    return feature("text", values=values, top=top(counts), characters=sizes, bytes=sizes)


def features() -> dict[str, FeatureStatistics]:
    """What fits the schema."""
    rng = np.random.default_rng(3)
    sides = numbers(np.arange(10, 21))
    return {
        "photo": feature(
            "image",
            bytes=numbers([100, 900]),
            images=Images(
                formats={"jpeg": RECORDS}, height=sides, width=sides, channels=numbers([1, 3]),
                brightness=numbers(rng.normal(128, 20, RECORDS)),
            ),
        ),
        "label": feature("class_label", labels={"cat": 250, "dog": 750}),
        "good": feature("bool", labels={"false": 250, "true": 750}),
        "age": feature("int64", numbers=numbers(np.arange(100)), top=top(dict.fromkeys(range(100), 10))),
        "code": feature("int64", numbers=numbers([1, 2, 3, 9]), top=top({1: 500, 2: 390, 3: 100, 9: 10})),
        "weight": feature("float32", numbers=numbers(np.linspace(0, np.float32(0.1), RECORDS))),
        "tags": feature("int64", count=900, missing=100, values=2700, numbers=numbers([1, 2]),
                        lengths=numbers([0] * 100 + [3] * 900), top=top({1: 1350, 2: 1350})),
        "parts": feature("float32", values=3000, numbers=numbers([1.0]), lengths=numbers([1, 5])),
        "name": of_texts({f"name {n}": 10 for n in range(100)}, (1, 20)),
        "kind": of_texts({"city": 600, "sea": 400}),
        "raw": feature("bytes", bytes=numbers([1, 10])),
    }  # fmt: skip


def statistics(records: int = RECORDS, **changes: FeatureStatistics | None) -> Statistics:
    """Statistics of `train` with changes, and of `test` as they should be; None takes a feature away."""
    usual = features()
    changed = {name: each for name, each in {**usual, **changes}.items() if each is not None}
    here = {name: each for name, each in usual.items() if changes.get(name, each) is not None}
    here |= {name: each for name, each in changed.items() if name not in here or each.type != here[name].type}
    return Statistics(
        splits={
            "train": SplitStatistics(records=records, bytes=1, features=changed),
            "test": SplitStatistics(records=RECORDS, bytes=1, features=here),
        }
    )


def only(**those: FeatureStatistics) -> Statistics:
    """Statistics of one split with those features."""
    return Statistics(splits={"train": SplitStatistics(records=RECORDS, bytes=1, features=those)})
