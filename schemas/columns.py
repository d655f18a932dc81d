"""Which features the indexes hold too: the value of a scalar, the number of values of a list.

So that filters, labels and lengths are known without reading a record. Neither pyarrow nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from schemas.features import (
    BoolFeature,
    ClassLabelFeature,
    Feature,
    Float32Feature,
    Int64Feature,
    TextFeature,
)

MAX_TEXT_BYTES = 255  # of a text in an index, in UTF-8: a category or a code, not a page

# What a column holds: `length` is the number of values of a list.
ColumnKind = Literal["int64", "float32", "bool", "text", "length"]

_VALUE, _LENGTH = "feature/", "length/"


def why_no_column(feature: Feature) -> str | None:
    """Why an index cannot hold a feature, None where it can."""
    match feature:
        case ClassLabelFeature() | BoolFeature():
            return None
        case Int64Feature() | Float32Feature():
            return None if feature.shape in ((), (None,)) else "it is a vector, neither a number nor a list"
        case TextFeature():
            bounded = max_text_bytes(feature) <= MAX_TEXT_BYTES
            limit = f"`max_bytes` of at most {MAX_TEXT_BYTES}, or a `vocabulary` of such texts"
            return None if bounded else f"a text needs {limit}"
    return f"it is of type {feature.type}"


def max_text_bytes(feature: TextFeature) -> int:
    """The most UTF-8 bytes that a value can have; more than any index holds where nothing bounds it."""
    words = [len(word.encode()) for word in feature.vocabulary or []]
    bounds = [bound for bound in (feature.max_bytes, max(words, default=None)) if bound is not None]
    return min(bounds, default=MAX_TEXT_BYTES + 1)


def is_list(feature: Feature) -> bool:
    """Whether a feature is a list of any length."""
    return isinstance(feature, Int64Feature | Float32Feature) and feature.shape == (None,)


def indexed_by_default(features: Mapping[str, Feature], label: str | None) -> list[str]:
    """The features that an index holds unless a job says otherwise: the label and every list of any length."""
    return [
        name
        for name, feature in features.items()
        if is_list(feature) or (name == label and why_no_column(feature) is None)
    ]


def column_kinds(features: Mapping[str, Feature], indexed: Iterable[str]) -> dict[str, ColumnKind]:
    """The columns of an index of those features, by name, in the order in which they lie in it."""
    kinds = {column_names(name)[is_list(features[name])]: _kind(features[name]) for name in indexed}
    return dict(sorted(kinds.items()))


def column_names(feature: str) -> tuple[str, str]:
    """What the column of a feature is called: of its values, and of its lengths."""
    return f"{_VALUE}{feature}", f"{_LENGTH}{feature}"


def feature_of(column: str) -> str:
    """The feature of a column."""
    return column.removeprefix(_VALUE).removeprefix(_LENGTH)


def _kind(feature: Feature) -> ColumnKind:
    match feature:
        case BoolFeature():
            return "bool"
        case TextFeature():
            return "text"
        case Int64Feature() | Float32Feature() if is_list(feature):
            return "length"
        case Float32Feature():
            return "float32"
    return "int64"
