"""A schema inferred from statistics: a commented YAML file, its bounds somewhat wider than what was seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from beam_jobs.data_schema.single import shortest
from beam_jobs.starter.page import Page, flow, scalar
from schemas.errors import HeadraceError
from schemas.statistics import TOP_VALUES, FeatureStatistics, Numbers, Statistics

_MARGIN = Decimal("0.5")  # of the range of numbers, on either side: tails grow with the data
_FEW = 50  # distinct values that may be a domain
_EACH = 20  # times that a value of a domain occurs on average, at least
_LEAST_DISTANCE = 0.05  # below which no difference is worth a word
_MOST_DISTANCE = 0.5  # above which a threshold tells nothing
_BINS = 40  # of two distributions side by side, about; see `distances.quantile_bins`


def infer_schema(statistics: Statistics, source: str) -> str:
    """The text of a schema that the statistics fit, with room for the next version.

    Args:
      statistics: of a version.
      source: what they are of, for a comment.

    Raises:
      HeadraceError: there are no features.
    """
    names = dict.fromkeys(name for split in statistics.splits.values() for name in split.features)
    if not names:
        raise HeadraceError("There is nothing to infer a schema from: no feature.", where=source)
    page = Page()
    page.say(f"Written by: headrace schema infer, from {source}")
    page.say(
        "What a version may look like. Bounds are wider than what was seen; what is removed is not checked."
    )
    page.say(
        "Name it in the job: `schema: {file: schema.yaml}`, or compare: headrace schema check DIR --schema FILE"
    )
    page.gap()
    page.add("splits:")
    for name, split in statistics.splits.items():
        page.add(f"  {name}: {{min_records: {split.records // 2}}}", f"half of the {split.records:,} seen")
    page.gap()
    page.add("features:")
    for name in names:
        parts = [split.features[name] for split in statistics.splits.values() if name in split.features]
        _feature(page, name, parts)
    return page.text()


def _feature(page: Page, name: str, parts: Sequence[FeatureStatistics]) -> None:
    page.add(f"  {scalar(name)}:")
    page.add(f"    type: {parts[0].type}")
    _presence(page, parts)
    _BY_TYPE[parts[0].type](page, parts)
    page.gap()


def _presence(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    """Only of features that a record may lack: lists, and those with a default."""
    records = sum(part.count + part.missing for part in parts)
    lacking = sum(part.missing + (part.defaulted or 0) for part in parts)
    may_lack = any(part.lengths is not None or part.defaulted is not None for part in parts)
    if records and may_lack:
        share = 1 - lacking / records
        page.add(
            f"    min_presence: {_rounded(share * 0.95, ROUND_FLOOR)}",
            f"{share:.2%} have a value of their own",
        )


def _image(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    images = [part.images for part in parts if part.images is not None]
    _size(page, "height", [each.height for each in images])
    _size(page, "width", [each.width for each in images])
    channels = [each.channels for each in images if each.channels is not None]
    extremes = {value for each in channels for value in (each.min, each.max) if value is not None}
    if len(extremes) == 1:
        page.add(f"    channels: {flow(sorted(extremes))}")
    formats = sorted({name for each in images for name, count in each.formats.items() if count})
    if formats:
        page.add(f"    formats: {flow(formats)}")
    known = [
        each.brightness.count for each in images if each.brightness is not None and each.brightness.count
    ]
    if len(known) == len(parts):
        _distances(page, known, numeric=True, what="of brightness")


def _class_label(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    names = list(dict.fromkeys(name for part in parts for name in part.labels or {}))
    if names:
        page.add(f"    values: {flow(names)}")
    _balance(page, parts)
    _distances(page, _counts(parts), numeric=False)


def _bool(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    _balance(page, parts)
    _distances(page, _counts(parts), numeric=False)


def _int64(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    _range(page, parts, whole=True)
    values = _domain(parts)
    if values is not None:
        page.off(f"    values: {flow(values)}", "if these are codes, and no other may come")
    _size(page, "length", [part.lengths for part in parts])
    _distances(page, _counts(parts), numeric=values is None, bins=TOP_VALUES)


def _float32(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    _range(page, parts, whole=False)
    numbers = [part.numbers for part in parts if part.numbers is not None]
    total = sum(each.count + each.nan + each.infinite for each in numbers)
    if total:
        share = sum(each.nan + each.infinite for each in numbers) / total
        most = _rounded(min(1.0, 2 * share), ROUND_CEILING)
        page.add(f"    max_not_finite: {most}", f"{share:.2%} are NaN or infinite" if share else "")
    _size(page, "length", [part.lengths for part in parts])
    _distances(page, _counts(parts), numeric=True)


def _text(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    values = _domain(parts)
    if values is not None:
        page.add(f"    values: {flow(values)}", "all that were seen")
        page.add("    min_domain_mass: 1.0", "lower it to let some others pass")
    else:
        _size(page, "characters", [part.characters for part in parts])
    _distances(page, _counts(parts), numeric=False)


def _bytes(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    _size(page, "bytes", [part.bytes for part in parts])


_BY_TYPE: dict[str, Callable[[Page, Sequence[FeatureStatistics]], None]] = {
    "image": _image,
    "class_label": _class_label,
    "bool": _bool,
    "int64": _int64,
    "float32": _float32,
    "text": _text,
    "bytes": _bytes,
}


def _extremes(numbers: Iterable[Numbers | None]) -> tuple[float, float] | None:
    known = [each for each in numbers if each is not None and each.min is not None and each.max is not None]
    if not known:
        return None
    return min(each.min for each in known if each.min is not None), max(
        each.max for each in known if each.max is not None
    )


def _size(page: Page, field: str, numbers: Iterable[Numbers | None]) -> None:
    """Lengths and pixels: as they are where all are equal, else half and twice as much."""
    extremes = _extremes(numbers)
    if extremes is None:
        return
    low, high = (int(each) for each in extremes)
    if low == high:
        page.add(f"    {field}: {{min: {low}, max: {high}}}", "all are equal")
    else:
        page.add(f"    {field}: {{min: {low // 2}, max: {2 * high}}}", f"{low:,} to {high:,} seen")


def _range(page: Page, parts: Sequence[FeatureStatistics], *, whole: bool) -> None:
    extremes = _extremes(part.numbers for part in parts)
    if extremes is None:
        return
    low, high = extremes if whole else map(shortest, extremes)
    width = _decimal(high) - _decimal(low)
    least = _outward(low, width, ROUND_FLOOR, whole=whole)
    most = _outward(high, width, ROUND_CEILING, whole=whole)
    if low >= 0:
        least = max(least, 0)
        most = min(most, 1) if high <= 1 and not whole else most
    bound = 2.0**63 if whole else 3.4028234663852886e38
    if least > -bound:
        page.add(f"    min: {least}", f"{low:g} to {high:g} seen")
    if most < bound:
        page.add(f"    max: {most}")


def _domain(parts: Sequence[FeatureStatistics]) -> list[str | int] | None:
    """All values, in order, if they are few and occur often; else they are no domain."""
    tops = [part.top for part in parts if part.top is not None]
    values = {each.value for top in tops for each in top.values}
    total = sum(part.values for part in parts)
    listed = sum(each.count for top in tops for each in top.values)
    if not values or any(top.error for top in tops) or listed < total:
        return None
    few = len(values) <= _FEW and total >= _EACH * len(values)
    return sorted(values, key=lambda value: (isinstance(value, str), value)) if few else None


def _balance(page: Page, parts: Sequence[FeatureStatistics]) -> None:
    shares = [
        count / sum(part.labels.values())
        for part in parts
        if part.labels and sum(part.labels.values())
        for count in part.labels.values()
    ]
    if shares:
        low, high = _rounded(min(shares) / 2, ROUND_FLOOR), _rounded((1 + max(shares)) / 2, ROUND_CEILING)
        why = f"{min(shares):.1%} to {max(shares):.1%} of a split seen"
        page.add(f"    balance: {{min: {low}, max: {high}}}", why)


def _counts(parts: Sequence[FeatureStatistics]) -> list[int]:
    return [part.values for part in parts]


def _distances(
    page: Page, counts: Sequence[int], *, numeric: bool, bins: int = _BINS, what: str = ""
) -> None:
    """Thresholds that chance alone does not reach: three times what two samples of the smallest split come to."""
    values = min((count for count in counts if count), default=0)
    if not values:
        return
    if numeric:
        field, chance = "jensen_shannon", bins / (4 * values * math.log(2))
    else:
        field, chance = "infinity_norm", math.sqrt(1 / (2 * values))
    threshold = max(_LEAST_DISTANCE, float(_rounded(3 * chance, ROUND_CEILING)))
    if threshold > _MOST_DISTANCE:
        page.say(f"Too few values to tell drift from chance: {values:,} in the smallest split.", 4)
        return
    for which in ("drift", "skew"):
        page.add(f"    {which}: {{{field}: {threshold}}}", what)


def _outward(value: float, width: Decimal, rounding: str, *, whole: bool) -> Any:
    """A bound beyond an extreme: half of the range away, to two digits of the range."""
    if not width:
        return value
    margin, place = width * _MARGIN, width.adjusted() - 1
    moved = _decimal(value) + (-margin if rounding == ROUND_FLOOR else margin)
    return _quantized(moved, max(place, 0) if whole else place, rounding)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))


def _rounded(value: float, rounding: str) -> Any:
    """A share to two digits, as a person would write it."""
    exact = _decimal(value)
    return _quantized(exact, exact.adjusted() - 1, rounding) if value else 0


def _quantized(value: Decimal, place: int, rounding: str) -> Any:
    rounded = (value.scaleb(-place)).to_integral_value(rounding).scaleb(place)
    return int(rounded) if rounded == rounded.to_integral_value() else float(rounded)
