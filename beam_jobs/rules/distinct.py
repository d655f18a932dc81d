"""Columns as rules want them: numbers, masks, and texts once for each that differs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.batch import Problem
from schemas import HeadraceError
from schemas.errors import shorten

Mask = npt.NDArray[np.bool_]


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def distinct_texts(column: pa.Array, where: str) -> tuple[pa.Array, pa.Array]:
    """The distinct texts of a column, string (k,), and which of them each row has, int32 (n,); null stays null.

    Raises:
      HeadraceError: the column holds no texts.
    """
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if not is_text(column.type):
        raise HeadraceError(
            "The rule is for texts.",
            where=where,
            value=str(column.type),
            allowed="a column of text; `cast` makes one of numbers",
        )
    encoded = column.dictionary_encode()
    return encoded.dictionary, encoded.indices


def map_texts(column: pa.Array, function: Callable[[str], str | None], where: str) -> pa.Array:
    """`function` of every text, called once for each that differs; null stays null.

    Raises:
      HeadraceError: the column holds no texts.
    """
    texts, places = distinct_texts(column, where)
    return pa.array([function(text) for text in texts.to_pylist()], texts.type).take(places)


def as_numbers(column: pa.Array, where: str) -> pa.Array:
    """A column of numbers as float64.

    Raises:
      HeadraceError: it holds something else.
    """
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise HeadraceError(
            "The rule is for numbers.",
            where=where,
            value=str(kind),
            hint="`parse_number`, `cast`, or `types:` of a csv source make numbers of texts.",
        )
    return pc.cast(column, pa.float64(), safe=False)


def as_mask(values: pa.Array) -> Mask:
    """A column of bools as a mask, where null is false."""
    mask: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask


def problems_at(mask: Mask, rule: str, name: str, column: pa.Array, what: str) -> list[Problem]:
    """A problem for each place of `mask`, which tells the value there."""
    return [
        Problem(place, rule, f"{name}: {shorten(repr(column[place].as_py()), 80)} {what}")
        for place in np.flatnonzero(mask).tolist()
    ]
