"""Between stages and runners: errors, of which runners keep only the text, and how many tasks run at a time."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from beam_jobs.files import clear_errors
from schemas import HeadraceError
from schemas.errors import WireError

P = ParamSpec("P")
R = TypeVar("R")

# How many tasks a worker process does at a time, whatever its runner hands it: what bounds its memory.
TASKS_VARIABLE = "HEADRACE_WORKER_TASKS"
_thread = threading.local()


def for_runners(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a stage's function raise HeadraceErrors in a form that survives every runner, and wait for its turn."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _turn(), clear_errors():
                return function(*args, **kwargs)
        except HeadraceError as error:
            raise WireError(error) from error

    return wrapper


@contextmanager
def _turn() -> Iterator[None]:
    """Waits until fewer than the allowed number of tasks are at work, of which this thread's may be one."""
    tasks = _tasks()
    if tasks is None or getattr(_thread, "at_work", False):
        yield
        return
    with tasks:
        _thread.at_work = True
        try:
            yield
        finally:
            _thread.at_work = False


@functools.cache
def _tasks() -> threading.BoundedSemaphore | None:
    tasks = os.environ.get(TASKS_VARIABLE)
    return None if tasks is None else threading.BoundedSemaphore(int(tasks))
