"""Arguments of `load`, checked, with errors that say what would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from schemas import HeadraceError


def check_count(name: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
      HeadraceError: names the argument.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise HeadraceError(
            f"{name} is not a number that load can use.",
            where=name,
            value=value,
            allowed=f"a whole number of at least {least}",
        )


def check_name(where: str, value: object, allowed: Iterable[str], what: str) -> None:
    """Refuse what is not one of `allowed`, with the nearest of them.

    Raises:
      HeadraceError: `what`, and the argument `where`.
    """
    names = list(allowed)
    if value in names:
        return
    near = difflib.get_close_matches(str(value), names, n=1)
    raise HeadraceError(
        what,
        where=where,
        value=value,
        allowed=", ".join(names),
        hint=f"Did you mean {near[0]!r}?" if near else None,
    )


def check_size(name: str, value: object) -> tuple[int, int] | None:
    """A height and a width from one number for both, a pair of them, or None.

    Raises:
      HeadraceError: it is none of these.
    """
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise HeadraceError(
            f"{name} is no size.", where=name, value=value, allowed="one number, or a height and a width"
        )
    for part in pair:
        check_count(name, part, 1)
    return int(pair[0]), int(pair[1])
