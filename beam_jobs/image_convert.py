"""Re-encoding an image: upright, in the channels and size asked for, the same bytes every time."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageOps

from beam_jobs.image_headers import Header, ImageProblemError, open_pillow, refuse_size
from beam_jobs.image_verify import decode_jpeg, undecodable
from schemas.errors import HeadraceError
from schemas.features import ImageFeature

_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def encode_image(data: bytes, header: Header, feature: ImageFeature) -> tuple[bytes, int, int]:
    """The image as `feature.encode` asks for, with its height and width.

    In this order: the first eight bits of deeper channels; EXIF orientation; CMYK and palettes to RGB; alpha over
    white where no alpha is asked for; grey by ITU-R 601; resizing by antialiased bicubic; encoding without metadata
    (JPEG with 4:2:0 chroma, PNG at zlib level 6).

    Raises:
      ImageProblemError: corrupt_image, truncated_image, bit_depth, too_small or wrong_size.
    """
    encode = feature.encode
    assert encode is not None
    try:
        image, exif = _pixels(data, header)
        turn = _TRANSPOSE.get(orientation(exif))
        if turn is not None:
            image = image.transpose(turn)
        refuse_size(image.height, image.width, feature)
        image = _resized(_with_channels(image, feature.shape[2]), encode.size, encode.resize)
        out = io.BytesIO()
        if encode.format == "jpeg":
            image.save(out, "JPEG", quality=encode.quality, subsampling=2, optimize=False, progressive=False)
        else:
            image.save(out, "PNG", compress_level=6, optimize=False)
    except (MemoryError, ImageProblemError, HeadraceError):
        raise
    except Exception as error:  # decoders raise whatever hostile bytes lead them to
        raise undecodable(header.format, error) from None
    return out.getvalue(), image.height, image.width


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it is broken."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * min(count, 1000), 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _pixels(data: bytes, header: Header) -> tuple[Image.Image, bytes]:
    """The decoded image, and its EXIF data or b""."""
    if header.format == "jpeg" and not header.cmyk:
        colours = "GRAY" if header.channels == 1 else "RGB"
        decoded = decode_jpeg(data, colours)
        start = data.find(b"Exif\0\0", 0, 1 << 16)
        image = Image.fromarray(decoded[:, :, 0] if header.channels == 1 else decoded)
        return image, data[start : start + (1 << 16)] if start >= 0 else b""
    image = open_pillow(data, header.format)
    image.load()
    # Pillow turns TIFFs upright itself.
    exif = b"" if header.format == "tiff" else image.info.get("exif", b"")
    if image.mode.startswith("I;16"):
        # convert("L") would clip at 255 instead.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)), exif
    if image.mode in ("I", "F"):
        raise ImageProblemError("bit_depth", f"pixels of mode {image.mode} have no scale that is known")
    return image, exif


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == _MODES[channels]:
        return image
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        image = image.convert("RGBA")
        if channels != 4:
            under = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(under, image)
    elif image.mode == "P":
        image = image.convert("RGB")
    return image.convert(_MODES[channels])


def _resized(image: Image.Image, size: tuple[int, int] | None, how: str) -> Image.Image:
    if size is None or (image.height, image.width) == size:
        return image
    target, method = (size[1], size[0]), Image.Resampling.BICUBIC
    if how == "crop":
        return ImageOps.fit(image, target, method)
    if how == "pad":
        return ImageOps.pad(image, target, method)
    return image.resize(target, method)
