"""Memory for batches that is used again once nobody holds the batch any more. No TensorFlow.

A batch of 64 float32 images of 224 x 224 is 38 MB, which the C library gives back to the system when it is freed:
9,400 page faults for the next one, as dear as the arithmetic that fills it.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 64  # bytes: TensorFlow copies arrays that are not aligned so, and shares the others
_MAX_BUFFERS = 16  # more than are under way; who holds on to more batches than that gets fresh memory


class Buffers:
    """Arrays of about the same size, one after the other. Any number of threads may use it."""

    def __init__(self) -> None:
        self._memory: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array in memory that nobody else holds; what is in it is left from earlier ones."""
        size = int(np.prod(shape)) * dtype.itemsize
        with self._lock:
            for memory in self._memory:
                # The list, this loop and the call hold it; so would an array in it, a tensor that shares that, …
                if memory.size >= size + _ALIGNMENT and sys.getrefcount(memory) == 3:
                    break
            else:
                memory = np.empty(size + _ALIGNMENT, np.uint8)
                if len(self._memory) < _MAX_BUFFERS:
                    self._memory.append(memory)
            offset = -memory.ctypes.data % _ALIGNMENT
            return memory[offset : offset + size].view(dtype).reshape(shape)
