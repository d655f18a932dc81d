"""Stages among runners: errors that survive them, how many tasks run at a time, and none when their job has ended."""

from __future__ import annotations

import functools
import inspect
import io
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

from beam_jobs.files import clear_errors
from beam_jobs.plan import JobPlan
from schemas import HeadraceError
from schemas.errors import WireError, error_in_text

P = ParamSpec("P")
R = TypeVar("R")

# How many tasks a worker process does at a time, whatever its runner hands it: what bounds its memory.
TASKS_VARIABLE = "HEADRACE_WORKER_TASKS"
_thread = threading.local()
_calls = threading.Condition()
_running: Counter[str] = Counter()  # stages at work in this process, by the attempt that they belong to
_ended: set[str] = set()


def for_runners(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a stage's function, which has a `plan`, raise errors in a form that survives every runner, in its turn."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        plan: JobPlan = signature.bind(*args, **kwargs).arguments["plan"]
        try:
            with (
                _turn(),
                _counted(plan.attempt),
                clear_errors(Path(str(plan.workspace.root)), reads_too=True),
            ):
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


_TRACEBACK = "Traceback (most recent call last)"


class WithoutKnownErrors(io.TextIOBase):
    """Standard error without the tracebacks that Beam prints of errors that reach the user in a better form.

    Attributes:
      stopped: whether the job was told to stop: from then on, no traceback is news.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._held_back = stream, False
        self.stopped = False

    def write(self, text: str) -> int:
        """Passes on what is no known error, nor the end of its line."""
        known = error_in_text(text) is not None or (self.stopped and _TRACEBACK in text)
        self._held_back = known or (self._held_back and text == "\n")
        return len(text) if self._held_back else self._stream.write(text)

    def flush(self) -> None:
        """Flushes the stream itself."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream itself is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's own."""
        return self._stream.fileno()
