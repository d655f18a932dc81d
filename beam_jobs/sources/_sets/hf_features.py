"""What Hugging Face's features say of columns: the names of classes."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from schemas.errors import HeadraceError, shorten

_METADATA = b"huggingface"


def described_features(schema: pa.Schema, where: str) -> Any:
    """The features that a file's own schema describes; None where it says nothing.

    Raises:
      HeadraceError: it is no JSON.
    """
    text = (schema.metadata or {}).get(_METADATA)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HeadraceError(
            "The features of a file are no JSON.", where=where, value=shorten(str(error))
        ) from None
    info = data.get("info") if isinstance(data, dict) else None
    return info.get("features") if isinstance(info, dict) else None


def class_names(features: Any) -> dict[str, list[str]]:
    """The names of every ClassLabel that is no list, by the name of its flat column."""
    found: dict[str, list[str]] = {}
    stack = [("", features)]
    while stack:
        prefix, feature = stack.pop()
        if not isinstance(feature, dict):
            continue
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and isinstance(names, list):
            found[prefix] = [str(name) for name in names]
        elif not isinstance(feature.get("_type"), str):
            stack += [(f"{prefix}.{name}".lstrip("."), inner) for name, inner in feature.items()]
    return dict(sorted(found.items()))
