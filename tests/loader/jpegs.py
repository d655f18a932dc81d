"""JPEGs of every kind, and kinds that libjpeg's usual encoders do not make."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

_CHANNELS = {"L": 1, "RGB": 3, "CMYK": 4}
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1")


def pixels(rng: np.random.Generator, height: int, width: int, mode: str = "RGB") -> np.ndarray:
    """Smooth, with some noise: (height, width, channels), as photos are."""
    channels = _CHANNELS[mode]
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, channels), dtype=np.uint8)
    planes = [
        Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC)
        for c in range(channels)
    ]
    smooth = np.stack([np.asarray(plane, np.int64) for plane in planes], axis=-1)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def encode(image: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    mode = {channels: mode for mode, channels in _CHANNELS.items()}[image.shape[-1]]
    plain = image[..., 0] if mode == "L" else image
    Image.frombytes(mode, (image.shape[1], image.shape[0]), plain.tobytes()).save(out, kind, **options)
    return out.getvalue()


def jpeg(
    rng: np.random.Generator, height: int, width: int, subsampling: str | None = "4:2:0", **options: Any
) -> bytes:
    """A JPEG of this size; gray without `subsampling`."""
    if subsampling is None:
        return encode(pixels(rng, height, width, "L"), **options)
    if subsampling == "4:4:0":
        # The blocks of 4:2:2, in another arrangement: those of the image turned by 90 degrees.
        return relabel(
            encode(pixels(rng, width, height), subsampling="4:2:2", **options), height, width, 0x12
        )
    if subsampling == "4:1:1":
        # The blocks of 4:2:0, side by side instead of two by two.
        tall = encode(pixels(rng, 2 * height, -(-width // 2)), subsampling="4:2:0", **options)
        return relabel(tall, height, width, 0x41)
    return encode(pixels(rng, height, width), subsampling=subsampling, **options)


def frame(data: bytes) -> int:
    """Where the header of the frame begins, which holds sizes and components."""
    return next(at for at, marker in segments(data) if marker in (0xC0, 0xC1, 0xC2))


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Begin and marker of each segment up to the first scan."""
    at = 2
    while data[at + 1] != 0xDA:
        yield at, data[at + 1]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def relabel(data: bytes, height: int, width: int, factors: int | None = None) -> bytes:
    """The same scan said to be of an image of another size, and of other sampling factors of its first component."""
    at, out = frame(data), bytearray(data)
    out[at + 5 : at + 9] = struct.pack(">HH", height, width)
    if factors is not None:
        out[at + 11] = factors
    return bytes(out)


def without(data: bytes, marker: int) -> bytes:
    """Without the segments of a kind, which before the first scan are tables."""
    kept, last = data[:2], 2
    for at, found in segments(data):
        last = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if found == marker else data[at:last]
    return kept + data[last:]
