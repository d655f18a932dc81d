"""Bounds of float32 values: `0.1` means the float32 nearest to it, which is larger than the float64."""

from __future__ import annotations

import numpy as np


def as_single(value: float) -> float:
    """The float32 nearest to a number."""
    return float(np.float32(value))


def shortest(value: float) -> float:
    """The number with the fewest digits whose nearest float32 is `value`."""
    return float(str(np.float32(value)))
