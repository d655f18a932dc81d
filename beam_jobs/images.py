"""Checking images, and bringing them into the form that is stored. Pure functions: no Beam, no TensorFlow."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_jobs.image_convert import encode_image
from beam_jobs.image_headers import (
    Header,
    ImageProblemError,
    describe,
    open_pillow,
    png_chunks,
    read_header,
    true_format,
)
from schemas.errors import HeadraceError
from schemas.features import ImageFeature

_INFLATE_BYTES = 1 << 20
# x start, y start, x step, y step of the seven passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


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
            _refuse_size(header.height, header.width, feature)
            if feature.check == "decode":
                verify(data, header)
            return Checked(data, None, header.height, header.width, feature.shape[2])
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


def verify(data: bytes, header: Header) -> None:
    """Decode an image to see that it can be; the cheapest way that finds what a full decode finds, and more.

    Raises:
      ImageProblemError: truncated_image or corrupt_image.
    """
    if header.format == "jpeg" and not header.cmyk and header.depth == 8:
        _verify_jpeg(data)
    elif header.format == "png":
        _verify_png(data, header)
    else:
        try:
            open_pillow(data, header.format).load()
        except (MemoryError, ImageProblemError):
            raise
        except Exception as error:
            rule = "truncated_image" if "truncated" in str(error) else "corrupt_image"
            raise ImageProblemError(
                rule, f"the {header.format} cannot be decoded: {describe(error)}"
            ) from None


def _verify_jpeg(data: bytes) -> None:
    """All coefficients of all channels are read, but only luma is transformed: as strict as RGB, 1.3 × as fast.

    libjpeg's warnings count, which Pillow cannot see: of flipped bits, one in seven is found instead of none.
    """
    try:
        simplejpeg().decode_jpeg(data, colorspace="GRAY")
    except ValueError as error:
        text = describe(error)
        rule = "truncated_image" if "Premature end of JPEG" in text else "corrupt_image"
        raise ImageProblemError(rule, f"the jpeg cannot be decoded: {text}") from None


def _verify_png(data: bytes, header: Header) -> None:
    """Checksums of the chunks and of the pixels, their number and their filters: what is left cannot fail.

    2.7 × as fast as decoding with Pillow, which checks none of the checksums, and in bounded memory.
    """
    parts = []
    for kind, start, length in png_chunks(data):
        # Lower case marks chunks that decoders may ignore.
        if kind[:1].isupper():
            stated = int.from_bytes(data[start + length : start + length + 4], "big")
            if zlib.crc32(memoryview(data)[start - 4 : start + length]) != stated:
                raise ImageProblemError(
                    "corrupt_image", f"the PNG's {kind.decode('latin-1')} chunk has a wrong CRC"
                )
        if kind == b"IDAT":
            parts.append(data[start : start + length])
    depth, colour, interlaced = data[24], data[25], data[28] == 1
    if colour == 3 and not any(kind == b"PLTE" for kind, _, _ in png_chunks(data)):
        raise ImageProblemError("corrupt_image", "the PNG has no palette")
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = _png_rows(header.width, header.height, bits, interlaced)
    _inflate(b"".join(parts), rows)


def _png_rows(width: int, height: int, bits: int, interlaced: bool) -> list[tuple[int, int]]:
    """Number and bytes of the rows of each pass, the filter byte included."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    rows = []
    for x, y, dx, dy in passes:
        columns, count = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and count > 0:
            rows.append((count, 1 + (columns * bits + 7) // 8))
    return rows


def _inflate(packed: bytes, rows: list[tuple[int, int]]) -> None:
    inflater = zlib.decompressobj()
    expected = sum(count * size for count, size in rows)
    ends = np.cumsum([count * size for count, size in rows])
    at = 0
    try:
        while not inflater.eof and at <= expected:
            piece = inflater.decompress(packed, _INFLATE_BYTES)
            packed = inflater.unconsumed_tail
            if not piece and not packed:
                break
            _check_filters(piece, at, rows, ends)
            at += len(piece)
    except zlib.error as error:
        raise ImageProblemError("corrupt_image", f"the PNG's pixels cannot be inflated: {error}") from None
    if at < expected:
        raise ImageProblemError("truncated_image", f"the PNG holds {at} of {expected} bytes of pixels")


def _check_filters(piece: bytes, at: int, rows: list[tuple[int, int]], ends: Any) -> None:
    view = np.frombuffer(piece, dtype=np.uint8)
    for (count, size), end in zip(rows, ends.tolist(), strict=True):
        begin = end - count * size
        low, high = max(begin, at), min(end, at + len(piece))
        if low < high:
            first = begin + -(-(low - begin) // size) * size
            if first < high and int(view[first - at : high - at : size].max()) > 4:
                raise ImageProblemError("corrupt_image", "the PNG names a row filter that does not exist")


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


def _refuse_size(height: int, width: int, feature: ImageFeature) -> None:
    least = feature.min_size
    if least is not None and (height < least[0] or width < least[1]):
        raise ImageProblemError(
            "too_small", f"{height}×{width} pixels; min_size asks for {least[0]}×{least[1]}"
        )
    rows, columns, _ = feature.shape
    if (rows is not None and height != rows) or (columns is not None and width != columns):
        raise ImageProblemError(
            "wrong_size", f"{height}×{width} pixels; shape asks for {rows or 'any'}×{columns or 'any'}"
        )


def _check_column(column: pa.Array) -> None:
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise HeadraceError(
            "An image feature needs a column of bytes.", value=str(column.type), allowed="binary"
        )


def simplejpeg() -> Any:
    """The JPEG decoder.

    Raises:
      HeadraceError: it is not installed.
    """
    try:
        return importlib.import_module("simplejpeg")
    except ImportError as error:
        raise HeadraceError("Checking JPEGs needs simplejpeg.", hint="pip install 'headrace[etl]'") from error
