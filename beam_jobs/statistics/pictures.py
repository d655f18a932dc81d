"""What is measured of encoded images: size by their headers, and how bright a few of them are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beam_jobs.image_headers import Header, ImageProblemError, open_pillow, read_header, true_format
from beam_jobs.statistics.canonical import Spans

SAMPLE = 8  # images of a block whose pixels are looked at
_SHRINK = 8  # a JPEG's blocks of 8 × 8 pixels become one
_MOST_PIXELS = 89_478_485  # of an image that is decoded


@dataclass(frozen=True)
class Pictures:
    """Some images.

    Attributes:
      formats: images by their true format.
      sizes: int64 (m, 3), height, width and channels of those with a readable header.
      brightness: float32 (k,), the mean of the pixels, 0 to 255, of at most `SAMPLE` of them, evenly spaced.
    """

    formats: dict[str, int]
    sizes: npt.NDArray[np.int64]
    brightness: npt.NDArray[np.float32]


def look_at(spans: Spans, decode: bool) -> Pictures:
    """What is measured of the images in spans; their brightness where they may be decoded."""
    formats: dict[str, int] = {}
    sizes, brightness = [], []
    step = -(-len(spans.sizes) // SAMPLE)
    for place, (start, size) in enumerate(zip(spans.starts.tolist(), spans.sizes.tolist(), strict=True)):
        data = spans.data[start : start + size].tobytes()
        kind = true_format(data) or "unknown"
        formats[kind] = formats.get(kind, 0) + 1
        try:
            header = read_header(data, kind)
        except ImageProblemError:
            continue
        sizes.append((header.height, header.width, header.channels))
        if decode and place % step == 0 and (mean := _brightness(data, header)) is not None:
            brightness.append(mean)
    return Pictures(formats, np.array(sizes, np.int64).reshape(-1, 3), np.array(brightness, np.float32))


def _brightness(data: bytes, header: Header) -> float | None:
    """The mean luma of an image, of a JPEG that of its blocks; None where it does not decode."""
    if header.height * header.width > _MOST_PIXELS:
        return None
    try:
        image = open_pillow(data, header.format)
        image.draft("L", (max(1, header.width // _SHRINK), max(1, header.height // _SHRINK)))
        pixels = np.asarray(image.convert("L"))
    except MemoryError:
        raise
    except Exception:  # decoders raise whatever hostile bytes lead them to
        return None
    return int(pixels.sum(dtype=np.int64)) / pixels.size
