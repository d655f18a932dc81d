"""Carrying errors across runners, which keep only the text of an exception."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from beam_jobs.files import clear_errors
from schemas import HeadraceError
from schemas.errors import WireError

P = ParamSpec("P")
R = TypeVar("R")


def for_runners(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a stage's function raise HeadraceErrors in a form that survives every runner."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with clear_errors():
                return function(*args, **kwargs)
        except HeadraceError as error:
            raise WireError(error) from error

    return wrapper
