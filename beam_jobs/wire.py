"""Stages among runners: errors that survive them, and no stage that goes on when its job has ended."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from beam_jobs.files import clear_errors
from beam_jobs.plan import JobPlan
from schemas import HeadraceError
from schemas.errors import WireError

P = ParamSpec("P")
R = TypeVar("R")

_calls = threading.Condition()
_running: Counter[str] = Counter()  # stages at work in this process, by the attempt that they belong to
_ended: set[str] = set()


def for_runners(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a stage's function, which has a `plan`, raise HeadraceErrors in a form that survives every runner."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        plan: JobPlan = signature.bind(*args, **kwargs).arguments["plan"]
        try:
            with _counted(plan.attempt), clear_errors(Path(str(plan.workspace.root)), reads_too=True):
                return function(*args, **kwargs)
        except HeadraceError as error:
            raise WireError(error) from error

    return wrapper


def end_attempt(attempt: str) -> None:
    """Waits for the stages of this process that are at work for `attempt`, and lets no more begin.

    When one stage has failed, the embedded runner's other threads go on with theirs, and would write where the next
    job does.
    """
    with _calls:
        _ended.add(attempt)
        _calls.wait_for(lambda: not _running[attempt])
        del _running[attempt]


@contextmanager
def _counted(attempt: str) -> Iterator[None]:
    with _calls:
        if attempt in _ended:
            raise HeadraceError("The job has ended.")
        _running[attempt] += 1
    try:
        yield
    finally:
        with _calls:
            _running[attempt] -= 1
            _calls.notify_all()
