"""What a column of a sample is: a type, what bounds it, and whether it could be a label or a key."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.image_headers import Header
from beam_jobs.starter.sample import Look
from schemas.errors import shorten
from schemas.features import STORED_FORMATS

_WHOLE = r"^-?(?:0|[1-9][0-9]{0,17})$"
_DECIMAL = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$|^(?i:nan|[+-]?inf(?:inity)?)$"
_DIGITS = r"^-?[0-9]+$"
_COMMA = r"^-?[0-9]+,[0-9]+$"
_LEADING_ZERO = r"^-?0[0-9]+$"
_TRUTHS = {"true", "false", "yes", "no", "t", "f", "y", "n"}
_MAX_CLASSES = 1000
_MAX_KEY_BYTES = 500
_FEW = 50  # different texts that are classes rather than free text
_MAX_NAME = 100  # characters of a class
_FLOAT32 = 3.4028234663852886e38
_UNKNOWN = ("unknown", "missing", "no value")


@dataclass(frozen=True)
class Guess:
    """What a column is taken for.

    Attributes:
      feature: as written in a job; None where no feature can be made of it.
      why: what was seen, or why there is no feature.
      classes: its values, sorted, where they are few enough to be classes.
      missing: records without a value.
      unique: whether no two records have the same value, and all have one.
      is_id: whether it could name records: texts or whole numbers.
      one_word: whether there is no blank in any of its texts, as in what names things.
      broken: share of its images that are none.
    """

    feature: dict[str, Any] | None
    why: str
    classes: tuple[str, ...] = ()
    missing: int = 0
    unique: bool = False
    is_id: bool = False
    one_word: bool = False
    broken: float = 0.0


def guess_values(column: pa.ChunkedArray, records: int, *, whole: bool) -> Guess:
    """What a column without bytes is."""
    missing = column.null_count
    if missing == len(column):
        return Guess(None, "no record has a value", missing=missing)
    kind = column.type
    values = column.drop_null()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _guess_list(values.combine_chunks(), missing, whole=whole)
    if pa.types.is_nested(kind):
        return Guess(None, f"it is nested ({shorten(str(kind), 40)})", missing=missing)
    if pa.types.is_boolean(kind):
        return _with_default({"type": "bool"}, "", missing, records, False)
    if pa.types.is_integer(kind):
        return _guess_numbers(values, "int64", missing, records, whole=whole)
    if pa.types.is_floating(kind):
        return _guess_numbers(values, "float32", missing, records, whole=whole)
    texts = values.cast(pa.large_string()) if not pa.types.is_large_string(kind) else values
    return _guess_texts(texts, missing, records, whole=whole)


def _guess_texts(texts: pa.ChunkedArray, missing: int, records: int, *, whole: bool) -> Guess:
    trimmed = pc.utf8_trim_whitespace(texts)
    if _all(trimmed, _WHOLE):
        found = _guess_numbers(pc.cast(trimmed, pa.int64()), "int64", missing, records, whole=whole)
        # Classes are compared as they are written.
        return found if trimmed.equals(texts) else replace(found, classes=())
    zeros = pc.any(pc.match_substring_regex(trimmed, _LEADING_ZERO)).as_py()
    if _all(trimmed, _DECIMAL) and not _all(trimmed, _DIGITS) and not zeros:
        return _guess_numbers(pc.cast(trimmed, pa.float64()), "float32", missing, records, whole=whole)
    counts = Counter(texts.to_pylist())
    lower = {str(value).lower() for value in list(counts)[: len(_TRUTHS) * 3]}
    if len(counts) <= len(_TRUTHS) * 3 and lower <= _TRUTHS:
        return _with_default({"type": "bool"}, "", missing, records, False)
    classes = _classes(counts, len(texts), _FEW if whole else _FEW // 2)
    unique = len(counts) == len(texts) and not missing
    if classes:
        seen = f"{len(classes)} different values" + (
            "" if whole else f" in the {records:,} records looked at"
        )
        feature: dict[str, Any] = {"type": "class_label", "names": list(classes)}
        if missing:
            unknown = next(name for name in (*_UNKNOWN, "?" * 8) if name not in classes)
            feature |= {"names": [*classes, unknown], "default": unknown}
            why = f"{seen}; {missing:,} records have none"
            return Guess(feature, why, classes, missing, unique, True)
        return Guess(feature, seen, classes, missing, unique, True)
    longest = pc.max(pc.binary_length(texts)).as_py()
    if _all(trimmed, _DIGITS):
        why = "digits, with zeros before them or too many for a number: text keeps them"
    elif _all(trimmed, _COMMA):
        why = "numbers with a decimal comma; a rule `compute` with replace(…, ',', '.') makes numbers of them"
    else:
        why = "always the same" if len(counts) == 1 else f"up to {longest:,} bytes"
    found = _with_default({"type": "text"}, why, missing, records, "")
    one_word = not pc.any(pc.match_substring_regex(texts, r"\s")).as_py()
    is_id = longest <= _MAX_KEY_BYTES
    return Guess(
        found.feature, found.why, _labels(counts, len(texts)), missing, unique, is_id, one_word=one_word
    )


def _guess_numbers(values: pa.ChunkedArray, kind: str, missing: int, records: int, *, whole: bool) -> Guess:
    finite = values.filter(pc.is_finite(values)) if pa.types.is_floating(values.type) else values
    feature: dict[str, Any] = {"type": kind}
    if len(finite) < len(values):
        feature["allow_nan"] = True
    if not len(finite):
        return Guess(None, "it holds no number that is finite", missing=missing)
    low, high = pc.min(finite).as_py(), pc.max(finite).as_py()
    if kind == "int64" and high >= 1 << 63:
        return Guess(None, f"{high} is no 64-bit whole number", missing=missing)
    if kind == "float32" and max(abs(low), abs(high)) > _FLOAT32:
        return Guess(None, f"{low:g} … {high:g} is more than 32 bits hold", missing=missing)
    if whole and low != high:
        feature |= _bounds(low, high)
    span = f"{_number(low)} … {_number(high)}" if low != high else f"always {_number(low)}"
    if not whole:
        span += f" in the {records:,} records looked at"
    default = 0 if kind == "int64" else 0.0
    counts = Counter(finite.to_pylist()) if kind == "int64" else Counter[Any]()
    unique = kind == "int64" and len(counts) == len(values) and not missing
    found = _with_default(
        feature, span, missing, records, min(max(default, feature.get("min", default)), default)
    )
    return Guess(found.feature, found.why, _labels(counts, len(values)), missing, unique, kind == "int64")


def _bounds(low: float, high: float) -> dict[str, Any]:
    """What no later value is likely to leave either; a bound that only this sample has would refuse good ones."""
    if low >= 0:
        return {"min": 0, "max": 1} if high <= 1 else {"min": 0}
    return {"min": -1, "max": 1} if low >= -1 and high <= 1 else {}


def _guess_list(lists: pa.Array, missing: int, *, whole: bool) -> Guess:
    inner = lists.type.value_type
    kind = "int64" if pa.types.is_integer(inner) else "float32" if pa.types.is_floating(inner) else None
    if kind is None and not pa.types.is_boolean(inner):
        return Guess(None, f"lists of {shorten(str(inner), 40)} are no feature", missing=missing)
    if missing:
        return Guess(None, f"{missing:,} records have no list, and no default can be given", missing=missing)
    values = pc.list_flatten(lists)
    if values.null_count:
        return Guess(None, "lists hold missing values", missing=missing)
    if kind is None:
        return Guess(None, "lists of truths are no feature", missing=missing)
    lengths = pc.list_value_length(lists)
    low, high = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    same = low == high and low > 0
    feature: dict[str, Any] = {"type": kind, "shape": [low if same else None]}
    if kind == "float32" and len(values) and not pc.all(pc.is_finite(values)).as_py():
        feature["allow_nan"] = True
    why = f"all have {low} values" if same else f"{low} … {high} values"
    return Guess(feature, why if whole else f"{why} where looked at")


def guess_bytes(looks: Sequence[Look | None], *, whole: bool) -> Guess:
    """What a column of bytes is: images where nearly all are."""
    missing = sum(look is None for look in looks)
    found = [look for look in looks if look is not None]
    headers = [look.header for look in found if look.header is not None]
    if not found:
        return Guess(None, "no record has a value", missing=missing)
    if not headers and all(look.text for look in found):
        return _with_default({"type": "text"}, "bytes that are UTF-8", missing, len(looks), "")
    if len(headers) * 2 < len(found):
        return Guess({"type": "bytes"}, "no images by their content; kept as they are", missing=missing)
    broken = len(found) - len(headers)
    more = f"; {broken:,} of {len(found):,} are broken or no image: dead letters" if broken else ""
    feature, why = image_feature(headers)
    seen = "all" if whole and not missing and not broken else f"those looked at ({len(headers):,})"
    return Guess(feature, f"{why.format(seen=seen)}{more}", missing=missing, broken=broken / len(found))


def image_feature(headers: Sequence[Header]) -> tuple[dict[str, Any], str]:
    """The feature that images of these headers are, and why; `{seen}` in it says which."""
    formats = sorted({header.format for header in headers})
    # A palette's transparency may be left out, so 4 of those are 3 too.
    channels = {3 if header.palette and header.channels == 4 else header.channels for header in headers}
    strange = [
        reason
        for reason, there in (
            ("CMYK", any(header.cmyk for header in headers)),
            ("more than 8 bits", any(header.depth > 8 for header in headers)),
            ("a palette of BMP", any(header.palette and header.format == "bmp" for header in headers)),
            (f"{' and '.join(map(str, sorted(channels)))} channels", len(channels) > 1 or channels == {2}),
            (
                ", ".join(name for name in formats if name not in STORED_FORMATS),
                any(name not in STORED_FORMATS for name in formats),
            ),
        )
        if there
    ]
    wanted = 3 if 3 in channels or len(channels) > 1 else next(iter(channels))
    wanted = {2: 1}.get(wanted, wanted)
    if not strange and any(wanted not in STORED_FORMATS[name] for name in formats):
        strange.append(f"{wanted} channels of {', '.join(formats)}")
    sizes = {(header.height, header.width) for header in headers}
    same = len(sizes) == 1 and len(headers) > 1
    feature: dict[str, Any] = {"type": "image", "formats": formats}
    height, width = next(iter(sizes)) if same else (None, None)
    if same or wanted != 3:
        feature["shape"] = [height, width, wanted]
    if strange:
        feature["encode"] = {"format": "jpeg" if set(formats) <= {"jpeg", "webp"} and wanted != 4 else "png"}
        seen = "; ".join(strange)
        foreign = [name for name in formats if name not in STORED_FORMATS]
        less = "TensorFlow decodes no such images" if foreign else "without `encode` those are dead letters"
        return feature, f"converted, for there are {seen}: {less}"
    if same:
        return feature, "{seen} have this shape; null in it allows any size"
    low, high = min(sizes), max(sizes)
    return feature, (
        f"sizes differ ({low[0]}×{low[1]} … {high[0]}×{high[1]}): the loader's image_size= evens them out, or "
        "`encode: {{format: jpeg, size: [224, 224]}}` here"
    )


def _with_default(feature: dict[str, Any], why: str, missing: int, records: int, default: Any) -> Guess:
    if not missing:
        return Guess(feature, why)
    text = f"{missing:,} of {records:,} have no value: they get the default; without it they are dead letters"
    return Guess({**feature, "default": default}, f"{why}; {text}" if why else text, missing=missing)


def _classes(counts: Counter[Any], records: int, most: int) -> tuple[str, ...]:
    if (
        not 2 <= len(counts) <= most
        or len(counts) * 2 > records
        or any(len(str(name)) > _MAX_NAME for name in counts)
    ):
        return ()
    return _sorted(counts)


def _labels(counts: Counter[Any], records: int) -> tuple[str, ...]:
    """The values as classes, where the column is the label by its name."""
    return _classes(counts, records, _MAX_CLASSES) if counts else ()


def _sorted(values: Counter[Any]) -> tuple[str, ...]:
    texts = [str(value) for value in values]
    if all(re.fullmatch(r"-?\d+", text) for text in texts):
        return tuple(sorted(texts, key=lambda text: (int(text), text)))
    return tuple(sorted(texts))


def _all(texts: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)  # 2,024 is no year
    return f"{value:.4g}" if math.isfinite(value) else str(value)
