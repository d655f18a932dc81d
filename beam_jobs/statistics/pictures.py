"""What is measured of encoded images: true format and size by their headers, and how bright some of them are.

A job measures each as its record is made and notes it beside that (`beam_jobs.facts`), so that a record which is taken
over is not looked at again. What is measured depends on nothing but the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from beam_jobs.facts import Fact, Picture
from beam_jobs.image_headers import FORMATS, Header, ImageProblemError, open_pillow
from beam_jobs.statistics.canonical import Spans
from schemas.features import Feature, ImageFeature
from schemas.spec import JobSpec

_FACT = "picture:"
SAMPLE = 8  # the pixels of one image in so many are looked at
UNKNOWN = len(FORMATS)  # in place of a format
# `format` is a place in FORMATS; sizes are 0 where no header can be read; `brightness` is the mean of the pixels, 0 to
# 255, and no number where they were not looked at.
PICTURE = np.dtype(
    [("format", "u1"), ("channels", "u1"), ("height", "<u4"), ("width", "<u4"), ("brightness", "<f4")]
)
_TAIL = 64  # bytes of an image that choose
_SHRINK = 8  # a JPEG's blocks of 8 × 8 pixels become one
_MOST_PIXELS = 89_478_485  # of an image that is decoded

Pictures = npt.NDArray[np.void]


def picture_facts(spec: JobSpec, features: Mapping[str, Feature]) -> list[Fact]:
    """A fact for each image, if there are to be statistics."""
    return [
        Fact(_FACT + name, PICTURE, image=name, of_picture=partial(measure, decode=is_decoded(feature)))
        for name, feature in sorted(features.items())
        if spec.statistics and isinstance(feature, ImageFeature)
    ]


def pictures_of(rows: npt.NDArray[np.void]) -> dict[str, Pictures]:
    """What the facts `rows` hold of images, by feature: `PICTURE` (n,)."""
    return {name.removeprefix(_FACT): rows[name] for name in rows.dtype.names or () if name.startswith(_FACT)}


def is_decoded(feature: ImageFeature) -> bool:
    """Whether a job decodes the images anyway: one that does not should not begin to do so for its statistics."""
    return feature.check == "decode" or feature.encode is not None


def look_at(spans: Spans, decode: bool) -> Pictures:
    """What is measured of the images in spans, `PICTURE` (n,); their brightness where they may be decoded."""
    found = np.zeros(len(spans.sizes), PICTURE)
    for place, (start, size) in enumerate(zip(spans.starts.tolist(), spans.sizes.tolist(), strict=True)):
        found[place] = measure(Picture(spans.data[start : start + size].tobytes()), decode)
    return found


def measure(picture: Picture, decode: bool) -> tuple[Any, ...]:
    """What is measured of an image, a value of `PICTURE`."""
    if picture.format is None:
        return UNKNOWN, 0, 0, 0, np.nan
    kind = FORMATS.index(picture.format)
    try:
        header = picture.header
    except ImageProblemError:
        return kind, 0, 0, 0, np.nan
    chosen = decode and google_crc32c.value(picture.data[-_TAIL:]) % SAMPLE == 0
    brightness = _brightness(picture.data, header) if chosen else np.nan
    return kind, header.channels, header.height, header.width, brightness


def _brightness(data: bytes, header: Header) -> float:
    """The mean luma of an image, of a JPEG that of its blocks; no number where it does not decode."""
    if header.height * header.width > _MOST_PIXELS:
        return np.nan
    try:
        image = open_pillow(data, header.format)
        image.draft("L", (max(1, header.width // _SHRINK), max(1, header.height // _SHRINK)))
        pixels = np.asarray(image.convert("L"))
    except MemoryError:
        raise
    except Exception:  # decoders raise whatever hostile bytes lead them to
        return np.nan
    return int(pixels.sum(dtype=np.int64)) / pixels.size
