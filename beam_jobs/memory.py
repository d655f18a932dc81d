"""Keeping freed memory from piling up in processes with many short-lived threads."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Iterator

ARENAS_VARIABLE = "MALLOC_ARENA_MAX"
ARENAS = "2"
_M_ARENA_MAX = -8  # of glibc's malloc.h
_frozen = threading.Event()  # for as long as the process lives


def bound_memory() -> None:
    """Bounds the heaps of this process and of those it starts: glibc would give every new thread of Beam's its own."""
    os.environ.setdefault(ARENAS_VARIABLE, ARENAS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such function
        mallopt(_M_ARENA_MAX, int(ARENAS))


@contextlib.contextmanager
def imports_uncollected() -> Iterator[None]:
    """Imports that the collector of cyclic garbage leaves alone, now and for ever: they live as long as the process.

    It would go through all of Beam's, a tenth of a second each time, in the middle of a job.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        _frozen.set()
        gc.enable()


@contextlib.contextmanager
def objects_set_aside() -> Iterator[None]:
    """Lets the collector of cyclic garbage look at what is made from now on only.

    Imports leave 200,000 objects that stay. To look through all of them takes up to a tenth of a second, once in most
    jobs, in which no thread of Python's does anything else.
    """
    if _frozen.is_set():
        yield  # for good; gc.get_freeze_count() takes as long as the collector
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def give_back() -> None:
    """Returns freed memory to the system, before something large comes that would be put on top of it."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
