"""Sizes and shares as people write them: `64MiB`, `1%`."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}


def parse_bytes(value: object) -> object:
    """Bytes of a size such as `64MiB`, `1.5 GB` or 1000; anything else is left for the type check to refuse.

    >>> parse_bytes("64MiB")
    67108864
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
        size = float(match.group(1)) * _UNITS.get(match.group(2).upper(), math.nan) if match else math.nan
        if math.isfinite(size):
            return int(size)
        raise ValueError("expected a size such as 64MiB or 500MB")
    return value


def parse_share(value: object) -> object:
    """A share in [0, 1] from `1%` or 0.01.

    >>> parse_share("1%")
    0.01
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)
        if match:
            return float(match.group(1)) / 100
        raise ValueError("expected a share such as 1% or 0.01")
    return value


def format_bytes(size: float) -> str:
    """`size` bytes for people, in decimal units.

    >>> format_bytes(558_000_000)
    '558.0 MB'
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


ByteSize = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=int | str)]
Share = Annotated[float, BeforeValidator(parse_share, json_schema_input_type=float | str), Field(ge=0, le=1)]
