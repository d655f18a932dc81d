"""Distributions compared with those of an earlier version or another split: a pure function that lists anomalies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from beam_jobs.data_schema.distances import (
    Bins,
    Pair,
    Shares,
    align_bins,
    align_counts,
    counts_of,
    infinity_norm,
    jensen_shannon,
    quantile_bins,
)
from schemas.anomalies import Anomaly
from schemas.data_schema import DataSchema, NumberThresholds, Thresholds
from schemas.errors import shorten
from schemas.statistics import FeatureStatistics, SplitStatistics, Statistics

Which = Literal["drift", "skew"]


@dataclass(frozen=True)
class Comparison:
    """A split and what it is compared with.

    Attributes:
      split, after: the split that is judged.
      other, before: what it is compared with, in words and in numbers; None where it is not there.
    """

    split: str
    after: SplitStatistics
    other: str
    before: SplitStatistics | None


def find_differences(schema: DataSchema, which: Which, comparisons: Sequence[Comparison]) -> list[Anomaly]:
    """Where distributions lie further apart than the schema's thresholds of drift or skew.

    Class labels, truths, texts and whole numbers are compared by the shares of their values; numbers of which not all
    values are listed, floats and the brightness of images by bins (see `distances.quantile_bins`).
    """
    found: list[Anomaly] = []
    for each in comparisons:
        for name, thresholds in schema.thresholds(which).items():
            rules, after = schema.features[name], each.after.features.get(name)
            if after is None or after.type != rules.type:
                continue  # an anomaly by itself
            before = None if each.before is None else each.before.features.get(name)
            aligned = None if before is None or before.type != after.type else align(before, after)
            if aligned is None:
                found.append(_incomparable(which, name, each))
            else:
                found += _too_far(which, name, each, thresholds, aligned)
    return found


def drift_from(schema: DataSchema, statistics: Statistics, before: Statistics, called: str) -> list[Anomaly]:
    """How far each split has moved away from the split of that name in an earlier version, called so."""
    comparisons = [
        Comparison(name, split, called, before.splits.get(name)) for name, split in statistics.splits.items()
    ]
    return find_differences(schema, "drift", comparisons)


def skew_between(schema: DataSchema, statistics: Statistics, between: Sequence[str]) -> list[Anomaly]:
    """How far the first of the splits lies from each of the others."""
    splits, first = statistics.splits, between[0]
    return find_differences(
        schema, "skew", [Comparison(name, splits[name], first, splits.get(first)) for name in between[1:]]
    )


@dataclass(frozen=True)
class Aligned:
    """Two distributions side by side.

    Attributes:
      values: by value; None where values are not counted.
      pairs: the shares of all values, or of all bins.
    """

    values: Shares | None
    pairs: Sequence[Pair]


def align(before: FeatureStatistics, after: FeatureStatistics) -> Aligned | None:
    """The distributions of a feature side by side; None where one of them is empty or not known."""
    counts = counts_of(before), counts_of(after)
    values = None
    if counts[0] is not None and counts[1] is not None:
        if not counts[0].total or not counts[1].total:
            return None
        values = align_counts(counts[0], counts[1])
        if counts[0].complete and counts[1].complete:
            return Aligned(values, values.pairs)
    numbers = _bins(before), _bins(after)
    if numbers[0] is not None and numbers[1] is not None:
        if numbers[0].empty or numbers[1].empty:
            return None
        return Aligned(values, align_bins(numbers[0], numbers[1]))
    return None if values is None else Aligned(values, values.pairs)


def _bins(feature: FeatureStatistics) -> Bins | None:
    numbers = feature.images.brightness if feature.images is not None else feature.numbers
    return None if numbers is None else quantile_bins(numbers)


def _incomparable(which: Which, name: str, each: Comparison) -> Anomaly:
    return Anomaly(
        kind="not_checked",
        feature=name,
        split=each.split,
        what=f"There is nothing to measure {which} by: the split or {each.other} has no values of it.",
        found="no values",
        allowed="values in both",
        hint="Nothing, if that was to be expected.",
    )


def _too_far(
    which: Which, name: str, each: Comparison, thresholds: NumberThresholds, aligned: Aligned
) -> Iterator[Anomaly]:
    measures: list[tuple[str, str, float, float]] = []
    if (
        isinstance(thresholds, Thresholds)
        and thresholds.infinity_norm is not None
        and aligned.values is not None
    ):
        distance, value = infinity_norm(aligned.values)
        shares = [f"{share:.2%}" for share in aligned.values.share(value)]
        told = f"L-infinity {distance:.6g} ({shorten(value, 60)!r} from {' to '.join(shares)})"
        measures.append(("infinity_norm", told, distance, thresholds.infinity_norm))
    if thresholds.jensen_shannon is not None:
        distance = jensen_shannon(aligned.pairs)
        told = f"Jensen-Shannon {distance:.6g}"
        measures.append(("jensen_shannon", told, distance, thresholds.jensen_shannon))
    moved = "have moved away from those" if which == "drift" else "are distributed otherwise than those"
    for field, told, distance, most in measures:
        if distance > most:
            yield Anomaly(
                kind=which,
                feature=name,
                split=each.split,
                what=f"The values {moved} of {each.other}.",
                found=told,
                allowed=f"at most {most:g}",
                hint="Find out what has changed at the sources; if it was meant, raise "
                f"`features.{name}.{which}.{field}` in the schema.",
            )
