"""The last pass over a batch of images, in NumPy: mirrored where chance said so, normalised. No TensorFlow.

One pass instead of several, into memory that is used again. A batch of 64 float32 images of 224 x 224 is 38 MB, which
the C library gives back to the system when it is freed: 9,400 page faults for the next one, as dear as the arithmetic.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK_BYTES = 128 << 10  # 128 KiB: what is worked on at a time stays in the processor's caches
_ALIGNMENT = 64  # bytes: TensorFlow copies what is not aligned so
_MAX_BUFFERS = 16  # as many batches can be under way; who holds on to more gets fresh memory

Images = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Affine:
    """`image * scale - shift`, both float32 by channel."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]


class Finisher:
    """Finishes batches of images. Any number of threads may use it."""

    def __init__(self) -> None:
        self._memory: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def __call__(self, images: Images, mirror: Flags, upturn: Flags, affine: Affine | None) -> Images:
        """A copy of the batch, (n, height, width, channels): changed as asked, float32 if normalised.

        Args:
          images: any type, any shape behind the first four axes.
          mirror: bool (n,): these are mirrored left to right; none if empty.
          upturn: bool (n,): these are turned upside down; none if empty.
          affine: for the channels, or None to leave values and type as they are.
        """
        out = self._take(images.shape, np.dtype(np.float32) if affine else images.dtype)
        mirror, upturn = (flags if len(flags) else np.zeros(len(images), bool) for flags in (mirror, upturn))
        if affine is None:
            _turn(images, mirror, upturn, out)
            return out
        width, channels = images.shape[2:]
        # Broadcasting three channels is slow; a row of pixels is one vector.
        scale, shift = (np.tile(np.array(v, np.float32), width) for v in (affine.scale, affine.shift))
        step = max(1, _BLOCK_BYTES // max(1, images[:1].nbytes))
        for low in range(0, len(images), step):
            part = slice(low, low + step)
            block = images[part]
            if mirror[part].any() or upturn[part].any():
                turned = np.empty(block.shape, block.dtype)
                _turn(block, mirror[part], upturn[part], turned)
                block = turned
            rows = out[part].reshape(-1, width * channels)
            np.multiply(block.reshape(rows.shape), scale, out=rows, dtype=np.float32)
            np.subtract(rows, shift, out=rows)
        return out

    def _take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Images:
        """An array in memory that nobody else holds."""
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


def _turn(images: Images, mirror: Flags, upturn: Flags, out: Images) -> None:
    """`images` into `out`, mirrored and turned upside down where the flags say so."""
    for image, turned, left_right, up_down in zip(images, out, mirror.tolist(), upturn.tolist(), strict=True):
        source = image[::-1] if up_down else image
        if not left_right:
            turned[...] = source
            continue
        for channel in range(
            image.shape[-1]
        ):  # three long loops; all channels at once would be many short ones
            turned[..., channel] = source[:, ::-1, channel]
