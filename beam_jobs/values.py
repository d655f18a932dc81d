"""The values of a record as people and scripts see them: what an image is, not its bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from beam_jobs.examples import Values
from beam_jobs.image_headers import ImageProblemError, read_header, true_format
from schemas.errors import shorten
from schemas.features import BoolFeature, ClassLabelFeature, Feature, ImageFeature, TextFeature
from schemas.units import format_bytes

_SHOWN_TEXT, _SHOWN_VALUES, _SHOWN_BYTES = 100, 8, 12


def shown(feature: Feature | None, values: Values) -> str:
    """The values of a record's feature, on one line."""
    items = [_item(feature, value) for value in values[:_SHOWN_VALUES]]
    more = f", … {len(values):,} in all" if len(values) > _SHOWN_VALUES else ""
    return ", ".join(items) if _is_scalar(feature, values) else f"[{', '.join(items)}{more}]"


def _item(feature: Feature | None, value: bytes | int | float) -> str:
    if not isinstance(value, bytes):
        return _number(feature, value)
    if isinstance(feature, ImageFeature):
        found = _image(value)
        size = f" {found['height']}×{found['width']}×{found['channels']}" if "height" in found else ""
        return f"{found['format']}{size}, {format_bytes(len(value))}"
    if isinstance(feature, TextFeature):
        return f'"{shorten(value.decode("utf-8", "backslashreplace"), _SHOWN_TEXT)}"'
    cut = "…" if len(value) > _SHOWN_BYTES else ""
    return f"{value[:_SHOWN_BYTES].hex(' ')}{cut} ({format_bytes(len(value))})"


def _number(feature: Feature | None, value: int | float) -> str:
    if isinstance(value, float):
        return str(np.float32(value))
    if isinstance(feature, BoolFeature):
        return "true" if value else "false"
    name = _class_name(feature, value)
    return str(value) if name is None else f"{value} ({shorten(name, _SHOWN_TEXT)})"


def _class_name(feature: Feature | None, value: int) -> str | None:
    if isinstance(feature, ClassLabelFeature) and 0 <= value < len(feature.names):
        return feature.names[value]
    return None


def _image(data: bytes) -> dict[str, Any]:
    """What an encoded image says it is."""
    kind = true_format(data)
    if kind is None:
        return {"format": "no known image"}
    try:
        header = read_header(data, kind)
    except ImageProblemError:
        return {"format": f"broken {kind}"}
    return {"format": kind, "height": header.height, "width": header.width, "channels": header.channels}


def json_of(feature: Feature | None, values: Values) -> Any:
    """The values of a record's feature for JSON."""
    found = [_item_json(feature, value) for value in values]
    return found[0] if _is_scalar(feature, values) else found


def _is_scalar(feature: Feature | None, values: Values) -> bool:
    """Whether a feature holds one value by its nature, not by chance."""
    listed = getattr(feature, "shape", ()) and not isinstance(feature, ImageFeature)
    return len(values) == 1 and not listed


def _item_json(feature: Feature | None, value: bytes | int | float) -> Any:
    if not isinstance(value, bytes):
        return _number_json(feature, value)
    if isinstance(feature, ImageFeature):
        return {**_image(value), "bytes": len(value)}
    if isinstance(feature, TextFeature):
        return value.decode("utf-8", "backslashreplace")
    return {"bytes": len(value), "hex": value[:_SHOWN_BYTES].hex()}


def _number_json(feature: Feature | None, value: int | float) -> Any:
    if isinstance(value, float):
        # JSON has no NaN and no infinity.
        return float(str(np.float32(value))) if math.isfinite(value) else str(value)
    if isinstance(feature, BoolFeature):
        return bool(value)
    name = _class_name(feature, value)
    return value if name is None else {"value": value, "name": name}
