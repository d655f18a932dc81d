"""The part of a split that is asked for: "train[10%:20%]", or the records that a filter chooses. No TensorFlow."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from loader.order import HOLE
from loader.plan import Ids
from schemas import HeadraceError

_SPLIT = re.compile(r"([^\[\]]+)(?:\[(?:(-?[\d.]+%?)?):(?:(-?[\d.]+%?)?)\])?")


@dataclass(frozen=True)
class Part:
    """Some records of a split, in stored order.

    Attributes:
      name: such as "train" or "train[10:20]".
      chosen: their ids: positions in the split, ascending.
    """

    name: str
    chosen: range | Ids

    def __len__(self) -> int:
        return len(self.chosen)

    def of(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What a column of the whole split says of this part, shape (len(self),)."""
        chosen = self.chosen
        return column[chosen.start : chosen.stop] if isinstance(chosen, range) else column[chosen]

    def stored(self, places: Ids) -> Ids:
        """Ids of the records at `places` of this part, int64; HOLE stays HOLE."""
        if isinstance(self.chosen, range):
            return np.where(places == HOLE, HOLE, places + self.chosen.start) if self.chosen.start else places
        return np.where(places == HOLE, HOLE, self.chosen[places])

    def places(self, ids: Ids) -> Ids:
        """The places in this part of the records `ids`, which it holds; HOLE stays HOLE."""
        if isinstance(self.chosen, range):
            return np.where(ids == HOLE, HOLE, ids - self.chosen.start) if self.chosen.start else ids
        return np.where(ids == HOLE, HOLE, np.searchsorted(self.chosen, ids))


Where = Callable[[Mapping[str, npt.NDArray[Any]]], npt.NDArray[np.bool_]]


def filtered(part: Part, where: Where, column: Callable[[str], npt.NDArray[Any]]) -> Part:
    """The records of a part that a filter chooses.

    Args:
      part: to choose from.
      where: of the part's columns, by name, to bool (len(part),).
      column: the whole split's values by name; read only if the filter asks for them.

    Raises:
      HeadraceError: the filter gives something else, or there is no such column.
    """
    keep = np.asarray(where(_Columns(part, column)))
    if keep.shape != (len(part),) or keep.dtype != bool:
        raise HeadraceError(
            "The filter must say of each record whether it is wanted.",
            where="where",
            value=f"{keep.dtype} of shape {keep.shape}",
            allowed=f"bool of shape ({len(part)},)",
        )
    chosen = np.asarray(part.chosen, np.int64)[keep]
    digest = hashlib.blake2b(chosen.astype("<i8").tobytes(), digest_size=8).hexdigest()
    return Part(f"{part.name}, {len(chosen)} chosen ({digest})", chosen)


class _Columns(Mapping[str, "npt.NDArray[Any]"]):
    """Columns of the index by name, each read when it is asked for."""

    def __init__(self, part: Part, column: Callable[[str], npt.NDArray[Any]]) -> None:
        self._part, self._column = part, column

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._part.of(self._column(name))

    def __iter__(self) -> Iterator[str]:
        raise TypeError("ask for columns by name")

    def __len__(self) -> int:
        raise TypeError("ask for columns by name")


def split_name(text: str) -> str:
    """The name of the split in "train" or "train[10%:20%]"."""
    return text.partition("[")[0]


def parse_part(text: str, records: Mapping[str, int]) -> Part:
    """The part that `text` names, as TFDS writes it: "train", "train[:100]", "train[-10%:]", "train[10%:20%]".

    Shares are rounded to the nearest record, so that parts which meet in a share neither overlap nor leave a gap.

    Args:
      text: a split's name, and from where to where in it: numbers of records or shares, from the end if negative.
      records: of each split.

    Raises:
      HeadraceError: it cannot be read so, or lies outside the split.
    """
    found = _SPLIT.fullmatch(text)
    try:
        if not found:
            raise ValueError
        total = records[found[1]]
        bounds = [_bound(found[2] or "0", total), _bound(found[3] or "100%", total)]
    except (ValueError, ZeroDivisionError) as error:
        raise HeadraceError(
            "This is not a part of a split.",
            where="split",
            value=text,
            allowed='a split such as "train", or a part such as "train[10%:20%]", "train[:1000]" or "train[-5%:]"',
        ) from error
    if not 0 <= bounds[0] <= bounds[1] <= total:
        raise HeadraceError(
            "This part lies outside the split, or ends before it begins.",
            where="split",
            value=text,
            allowed=f"0 … {total} records",
        )
    whole = bounds == [0, total]
    return Part(found[1] if whole else f"{found[1]}[{bounds[0]}:{bounds[1]}]", range(*bounds))


def _bound(text: str, total: int) -> int:
    number = Fraction(text.rstrip("%"))
    if text.endswith("%"):
        share = (100 + number if text.startswith("-") else number) / 100
        return math.floor(share * total + Fraction(1, 2))
    if number.denominator != 1:
        raise ValueError(text)
    return total + int(number) if text.startswith("-") else int(number)
