"""Checking images, and bringing them into the form that is stored. Pure functions: no Beam, no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, repeat
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_jobs.image_convert import encode_image
from beam_jobs.image_headers import Header, ImageProblemError, read_header, refuse_size, true_format
from beam_jobs.image_verify import verify
from schemas.errors import HeadraceError
from schemas.features import ImageFeature


class Checked(NamedTuple):
    """What became of an image.

    Attributes:
      stored: the bytes to store, the very object passed in where it is kept as it is; None where it is refused.
      problem: rule and reason where it is refused.
      height, width, channels: of the stored image as TensorFlow decodes it; 0 where it is refused.
    """

    stored: bytes | None
    problem: tuple[str, str] | None = None
    height: int = 0
    width: int = 0
    channels: int = 0


_MISSING = Checked(None, ("missing", "has no value"))


def check_image(data: bytes, feature: ImageFeature) -> Checked:
    """Whether an image is what `feature` asks for, and the bytes to store.

    Rules of refusal: unknown_format, format_not_allowed, truncated_image, corrupt_image, too_many_pixels, animated,
    cmyk, bit_depth, wrong_channels, too_small, wrong_size. With `encode`, cmyk, bit_depth and wrong_channels are
    converted instead. An image kept as it is keeps its EXIF orientation, which TensorFlow ignores.
    """
    try:
        header = _allowed_header(data, feature)
        if feature.encode is None:
            _refuse_pixels(header, feature)
            refuse_size(header.height, header.width, feature)
            if feature.check == "decode":
                verify(data, header)
            return Checked(data, None, header.height, header.width, feature.shape[2])
        if header.format == "png":
            # The decoder of the others is as strict; Pillow's for PNG checks no checksum.
            verify(data, header)
        stored, height, width = encode_image(data, header, feature)
    except ImageProblemError as problem:
        return Checked(None, (problem.rule, problem.reason))
    return Checked(stored, None, height, width, feature.shape[2])


def check_images(column: pa.Array, feature: ImageFeature) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """`check_image` over a column of encoded images.

    Args:
      column: binary or large_binary, n rows.
      feature: what they must be.

    Returns:
      The bytes to store, large_binary of n rows, null where refused (not copied where they are kept as they are); and
      row, rule and reason of each that is refused, a null among them as `missing`.

    Raises:
      HeadraceError: the column holds no bytes.
    """
    _check_column(column)
    column = column.cast(pa.large_binary())
    problems: list[tuple[int, str, str]] = []
    encoded: list[bytes | None] = []
    for row, data in enumerate(_values(column)):
        checked = check_image(data, feature) if data is not None else _MISSING
        if checked.problem:
            problems.append((row, *checked.problem))
        if feature.encode is not None:
            encoded.append(checked.stored)
    if feature.encode is not None:
        return pa.array(encoded, pa.large_binary()), problems
    return _without(column, [row for row, _, _ in problems]), problems


def _values(column: pa.Array) -> Iterator[bytes | None]:
    """The values one at a time, so that each can use the memory of the one before."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1].tolist()
    memory = memoryview(data) if data is not None else memoryview(b"")
    missing = column.is_null().to_pylist() if column.null_count else repeat(False)
    for (start, end), null in zip(pairwise(bounds), missing, strict=False):
        yield None if null else bytes(memory[start:end])


def _without(column: pa.Array, refused: list[int]) -> pa.Array:
    """The column with null in the refused rows: the same bytes, not copied."""
    if not refused:
        return column
    valid = np.ones(column.offset + len(column), dtype=np.uint8)
    valid[np.array(refused) + column.offset] = 0
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little"))
    _, offsets, data = column.buffers()
    return pa.Array.from_buffers(
        pa.large_binary(), len(column), [bitmap, offsets, data], offset=column.offset
    )


def _allowed_header(data: bytes, feature: ImageFeature) -> Header:
    kind = true_format(data)
    if kind is None:
        raise ImageProblemError("unknown_format", f"no image that is known begins with {data[:8]!r}")
    if kind not in feature.formats:
        raise ImageProblemError(
            "format_not_allowed",
            f"the content is {kind}, whatever the name says; formats allows {', '.join(feature.formats)}",
        )
    header = read_header(data, kind)
    pixels = header.height * header.width
    if pixels > feature.max_pixels:
        raise ImageProblemError(
            "too_many_pixels",
            f"claims {header.height}×{header.width} pixels; max_pixels allows {feature.max_pixels}",
        )
    if header.frames > 1:
        raise ImageProblemError(
            "animated", f"the {kind} holds several pictures; which one is meant is not known"
        )
    return header


def _refuse_pixels(header: Header, feature: ImageFeature) -> None:
    wanted = feature.shape[2]
    if header.cmyk:
        raise ImageProblemError("cmyk", "the colours are CMYK; add `encode` to convert them")
    if header.depth > 8:
        raise ImageProblemError(
            "bit_depth", f"{header.depth} bits a channel where 8 fit; add `encode` to convert them"
        )
    if header.palette and header.format == "bmp":
        raise ImageProblemError(
            "bit_depth", "TensorFlow reads no BMP with a palette; add `encode` to convert it"
        )
    # TensorFlow leaves out a palette's transparency where three channels are asked for.
    if header.channels != wanted and not (header.palette and header.channels == 4 and wanted == 3):
        raise ImageProblemError(
            "wrong_channels",
            f"has {header.channels} channels where shape has {wanted}; add `encode` to convert them",
        )


def _check_column(column: pa.Array) -> None:
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise HeadraceError(
            "An image feature needs a column of bytes.", value=str(column.type), allowed="binary"
        )
