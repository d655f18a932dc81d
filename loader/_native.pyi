"""The native core (native.c). Arrays are C-contiguous; `None` stands for "not wanted". Spans are int64 (n, 3): the
number of a buffer, and where in it something begins and ends."""

from collections.abc import Sequence
from mmap import mmap
from typing import Any

import numpy.typing as npt

_Array = npt.NDArray[Any]

def read(ranges: _Array, into: mmap | None, /) -> tuple[bytes | mmap | None, int, int]:
    """The bytes of ranges of files, one behind the other; int64 (n, 3): descriptor, offset, length.

    Returns:
      The bytes, which are those of `into` if there is one, and n; or None, the first range that a file ends before,
      and how many bytes there are of it.
    """

def check(buffers: list[bytes | mmap], spans: _Array, status: _Array, /) -> None:
    """Which of the TFRecord frames at `spans` are sound (0), have a wrong length (1) or a wrong CRC (2): uint8 (n,)."""

def parse(
    buffers: list[bytes | mmap],
    spans: _Array,
    fields: list[tuple[bytes, int, int, list[_Array | None]]],
    /,
) -> tuple[int, int] | None:
    """Fixed-length features of the tf.train.Examples at `spans`, written into arrays.

    Args:
      buffers: any number of them.
      spans: of the records.
      fields: name, kind, number of values, arrays of each. Kinds: 0 int64, 1 float32, 2 the span of the only value of
        a bytes_list. One array holds all values, (n, length); else there
        is one, (n,), for each of them.

    Returns:
      None; or the first record that does not hold all fields so, and the number of the field (or of fields, where it
      is no tf.train.Example at all).
    """

def slices(buffers: list[bytes | mmap], spans: _Array, /) -> list[bytes]:
    """Copies of what lies at `spans`."""

def decode(
    buffers: list[bytes | mmap],
    spans: _Array,
    out: _Array,
    shape: tuple[int, int, int],
    part: int,
    area: Sequence[float],
    ratio: Sequence[float],
    seeds: _Array | None,
    mirror: _Array | None,
    upturn: _Array | None,
    scale: _Array | None,
    shift: _Array | None,
    status: _Array,
    /,
) -> None:
    """The JPEGs at `spans`: cut, resized, turned, normalised.

    Args:
      buffers: any number of them.
      spans: of the JPEGs, n of them.
      out: (n, *shape), uint8; float32 with `scale`.
      shape: height, width, and 1 or 3 channels of the results.
      part: of the stored image: 0 all of it, which has the size of the result, 1 all of it, resized, 2 a random crop,
        resized, 3 the middle, not resized, 4 the middle of the aspect ratio of the result, resized.
      area, ratio: of random crops: bounds of the share of the area and of width / height.
      seeds: int64 (n, 2), of random crops.
      mirror, upturn: bool (n,): those are mirrored, turned upside down.
      scale, shift: float32 (channels,): the result is value * scale - shift.
      status: uint8 (n,): 0 where done, 1 where it is left to TensorFlow's decoder.
    """

def gather(
    store: _Array,
    places: _Array,
    out: _Array,
    shape: tuple[int, int, int],
    mirror: _Array | None,
    upturn: _Array | None,
    scale: _Array | None,
    shift: _Array | None,
    /,
) -> None:
    """The images at `places`, int64 (n,), of a uint8 store (any, *shape) to `out`; see `decode` for the rest."""
