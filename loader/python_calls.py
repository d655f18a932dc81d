"""Python functions inside a tf.data graph, and an end of the process that does not wait for them.

A process that ends in the middle of an epoch still has reads under way in TensorFlow's threads. Once the interpreter
is being torn down, a thread that asks for it is ended by it, and TensorFlow, waiting for that thread, waits for ever
(seen with TensorFlow 2.21). So at exit no further function is begun, and those that run are waited for.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_QUIET_SECONDS = 0.05  # without a call: what was to come has come
_MOST_SECONDS = 5.0

_lock = threading.Lock()
_running = 0
_last = 0.0  # when a call last began or ended
_closing = False


def call(function: Callable[..., Any], inputs: Sequence[Any], types: Any, *, stateful: bool = True) -> Any:
    """`tf.numpy_function` of a function that the end of the process waits for."""

    def guarded(*values: Any) -> Any:
        global _running, _last  # noqa: PLW0603 (one count for all pipelines of the process)
        with _lock:
            _last = time.monotonic()
            if _closing:
                raise RuntimeError("The process is ending.")
            _running += 1
        try:
            return function(*values)
        finally:
            with _lock:
                _running -= 1
                _last = time.monotonic()

    return tf.numpy_function(guarded, inputs, types, stateful=stateful)


@atexit.register
def _finish() -> None:
    """Let calls come to an end: pipelines fill with errors then, and rest."""
    global _closing  # noqa: PLW0603
    _closing = True
    stop = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < stop:
        with _lock:
            if not _running and time.monotonic() - _last > _QUIET_SECONDS:
                return
        time.sleep(_QUIET_SECONDS / 5)
