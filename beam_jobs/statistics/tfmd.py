"""Statistics in the form that TFX and TensorFlow Data Validation read: `DatasetFeatureStatisticsList`.

A file for each split, as the StatisticsGen component of TFX lays them out. Packed features are told of by their own
names. What tensorflow_metadata has no place for (labels' names, image sizes, errors) is in statistics.json only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tensorflow_metadata.proto.v0 import statistics_pb2

from beam_jobs.statistics.accumulate import numbers_of_labels
from schemas.statistics import FeatureStatistics, Histogram, Numbers, SplitStatistics, Top

_TYPES = {
    "int64": statistics_pb2.FeatureNameStatistics.INT,
    "class_label": statistics_pb2.FeatureNameStatistics.INT,
    "bool": statistics_pb2.FeatureNameStatistics.INT,
    "float32": statistics_pb2.FeatureNameStatistics.FLOAT,
    "text": statistics_pb2.FeatureNameStatistics.STRING,
    "bytes": statistics_pb2.FeatureNameStatistics.BYTES,
    "image": statistics_pb2.FeatureNameStatistics.BYTES,
}
_QUANTILE_BUCKETS = 10


def statistics_proto(name: str, split: SplitStatistics) -> statistics_pb2.DatasetFeatureStatisticsList:
    """The statistics of one split as the only data set of a list."""
    found = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = found.datasets.add(name=name, num_examples=split.records)
    for feature_name, feature in split.features.items():
        out = dataset.features.add(type=_TYPES[feature.type])
        out.path.step.append(feature_name)
        match feature.type:
            case "text":
                _fill_text(out.string_stats, feature)
            case "bytes" | "image":
                _fill_bytes(out.bytes_stats, feature)
            case _:
                _fill_numbers(out.num_stats, feature)
    return found


def _fill_common(out: Any, feature: FeatureStatistics) -> None:
    out.num_non_missing = feature.count
    out.num_missing = feature.missing
    out.tot_num_values = feature.values
    if feature.count:
        each, rest = divmod(feature.values, feature.count)
        lengths = feature.lengths
        out.min_num_values = max(1, int(lengths.min or 0)) if lengths is not None else each
        out.max_num_values = int(lengths.max or 0) if lengths is not None else each + bool(rest)
        out.avg_num_values = feature.values / feature.count


def _fill_numbers(out: Any, feature: FeatureStatistics) -> None:
    _fill_common(out.common_stats, feature)
    if feature.labels is not None:
        numbers = numbers_of_labels(list(feature.labels.values()))
    else:
        assert feature.numbers is not None
        numbers = feature.numbers
    out.num_zeros = numbers.zeros
    if feature.numbers is not None:
        for histogram in (out.histograms.add(), out.histograms.add()):
            histogram.num_nan = numbers.nan
        out.histograms[0].type = statistics_pb2.Histogram.STANDARD
        out.histograms[1].type = statistics_pb2.Histogram.QUANTILES
        if numbers.histogram is not None:
            _fill_bins(out.histograms[0], numbers.histogram)
            _fill_quantiles(out.histograms[1], numbers)
    if numbers.count:
        out.mean, out.std_dev = numbers.mean, numbers.std
        out.min, out.max = numbers.min, numbers.max
        if numbers.quantiles:
            out.median = numbers.quantiles[len(numbers.quantiles) // 2]


def _fill_text(out: Any, feature: FeatureStatistics) -> None:
    _fill_common(out.common_stats, feature)
    assert feature.distinct is not None
    assert feature.top is not None
    out.unique = feature.distinct.estimate
    if feature.bytes is not None and feature.bytes.mean is not None:
        out.avg_length = feature.bytes.mean
    _fill_top(out, feature.top)


def _fill_top(out: Any, top: Top) -> None:
    for rank, each in enumerate(top.values):
        out.top_values.add(value=str(each.value), frequency=each.count)
        bucket = out.rank_histogram.buckets.add(label=str(each.value), sample_count=each.count)
        bucket.low_rank = bucket.high_rank = rank


def _fill_bytes(out: Any, feature: FeatureStatistics) -> None:
    _fill_common(out.common_stats, feature)
    out.unique = feature.distinct.estimate if feature.distinct is not None else 0
    sizes = feature.bytes
    if sizes is not None and sizes.count:
        out.avg_num_bytes = sizes.mean
        out.min_num_bytes, out.max_num_bytes = float(sizes.min or 0), float(sizes.max or 0)
        out.max_num_bytes_int = int(sizes.max or 0)


def _fill_bins(out: Any, histogram: Histogram) -> None:
    for (low, high), count in zip(pairwise(histogram.edges), histogram.counts, strict=True):
        out.buckets.add(low_value=low, high_value=high, sample_count=count)


def _fill_quantiles(out: Any, numbers: Numbers) -> None:
    step = (len(numbers.quantiles) - 1) // _QUANTILE_BUCKETS
    for low, high in pairwise(numbers.quantiles[::step]):
        out.buckets.add(low_value=low, high_value=high, sample_count=numbers.count / _QUANTILE_BUCKETS)
