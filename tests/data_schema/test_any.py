"""Whatever data hold: what is inferred from their statistics is a schema that they fit, and that travels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.data_schema.check import find_anomalies
from beam_jobs.data_schema.differences import drift_from
from beam_jobs.data_schema.infer import infer_schema
from beam_jobs.data_schema.tfmd import from_pbtxt, to_pbtxt
from schemas.data_schema import parse_data_schema
from schemas.statistics import FeatureStatistics, Images, SplitStatistics, Statistics
from tests.data_schema.made import numbers, top

floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30)
wholes = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30)
sizes = st.lists(st.integers(0, 2**31), min_size=1, max_size=30)
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=60)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)


def plain(values: Any) -> Any:
    return numbers(np.array(values, np.float64 if any(isinstance(v, float) for v in values) else np.int64))


@st.composite
def features(draw: st.DrawFn) -> FeatureStatistics:
    kind = draw(st.sampled_from(["image", "class_label", "int64", "float32", "bool", "text", "bytes"]))
    parts: dict[str, Any] = {}
    values: Any = []
    match kind:
        case "float32":
            values = draw(floats)
            nan = draw(st.integers(0, 3))
            parts = {"numbers": numbers(np.array(values, np.float64), nan=nan)}
            values = [*values, *[0.0] * nan]
        case "int64":
            values = draw(wholes)
            parts = {"numbers": plain(values), "top": top(Counter(values))}
        case "text":
            values = draw(texts)
            parts = {"top": top(Counter(values)), "characters": plain([len(v) for v in values])}
        case "class_label" | "bool":
            labels = (
                ["false", "true"]
                if kind == "bool"
                else draw(st.lists(st.text(max_size=4), min_size=1, unique=True))
            )
            values = draw(st.lists(st.sampled_from(labels), max_size=50))
            parts = {"labels": {name: values.count(name) for name in labels}}
        case "image":
            values = draw(sizes)
            some = draw(st.booleans())
            sides = plain(values)
            images = Images(
                formats={"jpeg": len(values)},
                height=sides if some else None,
                width=sides,
                channels=plain([3]),
            )
            parts = {"images": images, "bytes": sides}
        case _:
            values = draw(sizes)
            parts = {"bytes": plain(values)}
    return FeatureStatistics(type=kind, count=len(values), values=len(values), **parts)


@given(st.dictionaries(names, features(), min_size=1, max_size=4), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_data_fit_the_schema_that_is_inferred_from_them(
    found: dict[str, FeatureStatistics], more: int
) -> None:
    records = max(each.count for each in found.values()) + more
    statistics = Statistics(splits={"train": SplitStatistics(records=records, bytes=1, features=found)})
    schema = parse_data_schema(infer_schema(statistics, "any"))
    assert find_anomalies(schema, statistics) == []
    apart = drift_from(schema, statistics, statistics, "itself")
    assert [each for each in apart if each.kind == "drift"] == []
    exported = to_pbtxt(schema)  # bounds of float32 become those numbers
    assert to_pbtxt(parse_data_schema(from_pbtxt(exported, "any.pbtxt"))) == exported
