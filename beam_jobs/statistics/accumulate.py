"""What is gathered of each feature while records pass, and its result. Everything adds and merges in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_jobs.image_headers import FORMATS
from beam_jobs.statistics.canonical import Column, Spans
from beam_jobs.statistics.defaults import has_default
from beam_jobs.statistics.distinct import DistinctCount, number_hashes
from beam_jobs.statistics.pictures import Pictures
from beam_jobs.statistics.quantiles import Quantiles, Summary, compress, summarise, tally
from beam_jobs.statistics.sums import Sums, are_quick
from beam_jobs.statistics.texts import hashes_and_characters
from beam_jobs.statistics.top import TopValues, counted, first_places
from schemas import HeadraceError
from schemas.columns import is_list
from schemas.features import (
    BoolFeature,
    BytesFeature,
    ClassLabelFeature,
    Feature,
    Float32Feature,
    ImageFeature,
    Int64Feature,
    TextFeature,
)
from schemas.statistics import (
    BINS,
    MAX_TOP_BYTES,
    QUANTILES,
    TOP_VALUES,
    Distinct,
    FeatureStatistics,
    Histogram,
    Images,
    Numbers,
    Top,
    TopValue,
)

State = dict[str, Any]  # JSON-able, but for arrays
_BIAS = np.uint64(1 << 63)  # makes the order of int64 that of uint64
_SIZES = ("height", "width", "channels")


class NumberStatistics:
    """Statistics of int64 or float32; `distinct` and `top` get the finite ones too."""

    def __init__(
        self, dtype: npt.DTypeLike, distinct: DistinctCount | None = None, top: TopValues | None = None
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.nan = self.infinite = self.zeros = 0
        self.low: Any = None
        self.high: Any = None
        self.sums = Sums.of(self.dtype)
        self.quantiles = Quantiles(self.dtype)
        self._distinct, self._top = distinct, top

    def add(self, values: npt.NDArray[Any]) -> None:
        """Adds numbers (n,)."""
        if self.dtype == np.float32:
            self._add_ordered(self._finite(np.sort(values)))
        elif len(values):
            self.add_tally(*tally(values), values)

    def _add_ordered(self, ordered: npt.NDArray[np.float32]) -> None:
        if not len(ordered):
            return
        self._bound(ordered[0].item(), ordered[-1].item())
        self.sums.add_ordered(ordered)
        summary = summarise(ordered)
        self.quantiles.add(summary)
        if self._distinct is not None:
            self._distinct.add(number_hashes(ordered if summary.error else summary.values))

    def add_tally(
        self,
        different: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        values: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Adds int64 (n,), ascending and distinct, each as often as `counts` says; `values` are all of them."""
        self._bound(int(different[0]), int(different[-1]))
        self.zeros += int(counts[different == 0].sum())
        if values is None or are_quick(different, counts):
            self.sums.add_counted(different, counts)
        else:
            self.sums.add(values)
        self.quantiles.add(compress(different, counts))
        if self._top is not None:
            self._top.add(different.view(np.uint64) ^ _BIAS, counts)
        if self._distinct is not None:
            self._distinct.add(number_hashes(different))

    def merge(self, state: State) -> None:
        """Adds what `state` gave."""
        self.nan, self.infinite = self.nan + state["nan"], self.infinite + state["infinite"]
        self.sums.merge(Sums(self.sums.unit, *(int(number) for number in state["sums"])))
        if state["low"] is not None:
            self.zeros += state["zeros"]
            self._bound(state["low"], state["high"])
            self.quantiles.add(Summary(state["values"], state["weights"], state["error"]))

    def state(self) -> State:
        """What is known so far."""
        summary = self.quantiles.summary()
        return {
            "nan": self.nan,
            "infinite": self.infinite,
            "zeros": self.zeros,
            "low": self.low,
            "high": self.high,
            "sums": [str(number) for number in (self.sums.count, self.sums.first, self.sums.second)],
            "values": summary.values,
            "weights": summary.weights,
            "error": summary.error,
        }

    def result(self) -> Numbers:
        """The statistics of all numbers."""
        count = self.sums.count
        if not count:
            return Numbers(nan=self.nan, infinite=self.infinite)
        summary = self.quantiles.summary()
        quantiles = summary.quantiles(QUANTILES).tolist()
        quantiles[0], quantiles[-1] = self.low, self.high
        return Numbers(
            count=count,
            nan=self.nan,
            infinite=self.infinite,
            zeros=self.zeros,
            min=self.low,
            max=self.high,
            mean=self.sums.mean,
            std=self.sums.std,
            quantiles=quantiles,
            histogram=_histogram(summary, self.low, self.high),
            rank_error=summary.error / count,
        )

    def _finite(self, ordered: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The finite ones of ascending numbers, -0 as 0, as they are one value; counts the others, and zeros."""
        if len(ordered) and not (np.isfinite(ordered[0]) and np.isfinite(ordered[-1])):
            finite = np.isfinite(ordered)
            nan = int(np.isnan(ordered).sum())
            self.nan += nan
            self.infinite += len(ordered) - nan - int(finite.sum())
            ordered = ordered[finite]
        zeros = slice(*(int(np.searchsorted(ordered, np.float32(0), side)) for side in ("left", "right")))
        self.zeros += zeros.stop - zeros.start
        ordered[zeros] = 0
        return ordered

    def _bound(self, low: Any, high: Any) -> None:
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)


def _histogram(summary: Summary, low: float, high: float) -> Histogram:
    if isinstance(low, int) and isinstance(high, int):
        firsts = _whole_bins(low, high)
        # As whole numbers, since large ones are no float64.
        bounds, edges = np.array(firsts[:-1], np.int64), [(2 * first - 1) / 2 for first in firsts]
    else:
        edges = _edges(low, high)
        bounds = np.array(edges[:-1])
    below = np.append(summary.ranks(bounds), summary.weights.sum())
    below[0] = 0
    return Histogram(edges=edges, counts=np.diff(below).tolist())


def _edges(first: float, last: float) -> list[float]:
    """Bins of equal width from the first value to the last; of one value, around it."""
    if first == last:
        return [first - 0.5, last + 0.5]
    # Written out rather than np.linspace: each edge is a few operations that every processor rounds alike.
    return [*(first + (last - first) * (step / BINS) for step in range(BINS)), last]


def _whole_bins(first: int, last: int) -> list[int]:
    """The first number of each bin, and of the one behind; bins hold as many whole numbers each."""
    width = -(-(last - first + 1) // BINS)
    bins = -(-(last - first + 1) // width)
    return [first + width * step for step in range(bins + 1)]


class FeatureAccumulator:
    """All that is gathered of one feature.

    Attributes:
      feature: as the job has it, names of folders filled in.
      count, missing, values: records with and without a value, and values.
      defaulted, unknown: records that got the default, and those of which it is not known.
    """

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        self.count = self.missing = self.values = self.skipped = self.defaulted = self.unknown = 0
        self.distinct, self.top = DistinctCount(), TopValues()
        self.labels = np.zeros(len(label_names(feature)), np.int64)
        self.formats: dict[str, int] = {}
        self.numbers: dict[str, NumberStatistics] = {}
        match feature:
            case Int64Feature():
                self.numbers["numbers"] = NumberStatistics(np.int64, self.distinct, self.top)
            case Float32Feature():
                self.numbers["numbers"] = NumberStatistics(np.float32, self.distinct)
            case ImageFeature():
                for name in ("bytes", *_SIZES):
                    self.numbers[name] = NumberStatistics(np.int64)
                self.numbers["brightness"] = NumberStatistics(np.float32)
            case TextFeature():
                self.numbers["bytes"], self.numbers["characters"] = (
                    NumberStatistics(np.int64) for _ in range(2)
                )
            case BytesFeature():
                self.numbers["bytes"] = NumberStatistics(np.int64)
        if is_list(feature):
            self.numbers["lengths"] = NumberStatistics(np.int64)

    def add(self, column: Column, records: int, where: str) -> None:
        """Adds the values of some records.

        Raises:
          HeadraceError: a class_label or bool is none of its numbers; `where` names the file.
        """
        values = column.values
        self.values += len(values.starts) if isinstance(values, Spans) else len(values)
        there = records if column.counts is None else int(np.count_nonzero(column.counts))
        self.count += there
        self.unknown += records
        self.missing += records - there
        if "lengths" in self.numbers:
            assert column.counts is not None
            self.numbers["lengths"].add(column.counts)
        if isinstance(values, Spans):
            self._add_bytes(values)
        elif len(self.labels):
            self._add_labels(values, where)
        else:
            self.numbers["numbers"].add(values)

    def add_pictures(self, pictures: Pictures) -> None:
        """Adds what was measured of the images of some records."""
        kinds = np.bincount(pictures["format"], minlength=len(FORMATS) + 1).tolist()
        self._add_formats(
            {name: count for name, count in zip([*FORMATS, "unknown"], kinds, strict=True) if count}
        )
        readable = pictures[pictures["height"] > 0]
        for name in _SIZES:
            self.numbers[name].add(readable[name].astype(np.int64))
        brightness = readable["brightness"]
        self.numbers["brightness"].add(np.ascontiguousarray(brightness[~np.isnan(brightness)], np.float32))

    def state(self) -> State:
        """What is known so far, for `merge`."""
        return {
            "counts": [self.count, self.missing, self.values, self.skipped],
            "defaults": [self.defaulted, self.unknown],
            "smallest": self.distinct.smallest,
            "top": {"keys": self.top.keys, "counts": self.top.counts, "error": self.top.error},
            "texts": {str(key): text.decode("utf-8", "replace") for key, text in self.top.texts.items()},
            "labels": self.labels,
            "formats": self.formats,
            "numbers": {name: numbers.state() for name, numbers in self.numbers.items()},
        }

    def merge(self, state: State) -> None:
        """Adds what `state` gave."""
        count, missing, values, skipped = state["counts"]
        self.count, self.missing = self.count + count, self.missing + missing
        self.values, self.skipped = self.values + values, self.skipped + skipped
        defaulted, unknown = state["defaults"]
        self.defaulted, self.unknown = self.defaulted + defaulted, self.unknown + unknown
        self.distinct.add(state["smallest"])
        texts = {int(key): text.encode() for key, text in state["texts"].items()}
        top = state["top"]
        self.top.merge(TopValues(top["keys"], top["counts"], top["error"], texts))
        self.labels = self.labels + state["labels"]
        self._add_formats(state["formats"])
        for name, numbers in state["numbers"].items():
            self.numbers[name].merge(numbers)

    def result(self) -> FeatureStatistics:
        """The statistics of all records."""
        found: dict[str, Any] = {
            name: numbers.result()
            for name, numbers in self.numbers.items()
            if name in ("numbers", "bytes", "characters", "lengths")
        }
        if len(self.labels):
            found["labels"] = dict(zip(label_names(self.feature), self.labels.tolist(), strict=True))
        if isinstance(self.feature, Int64Feature | TextFeature):
            found["top"] = self._top_values()
        if isinstance(self.feature, ImageFeature):
            sizes = {name: self.numbers[name].result() for name in (*_SIZES, "brightness")}
            found["images"] = Images(formats=dict(sorted(self.formats.items())), **sizes)
        elif not len(self.labels):
            estimate, error = self.distinct.estimate
            found["distinct"] = Distinct(estimate=estimate, error=error)
        if has_default(self.feature) and not self.unknown:
            found["defaulted"] = self.defaulted
        return FeatureStatistics(
            type=self.feature.type, count=self.count, missing=self.missing, values=self.values, **found
        )

    def _add_labels(self, values: npt.NDArray[np.int64], where: str) -> None:
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < len(self.labels)):
            raise HeadraceError(
                "A record's number stands for no class.",
                where=where,
                allowed=f"0 to {len(self.labels) - 1}",
                hint="Run `headrace verify` on the data set.",
            )
        self.labels += np.bincount(values, minlength=len(self.labels))

    def _add_bytes(self, spans: Spans) -> None:
        self.numbers["bytes"].add(spans.sizes)
        if isinstance(self.feature, ImageFeature):
            return  # see `add_pictures`
        is_text = isinstance(self.feature, TextFeature)
        hashes, characters = hashes_and_characters(spans, is_text)
        if not is_text:
            self.distinct.add(hashes)
            return
        self.numbers["characters"].add(characters)
        short = np.flatnonzero(spans.sizes <= MAX_TOP_BYTES)
        self.skipped += len(hashes) - len(short)
        short_hashes = hashes if len(short) == len(hashes) else hashes[short]
        keys, counts = counted(short_hashes)
        self.distinct.add(keys if len(short) == len(hashes) else hashes)
        places = cache(lambda: short[first_places(short_hashes)])  # only asked where a text is new

        def text_of(key: int) -> bytes:
            place = places()[key]
            start = int(spans.starts[place])
            return spans.data[start : start + int(spans.sizes[place])].tobytes()

        self.top.add(keys, counts, text_of)

    def _add_formats(self, formats: Mapping[str, int]) -> None:
        for name, images in formats.items():
            self.formats[name] = self.formats.get(name, 0) + images

    def _top_values(self) -> Top:
        keys, counts = self.top.keys, self.top.counts
        if len(keys) > TOP_VALUES:
            often = counts >= np.partition(counts, -TOP_VALUES)[-TOP_VALUES]
            keys, counts = keys[often], counts[often]
        values: list[Any] = (
            [self.top.texts[key].decode("utf-8", "replace") for key in keys.tolist()]
            if isinstance(self.feature, TextFeature)
            else (keys ^ _BIAS).view(np.int64).tolist()
        )
        ordered = sorted(zip(values, counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        top = [TopValue(value=value, count=count) for value, count in ordered[:TOP_VALUES]]
        return Top(values=top, error=self.top.error, skipped=self.skipped)


def label_names(feature: Feature) -> list[str]:
    """What the numbers of a class_label or bool stand for; none for other features."""
    if isinstance(feature, BoolFeature):
        return ["false", "true"]
    return list(feature.names) if isinstance(feature, ClassLabelFeature) else []


def numbers_of_labels(counts: list[int]) -> Numbers:
    """The statistics of the numbers from 0 up, each as often as `counts` says."""
    numbers, array = NumberStatistics(np.int64), np.array(counts, np.int64)
    there = np.flatnonzero(array)
    if len(there):
        numbers.add_tally(there, array[there])
    return numbers.result()
