"""Columns to features: type, missing, range, vocabulary, image checks. What fails is named, record by record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import OWN_PREFIX, Batch, Ledger, Problem
from beam_jobs.images import check_images
from schemas import HeadraceError
from schemas.errors import shorten
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

Converted = tuple[pa.Array, list[Problem]]
Mask = npt.NDArray[np.bool_]
_BOOLS = {"true": 1, "1": 1, "yes": 1, "t": 1, "y": 1, "false": 0, "0": 0, "no": 0, "f": 0, "n": 0}
_PREFIX = f"{OWN_PREFIX}feature:"


def to_features(
    batch: Batch, features: Mapping[str, Feature], ledger: Ledger
) -> tuple[Batch, dict[str, pa.Array]]:
    """The batch's valid records, and for each feature its column, ready to be encoded and without nulls.

    Cheap checks come first: an image is looked at only where all else is right.

    Raises:
      HeadraceError: a feature's column does not exist or has a type that can never fit.
    """
    cheap = {name: feature for name, feature in features.items() if not isinstance(feature, ImageFeature)}
    images = {name: feature for name, feature in features.items() if isinstance(feature, ImageFeature)}
    for group in (cheap, images):
        problems: list[Problem] = []
        converted = batch
        for name, feature in group.items():
            try:
                column, found = _convert(name, feature, batch)
            except pa.ArrowNotImplementedError as error:
                raise HeadraceError(
                    "A feature cannot be made of a column of that type.",
                    where=f"features.{name}",
                    value=str(error),
                    hint="Give the feature another type, or make a column of it in a function of your own.",
                ) from error
            converted = converted.with_column(_PREFIX + name, column)
            problems += found
        batch = ledger.refuse(converted, "validate", problems)
    return batch, {name: batch.records.column(_PREFIX + name) for name in features}


def _convert(name: str, feature: Feature, batch: Batch) -> Converted:
    sources = feature.source if feature.source is not None else name
    if isinstance(sources, list):
        return _vector(name, feature, batch, sources)
    column = _column(batch, sources, f"features.{name}.from")
    if pa.types.is_nested(column.type) and not (
        isinstance(feature, Int64Feature | Float32Feature) and feature.shape
    ):
        raise _nested(name, column.type, feature)
    match feature:
        case ImageFeature():
            stored, found = check_images(column, feature)
            return stored, [Problem(place, rule, f"{name}: {reason}") for place, rule, reason in found]
        case Int64Feature() | Float32Feature() if feature.shape:
            return _list(name, feature, column)
        case Int64Feature() | Float32Feature():
            return _number(name, feature, column)
        case ClassLabelFeature():
            return _class_label(name, feature, column)
        case BoolFeature():
            return _bool(name, feature, column)
        case TextFeature() | BytesFeature():
            return _text(name, feature, column)


def _nested(name: str, kind: pa.DataType, feature: Feature) -> HeadraceError:
    if pa.types.is_struct(kind):
        hint = "Make columns of their fields: a jsonl source does so with `flatten: true`."
    elif isinstance(feature, Int64Feature | Float32Feature):
        hint = "Give the feature a shape: [null] for a list of any length."
    else:
        hint = "Only int64 and float32 features can be lists; join the values in a function of your own."
    return HeadraceError(
        f"A feature needs single values; its column holds {'objects' if pa.types.is_struct(kind) else 'lists'}.",
        where=f"features.{name}",
        value=str(kind),
        hint=hint,
    )


def _column(batch: Batch, column: str, where: str) -> pa.Array:
    names = batch.columns
    if column not in names:
        raise HeadraceError(
            "A feature's column does not exist.", where=where, value=column, allowed=", ".join(names)
        )
    return batch.records.column(column)


def _number(name: str, feature: Int64Feature | Float32Feature, column: pa.Array) -> Converted:
    column, problems = _filled(name, feature, column)
    values, bad = _cast(column, pa.int64() if isinstance(feature, Int64Feature) else pa.float64())
    kind = "a whole number" if isinstance(feature, Int64Feature) else "a number"
    problems += _problems(name, "wrong_type", bad, column, f"is not {kind}")
    problems += _range(name, feature, values, column)
    if isinstance(feature, Float32Feature):
        values = pc.cast(values, pa.float32(), safe=False)
        if not feature.allow_nan:
            infinite = _mask(pc.invert(pc.is_finite(values)))
            problems += _problems(name, "not_finite", infinite, column, "is not a finite 32-bit number")
    return values.fill_null(0), problems


def _cast(column: pa.Array, to: pa.DataType) -> tuple[pa.Array, Mask]:
    """The column cast, null where a value cannot be, and which those are."""
    try:
        return pc.cast(column, to), np.zeros(len(column), dtype=np.bool_)
    except pa.ArrowInvalid:
        # Rare: only a batch with a bad value is cast value by value.
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
        cells = [_cast_cell(cell, to) for cell in column]
        values = pa.array(cells, to)
        return values, _mask(pc.and_(pc.is_null(values), pc.is_valid(column)))


def _cast_cell(cell: pa.Scalar, to: pa.DataType) -> Any:
    try:
        return cell.cast(to).as_py()
    except pa.ArrowInvalid:
        return None


def _range(
    name: str, feature: Int64Feature | Float32Feature, values: pa.Array, column: pa.Array
) -> list[Problem]:
    masks = []
    if feature.min is not None:
        masks.append(pc.less(values, feature.min))
    if feature.max is not None:
        masks.append(pc.greater(values, feature.max))
    if not masks:
        return []
    low = "-∞" if feature.min is None else feature.min
    high = "∞" if feature.max is None else feature.max
    return _problems(name, "out_of_range", _mask(reduce(pc.or_, masks)), column, f"is not in [{low}, {high}]")


def _class_label(name: str, feature: ClassLabelFeature, column: pa.Array) -> Converted:
    assert not isinstance(feature.names, str), "the planner has filled in the folders' names"
    column, problems = _utf8(name, column)
    column, missing = _filled(name, feature, column)
    problems += missing
    numbers = pc.index_in(column, value_set=pa.array(feature.names, column.type))
    unknown = _mask(pc.and_(pc.is_null(numbers), pc.is_valid(column)))
    allowed = f"is none of {shorten(', '.join(feature.names), 120)}"
    problems += _problems(name, "unknown_class", unknown, column, allowed)
    return pc.cast(numbers, pa.int64()).fill_null(0), problems


def _bool(name: str, feature: BoolFeature, column: pa.Array) -> Converted:
    column, problems = _utf8(name, column)
    column, missing = _filled(name, feature, column)
    problems += missing
    texts = pc.utf8_lower(column)
    keys = pa.array(list(_BOOLS), texts.type)
    places = pc.index_in(texts, value_set=keys)
    unknown = _mask(pc.and_(pc.is_null(places), pc.is_valid(column)))
    problems += _problems(name, "wrong_type", unknown, column, "is neither true nor false")
    return pa.array(list(_BOOLS.values()), pa.int64()).take(places.fill_null(0)), problems


def _text(name: str, feature: TextFeature | BytesFeature, column: pa.Array) -> Converted:
    problems: list[Problem] = []
    if isinstance(feature, TextFeature):
        column, problems = _utf8(name, column)
        column, missing = _filled(name, feature, column)
        problems += missing
        if feature.vocabulary is not None:
            known = pc.is_in(column, value_set=pa.array(feature.vocabulary, column.type))
            unknown = _mask(pc.and_(pc.invert(known), pc.is_valid(column)))
            allowed = f"is none of {shorten(', '.join(feature.vocabulary), 120)}"
            problems += _problems(name, "not_in_vocabulary", unknown, column, allowed)
    else:
        column, problems = _filled(name, feature, column)
    values = pc.cast(column, pa.large_binary())
    if feature.max_bytes is not None:
        long = _mask(pc.greater(pc.binary_length(values), feature.max_bytes))
        problems += _problems(name, "too_long", long, column, f"is longer than {feature.max_bytes} bytes")
    return values.fill_null(b""), problems


def _utf8(name: str, column: pa.Array) -> Converted:
    """A text column; bytes that are no UTF-8 become problems."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return _as_text(column), []
    texts, bad = _cast(column, pa.large_string())
    return texts, _problems(name, "bad_encoding", bad, column, "is not UTF-8")


def _as_text(column: pa.Array) -> pa.Array:
    return (
        column
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        else column.cast(pa.string())
    )


def _list(name: str, feature: Int64Feature | Float32Feature, column: pa.Array) -> Converted:
    """A list column as a vector of fixed length or a list of any."""
    inner = pa.int64() if isinstance(feature, Int64Feature) else pa.float32()
    if not (
        pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
        or pa.types.is_fixed_size_list(column.type)
        or pa.types.is_null(column.type)
    ):
        raise HeadraceError(
            "A feature with a shape needs a column of lists, or a list of columns.",
            where=f"features.{name}.shape",
            value=str(column.type),
            hint="Use `from: [column, column]` to pack columns into a vector.",
        )
    problems = _problems(name, "missing", _mask(pc.is_null(column)), column, "has no value")
    lists, bad = _cast(column, pa.large_list(inner))
    problems += _problems(name, "wrong_type", bad, column, f"is not a list of {inner}")
    length = feature.shape[0]
    if length is not None:
        wrong = _mask(pc.not_equal(pc.list_value_length(lists), length))
        problems += _problems(name, "wrong_shape", wrong, column, f"does not have {length} values")
    lists = lists.fill_null(pa.scalar([0] * (length or 0), lists.type)) if lists.null_count else lists
    values = lists.values.slice(
        lists.offsets[0].as_py(), lists.offsets[-1].as_py() - lists.offsets[0].as_py()
    )
    checked, found = _number(name, feature.model_copy(update={"shape": ()}), values)
    owners = np.searchsorted(
        np.asarray(lists.offsets) - lists.offsets[0].as_py(), [p.place for p in found], side="right"
    )
    problems += [Problem(int(o) - 1, p.rule, p.reason) for o, p in zip(owners, found, strict=True)]
    offsets = pc.subtract(lists.offsets, lists.offsets[0])
    return pa.LargeListArray.from_arrays(offsets, checked), problems


def _vector(name: str, feature: Feature, batch: Batch, sources: list[str]) -> Converted:
    """Several numeric columns, side by side, as one vector."""
    assert isinstance(feature, Int64Feature | Float32Feature)
    problems: list[Problem] = []
    columns = []
    for place, source in enumerate(sources):
        values, found = _number(f"{name}[{place}]", feature, _column(batch, source, f"features.{name}.from"))
        columns.append(values.to_numpy(zero_copy_only=False))
        problems += found
    matrix = np.stack(columns, axis=1)
    offsets = np.arange(len(batch) + 1, dtype=np.int64) * len(sources)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel())), problems


def _filled(name: str, feature: Any, column: pa.Array) -> Converted:
    """The column with its default in place of nulls; without a default, nulls are problems where required."""
    default = getattr(feature, "default", None)
    if not column.null_count:
        return column, []
    if default is not None:
        if pa.types.is_null(column.type):
            return pa.array([default] * len(column)), []
        return column.fill_null(pa.scalar(default).cast(column.type)), []
    return column, _problems(name, "missing", _mask(pc.is_null(column)), column, "has no value")


def _mask(mask: pa.Array) -> Mask:
    filled: Mask = mask.fill_null(False).to_numpy(zero_copy_only=False)
    return filled


def _problems(name: str, rule: str, mask: Mask, column: pa.Array, what: str) -> list[Problem]:
    return [
        Problem(place, rule, _reason(name, column[place], what)) for place in np.flatnonzero(mask).tolist()
    ]


def _reason(name: str, cell: pa.Scalar, what: str) -> str:
    value = cell.as_py()
    return f"{name} {what}" if value is None else f"{name}: {shorten(repr(value), 80)} {what}"
