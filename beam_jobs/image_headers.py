"""What an image's header claims: true format, size, channels. Nothing is decoded, so nothing can be made to explode."""

from __future__ import annotations

import io
import struct
import threading
from typing import NamedTuple

from PIL import Image

from schemas.features import ImageFeature

_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_PROGRESSIVE = 0xC2
# Baseline, extended, progressive: the others (arithmetic, lossless, hierarchical) few decoders read.
_JPEG_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)
_JPEG_TABLES = (0xC4, 0xC8, 0xCC)
# Each scan of a progressive JPEG costs a pass over the whole image; encoders write about ten.
_MAX_SCANS = 100
_MAX_CHUNKS = 1 << 18
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_MODE_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "RGBX": 3, "RGBA": 4, "LA": 2, "PA": 4, "CMYK": 4}
_pillow_limit = threading.Lock()

Image.preinit()  # Pillow's own formats are modules: the first image, and all workers, would wait for them

# Those that can be told by their first bytes.
FORMATS = ("jpeg", "png", "gif", "webp", "tiff", "bmp")


class ImageProblemError(ValueError):
    """An image that cannot be used: a rule such as `truncated_image`, and the reason for people."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(rule, reason)
        self.rule = rule
        self.reason = reason


class Header(NamedTuple):
    """What an image claims to be.

    Attributes:
      format: the true format, by content.
      height, width: pixels as stored, whatever the EXIF orientation says.
      channels: as TensorFlow decodes it: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (or CMYK).
      depth: bits of a channel; more than 8 where the image holds more than uint8 can.
      palette: whether pixels are positions in a table of colours.
      cmyk: whether the channels are those of print.
      frames: 1, or 2 where there are several.
    """

    format: str
    height: int
    width: int
    channels: int
    depth: int = 8
    palette: bool = False
    cmyk: bool = False
    frames: int = 1


def true_format(data: bytes) -> str | None:
    """The format by its first bytes, or None."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return None


def read_header(data: bytes, kind: str) -> Header:
    """The header of an image of format `kind`; JPEG and PNG are also seen to have an end.

    Raises:
      ImageProblemError: the header is broken (`corrupt_image`) or the file ends early (`truncated_image`).
    """
    try:
        if kind == "jpeg":
            return _jpeg(data)
        if kind == "png":
            return _png(data)
        return _by_pillow(data, kind)
    except (IndexError, struct.error):
        raise ImageProblemError("truncated_image", f"the {kind} ends within its header") from None


def refuse_size(height: int, width: int, feature: ImageFeature) -> None:
    """See that an image is as large as `feature` asks for.

    Raises:
      ImageProblemError: too_small or wrong_size.
    """
    least = feature.min_size
    if least is not None and (height < least[0] or width < least[1]):
        raise ImageProblemError(
            "too_small", f"{height}×{width} pixels; min_size asks for {least[0]}×{least[1]}"
        )
    rows, columns, _ = feature.shape
    resized = feature.encode is not None and feature.encode.size is not None
    if not resized and (height != (rows or height) or width != (columns or width)):
        raise ImageProblemError(
            "wrong_size", f"{height}×{width} pixels; shape asks for {rows or 'any'}×{columns or 'any'}"
        )


def open_pillow(data: bytes, kind: str) -> Image.Image:
    """The image opened lazily by Pillow, as `kind` and nothing else; pixels are not decoded.

    Raises:
      ImageProblemError: Pillow cannot open it.
    """
    # Pillow's own limit would warn or raise below ours; it is a global, so others wait.
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=[kind.upper()])
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever hostile bytes lead them to
            raise ImageProblemError("corrupt_image", f"not a readable {kind}: {describe(error)}") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def describe(error: Exception) -> str:
    """The text of an exception, without the addresses of objects that would differ from run to run."""
    text = str(error)
    return type(error).__name__ if not text or " at 0x" in text else text


def _jpeg(data: bytes) -> Header:
    frame, scan = _jpeg_segments(data)
    # Within coded data 0xff is always followed by 0x00 or a restart marker: this is the end and nothing else.
    if data.rfind(b"\xff\xd9", scan) < 0:
        raise ImageProblemError("truncated_image", f"the JPEG has no end marker after {len(data)} bytes")
    process, _, depth, height, width, components = struct.unpack_from(">BHBHHB", data, frame + 1)
    if process not in _JPEG_FRAMES:
        what = f"JPEG coding process 0x{process:02x} (arithmetic, lossless or hierarchical) cannot be decoded"
        raise ImageProblemError("corrupt_image", what)
    if depth != 8:
        raise ImageProblemError("bit_depth", f"a JPEG of {depth} bits a channel; few decoders read it")
    if not height or not width or components not in (1, 3, 4):
        raise ImageProblemError(
            "corrupt_image", f"the JPEG claims {height}×{width} pixels of {components} components"
        )
    if process == _PROGRESSIVE and data.count(b"\xff\xda", scan) > _MAX_SCANS:
        raise ImageProblemError("corrupt_image", f"the JPEG has more than {_MAX_SCANS} scans")
    return Header("jpeg", height, width, components, cmyk=components == 4)


def _jpeg_segments(data: bytes) -> tuple[int, int]:
    """Where the frame header and the first scan begin."""
    at, frame = 2, 0
    while True:
        if data[at] != 0xFF:
            raise ImageProblemError("corrupt_image", f"no JPEG marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            break
        if marker == 0xD9:
            raise ImageProblemError("corrupt_image", "the JPEG ends before its first scan")
        if 0xC0 <= marker <= 0xCF and marker not in _JPEG_TABLES:
            frame = at
        at += 2 if marker == 0x01 or 0xD0 <= marker <= 0xD7 else 2 + max(data[at + 2] << 8 | data[at + 3], 2)
    if not frame:
        raise ImageProblemError("corrupt_image", "the JPEG has no frame header")
    return frame, at


def png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Type, start and length of the content of each chunk, IEND included.

    Raises:
      ImageProblemError: the file ends before IEND.
    """
    at, size = 8, len(data)
    chunks: list[tuple[bytes, int, int]] = []
    while at + 12 <= size and len(chunks) < _MAX_CHUNKS:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        chunks.append((kind, at + 8, length))
        at += 12 + length
        if kind == b"IEND" and at <= size:
            return chunks
    raise ImageProblemError("truncated_image", f"the PNG has no IEND chunk after {size} bytes")


def _png(data: bytes) -> Header:
    chunks = png_chunks(data)
    if chunks[0][0] != b"IHDR" or chunks[0][2] != 13:
        raise ImageProblemError("corrupt_image", "the PNG does not begin with an IHDR chunk")
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    if not height or not width or depth not in _PNG_DEPTHS.get(colour, ()) or interlace > 1:
        raise ImageProblemError(
            "corrupt_image", f"the PNG claims {height}×{width} pixels, colour type {colour}, {depth} bits"
        )
    kinds = {kind for kind, _, _ in chunks}
    channels = 4 if colour == 3 and b"tRNS" in kinds else _PNG_CHANNELS[colour]
    return Header(
        "png", height, width, channels, max(depth, 8), colour == 3, frames=2 if b"acTL" in kinds else 1
    )


def _by_pillow(data: bytes, kind: str) -> Header:
    image = open_pillow(data, kind)
    width, height = image.size
    if kind == "bmp":
        return Header("bmp", height, width, *_bmp_pixels(data, image.mode))
    try:
        frames = 2 if getattr(image, "is_animated", False) else 1
    except MemoryError:
        raise
    except Exception as error:
        raise ImageProblemError("corrupt_image", f"the {kind} is damaged: {describe(error)}") from None
    if kind == "gif":
        return Header("gif", height, width, 3, palette=True, frames=frames)
    depth = 8 if image.mode in _MODE_CHANNELS else 16
    channels = _MODE_CHANNELS.get(image.mode, 1)
    if image.mode == "P" and "transparency" in image.info:
        channels = 4
    return Header(kind, height, width, channels, depth, image.mode == "P", image.mode == "CMYK", frames)


def _bmp_pixels(data: bytes, mode: str) -> tuple[int, int, bool]:
    """Channels, depth and palette. TensorFlow reads 8 bits as grey, palette or not, and no other small depth."""
    bits = int.from_bytes(data[28:30] if data[14] != 12 else data[24:26], "little")
    if bits == 8 and mode == "L":
        return 1, 8, False
    return {24: 3, 32: 4}.get(bits, 3), 8, bits not in (24, 32)
