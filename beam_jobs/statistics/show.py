"""`headrace statistics`: what the values of a version look like, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

import numpy as np

from beam_jobs.statistics.shard import Scan, ShardStatistics
from beam_jobs.tables import Block, Line, Table, show
from schemas import HeadraceError, Manifest, read_manifest
from schemas.errors import shorten
from schemas.index import decode_bounds
from schemas.manifest import ShardEntry
from schemas.statistics import (
    FeatureStatistics,
    Histogram,
    Numbers,
    SplitStatistics,
    Statistics,
    read_statistics,
)
from schemas.storage import Place, open_place
from schemas.units import format_bytes

_MAX_INDEX_BYTES = 4 << 30
_PIECE_BYTES = 8 << 20
_BARS = "▁▂▃▄▅▆▇█"
_TOP = 5
_TEXT = 24  # characters of a value

Row = tuple[str, ...]
Cells = Callable[[FeatureStatistics], Row | None]


def statistics_of(directory: str) -> tuple[Manifest, Statistics, bool]:
    """The manifest and statistics of a version, a path or a URL, and whether they were computed from its shards.

    Raises:
      HeadraceError: there is no version, or a file of it is missing, damaged or out of reach.
    """
    place = open_place(directory)
    manifest = read_manifest(place)
    try:
        return manifest, read_statistics(place), False
    except FileNotFoundError:
        return manifest, _computed(place, manifest), True


def statistics_command(directory: str, *, split: str | None, as_json: bool) -> int:
    """`headrace statistics`: prints them; gives the exit code."""
    manifest, statistics, computed = statistics_of(directory)
    if split is not None:
        statistics = _only(statistics, split, directory)
    if as_json:
        sys.stdout.write(statistics.to_json())
    else:
        print_statistics(manifest, statistics, computed=computed)
    return 0


def print_statistics(
    manifest: Manifest, statistics: Statistics, *, computed: bool = False, out: TextIO | None = None
) -> None:
    """The statistics, for people: a table for each kind of feature, a row for each feature and split."""
    show(list(_blocks(manifest, statistics, computed)), out or sys.stdout)


def _computed(place: Place, manifest: Manifest) -> Statistics:
    splits = {}
    for name, split in manifest.splits.items():
        whole = ShardStatistics(manifest.features, manifest.packed)
        for entry in split.shards:
            # As in a job: each shard by itself, then all of them in order.
            whole.merge(_of_shard(place, manifest, entry).encode())
        splits[name] = SplitStatistics(records=split.records, bytes=split.bytes, features=whole.results())
    return Statistics(splits=splits)


def _of_shard(place: Place, manifest: Manifest, entry: ShardEntry) -> ShardStatistics:
    index = place.read_bytes(entry.index.path, _MAX_INDEX_BYTES)
    bounds = decode_bounds(index, place.where(entry.index.path)).astype(np.int64)
    where = place.where(entry.path)
    statistics = ShardStatistics(manifest.features, manifest.packed, look=True)
    if place.size(entry.path) != int(bounds[-1]):
        raise HeadraceError(
            "A shard is not as long as its index says.",
            where=where,
            hint="Run `headrace verify` on the data set.",
        )
    scan = Scan(statistics, bounds[1:] - bounds[:-1], where)
    starts = range(0, int(bounds[-1]), _PIECE_BYTES)
    for start in starts:
        (piece,) = place.read_ranges([(entry.path, start, min(_PIECE_BYTES, int(bounds[-1]) - start))])
        scan.take([np.frombuffer(piece, np.uint8)])
    return statistics


def _only(statistics: Statistics, split: str, directory: str) -> Statistics:
    if split not in statistics.splits:
        raise HeadraceError(
            "The data set has no such split.",
            where=directory,
            value=split,
            allowed=", ".join(statistics.splits),
        )
    return Statistics(splits={split: statistics.splits[split]})


def _blocks(manifest: Manifest, statistics: Statistics, computed: bool) -> Iterator[Block]:
    yield Line(f"{manifest.name} {manifest.version}", bold=True)
    for name, split in statistics.splits.items():
        yield Line(f"{name}: {split.records:,} records, {format_bytes(split.bytes)}")
    if computed:
        yield Line("The version has no statistics of its own; these were computed from its shards.")
    for title, columns, cells in _TABLES:
        rows = list(_rows(statistics, cells))
        if rows:
            yield Table(title, ("feature", "split", *columns), rows)


def _rows(statistics: Statistics, cells: Cells) -> Iterator[tuple[str, ...]]:
    """A row for each split of each feature that the table is about; the feature's name only in its first."""
    for name in dict.fromkeys(name for split in statistics.splits.values() for name in split.features):
        told = name
        for split_name, split in statistics.splits.items():
            found = cells(split.features[name]) if name in split.features else None
            if found is not None:
                yield (told, split_name, *found)
                told = ""


def _number_cells(feature: FeatureStatistics) -> Row | None:
    numbers = feature.numbers
    if numbers is None:
        return None
    return (
        f"{feature.values:,}",
        f"{feature.missing:,}",
        _share(numbers.zeros, numbers.count),
        *_spread(numbers, 0, 0.01, 0.5, 0.99, 1),
        _number(numbers.mean),
        _number(numbers.std),
        _bars(numbers.histogram),
    )


def _odd_cells(feature: FeatureStatistics) -> Row | None:
    numbers = feature.numbers
    if numbers is None or not numbers.nan + numbers.infinite:
        return None
    return (f"{numbers.nan:,}", f"{numbers.infinite:,}")


def _whole_cells(feature: FeatureStatistics) -> Row | None:
    return (_distinct(feature), _top(feature)) if feature.type == "int64" else None


def _class_cells(feature: FeatureStatistics) -> Row | None:
    if feature.labels is None:
        return None
    ordered = sorted(feature.labels.items(), key=lambda pair: -pair[1])
    shares = [f"{shorten(name, _TEXT)} {_share(count, feature.values)}" for name, count in ordered[:_TOP]]
    more = ["…"] if len(ordered) > _TOP else []
    return (f"{feature.values:,}", str(len(ordered)), ", ".join(shares + more))


def _text_cells(feature: FeatureStatistics) -> Row | None:
    if feature.bytes is None or feature.images is not None:
        return None
    sizes = feature.characters or feature.bytes
    return (
        f"{feature.values:,}",
        _distinct(feature),
        *_spread(sizes, 0, 0.5, 1),
        _number(sizes.mean),
        _top(feature),
    )


def _image_cells(feature: FeatureStatistics) -> Row | None:
    images = feature.images
    if images is None:
        return None
    return (
        f"{feature.values:,}",
        ", ".join(f"{name} {_share(count, feature.values)}" for name, count in images.formats.items()),
        *(_range(numbers) for numbers in (images.height, images.width, images.channels)),
        "" if images.brightness is None else _number(images.brightness.mean),
        *(_size(value) for value in _ends(feature.bytes)),
    )


def _length_cells(feature: FeatureStatistics) -> Row | None:
    lengths = feature.lengths
    if lengths is None:
        return None
    return (
        f"{lengths.count:,}",
        f"{lengths.zeros:,}",
        *_spread(lengths, 0, 0.5, 0.99, 1),
        _number(lengths.mean),
        _bars(lengths.histogram),
    )


_TABLES: tuple[tuple[str, tuple[str, ...], Cells], ...] = (
    (
        "Numbers",
        (
            ">values",
            ">missing",
            ">zeros",
            ">min",
            ">1 %",
            ">median",
            ">99 %",
            ">max",
            ">mean",
            ">std",
            "histogram",
        ),
        _number_cells,
    ),
    ("Numbers that are not finite", (">NaN", ">infinite"), _odd_cells),
    ("Whole numbers by value", (">different", "most frequent"), _whole_cells),
    ("Classes", (">values", ">classes", "most frequent"), _class_cells),
    (
        "Texts by their characters, bytes by their number",
        (">values", ">different", ">shortest", ">median", ">longest", ">mean", "most frequent"),
        _text_cells,
    ),
    (
        "Images",
        (
            ">images",
            "formats",
            "height",
            "width",
            "channels",
            ">brightness",
            ">smallest",
            ">mean",
            ">largest",
        ),
        _image_cells,
    ),
    (
        "Lists by their lengths",
        (">records", ">empty", ">shortest", ">median", ">99 %", ">longest", ">mean", "histogram"),
        _length_cells,
    ),
)


def _share(part: int, whole: int) -> str:
    if not part or part == whole:
        return "100%" if part else "0"
    return f"{part / whole:.1%}" if part * 1000 >= whole else "<0.1%"


def _distinct(feature: FeatureStatistics) -> str:
    if feature.distinct is None:
        return ""
    return f"{'about ' if feature.distinct.error else ''}{feature.distinct.estimate:,}"


def _top(feature: FeatureStatistics) -> str:
    if feature.top is None:
        return ""
    values = [
        f"{json.dumps(shorten(top.value, _TEXT), ensure_ascii=False) if isinstance(top.value, str) else top.value} "
        f"{_share(top.count, feature.values)}"
        for top in feature.top.values[:_TOP]
        if top.count > 1
    ]
    return ", ".join(values + ["…"] * (bool(values) and len(feature.top.values) > _TOP))


def _spread(numbers: Numbers, *places: float) -> Iterator[str]:
    """Quantiles as text."""
    last = len(numbers.quantiles) - 1
    for place in places:
        yield _number(numbers.quantiles[round(place * last)]) if numbers.quantiles else ""


def _range(numbers: Numbers | None) -> str:
    if numbers is None or not numbers.count:
        return ""
    low, high = _number(numbers.min), _number(numbers.max)
    return low if low == high else f"{low} to {high}"


def _ends(numbers: Numbers | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if numbers is None else (numbers.min, numbers.mean, numbers.max)


def _size(value: float | None) -> str:
    return "" if value is None else format_bytes(value)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else f"{value:.5g}"
    return f"{value:.4g}"


def _bars(histogram: Histogram | None) -> str:
    """A histogram as a line of bars; a bin with few values is not empty."""
    if histogram is None:
        return ""
    most = max(histogram.counts)
    return "".join(_BARS[-(-count * len(_BARS) // most) - 1] if count else " " for count in histogram.counts)
