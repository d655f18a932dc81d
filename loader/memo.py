"""Results that are kept for as long as the order they belong to. No TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def kept(last: int | None) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Keep the `last` results of a function of a frozen object and whole numbers, for each object by itself.

    One `lru_cache` for all would keep what nobody asks for any more, and where many orders are read by turns, as in
    a mixture, it would lose each result before it is asked for again.
    """

    def wrap(function: Callable[..., _T]) -> Callable[..., _T]:
        name = f"_kept_{function.__name__}"

        @functools.wraps(function)
        def cached(owner: Any, *numbers: int) -> _T:
            memory = owner.__dict__
            if name not in memory:
                memory.setdefault(name, functools.lru_cache(last)(functools.partial(function, owner)))
            found: _T = memory[name](*numbers)
            return found

        return cached

    return wrap
