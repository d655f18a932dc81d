from __future__ import annotations

import io
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_jobs.image_convert import orientation
from beam_jobs.image_headers import Header, read_header, true_format
from beam_jobs.images import Checked, check_image, check_images
from schemas.errors import HeadraceError
from schemas.features import STORED_FORMATS, ImageFeature

FORMATS = ["jpeg", "png", "gif", "bmp", "webp", "tiff"]


def feature(**fields: Any) -> ImageFeature:
    return ImageFeature(type="image", **fields)


ENCODE: dict[str, Any] = {"encode": {"format": "png"}, "formats": FORMATS}


def picture(mode: str = "RGB", width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    base = Image.fromarray(np.stack([x * 6 % 256, y * 8 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((x * 1000 + y).astype(np.uint16))
    return base if mode == "RGB" else base.convert(mode)


def packed(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind.upper(), **options)
    return out.getvalue()


def animation(kind: str) -> bytes:
    frames = [picture(), picture().rotate(180)]
    return packed(frames[0], kind, save_all=True, append_images=frames[1:])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def decoded(checked: Checked) -> Image.Image:
    assert checked.problem is None
    assert checked.stored is not None
    image = Image.open(io.BytesIO(checked.stored))
    image.load()
    assert (image.height, image.width) == (checked.height, checked.width)
    return image


def rule(data: bytes, **fields: Any) -> str | None:
    checked = check_image(data, feature(**fields))
    if checked.problem is None:
        return None
    assert checked.stored is None
    assert checked.problem[1]
    return checked.problem[0]


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize(
    ("kind", "mode", "options", "channels"),
    [
        ("jpeg", "RGB", {}, 3),
        ("jpeg", "L", {}, 1),
        ("jpeg", "RGB", {"progressive": True}, 3),
        ("jpeg", "RGB", {"keep_rgb": True}, 3),
        ("jpeg", "RGB", {"restart_marker_blocks": 2, "comment": b"\xff\xd9 no end"}, 3),
        ("png", "RGB", {}, 3),
        ("png", "RGBA", {}, 4),
        ("png", "L", {}, 1),
        ("png", "1", {}, 1),
        ("png", "P", {}, 3),
        ("bmp", "RGB", {}, 3),
        ("bmp", "RGBA", {}, 4),
    ],
)
def test_good_images_are_kept_as_they_are(
    kind: str, mode: str, options: dict[str, Any], channels: int, check: str
) -> None:
    data = packed(picture(mode), kind, **options)
    wanted = feature(formats=[kind], shape=(30, 40, channels), check=check, min_size=(30, 40))
    checked = check_image(data, wanted)
    assert checked.problem is None
    assert checked.stored is data
    assert checked[2:] == (30, 40, channels)


@pytest.mark.parametrize("kind", FORMATS)
def test_true_format_is_that_of_the_content(kind: str) -> None:
    data = packed(picture(), kind)
    assert true_format(data) == kind
    assert read_header(data, kind)[:4] == (kind, 30, 40, 3)


def test_formats_that_are_not_allowed() -> None:
    checked = check_image(packed(picture(), "png"), feature(formats=["jpeg"]))
    assert checked.problem == (
        "format_not_allowed",
        "the content is png, whatever the name says; formats allows jpeg",
    )


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"<html>", b"BM of no bitmap at all", b"RIFFxxxxWAVE", b"%PDF-1.7"]
)
def test_what_is_no_image(data: bytes) -> None:
    assert rule(data) == "unknown_format"


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("check", ["decode", "header"])
def test_every_truncation_is_refused(kind: str, check: str) -> None:
    data = packed(picture(), kind)
    for length in range(8, len(data)):
        found = rule(data[:length], check=check)
        assert found in ("truncated_image", "corrupt_image") or (found is None and length >= len(data) - 4), (
            length
        )


@pytest.mark.parametrize("kind", ["gif", "bmp", "webp", "tiff"])
def test_truncations_of_other_formats_are_refused(kind: str) -> None:
    data = packed(picture(width=200, height=200), kind)
    for length in (30, 60, len(data) // 2, len(data) - 100):
        assert rule(data[:length], **ENCODE) in ("truncated_image", "corrupt_image", "unknown_format"), length


def test_a_truncated_jpeg_with_its_end_marker_is_found_by_decoding() -> None:
    data = packed(picture(width=300, height=300), "jpeg")
    data = data[: len(data) // 2].rstrip(b"\xff") + b"\xff\xd9"
    assert rule(data) == "corrupt_image"
    assert rule(data, check="header") is None


def test_the_end_of_a_thumbnail_is_not_the_end() -> None:
    data = packed(picture(), "jpeg")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(data)) + data
    whole = data[:2] + thumbnail + data[2:]
    assert rule(whole) is None
    assert rule(whole[:-2], check="header") == "truncated_image"


def test_trailing_bytes_do_no_harm() -> None:
    for kind in ("jpeg", "png"):
        assert rule(packed(picture(), kind) + b"camera maker's notes" * 10) is None


def test_corrupt_pixels_of_a_jpeg_are_found_by_libjpegs_warnings() -> None:
    data = bytearray(packed(picture(width=300, height=300), "jpeg"))
    start = data.index(b"\xff\xda") + 20
    data[start : start + 40] = bytes(40)
    checked = check_image(bytes(data), feature())
    assert checked.problem is not None
    assert checked.problem[0] == "corrupt_image"
    assert "Corrupt JPEG data" in checked.problem[1]


def test_any_flipped_bit_of_a_png_is_found() -> None:
    data = packed(picture(), "png")
    for at in range(8, len(data)):
        flipped = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
        assert rule(flipped) is not None, at


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (b"\0" * 4 * 4, None),
        (b"\4" * 4 * 4, None),
        (b"\0" * 4 * 3 + b"\5" + b"\0" * 3, "corrupt_image"),
        (b"\0" * 4 * 3, "truncated_image"),
        (b"", "truncated_image"),
        (b"\0" * 4 * 4 + b"more than is claimed", None),
    ],
)
def test_pixels_of_a_png(pixels: bytes, expected: str | None) -> None:
    assert rule(png(3, 4, 8, 0, pixels), shape=(None, None, 1)) == expected


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 5), (8, 8), (17, 9), (300, 301)])
@pytest.mark.parametrize(("depth", "colour", "channels"), [(1, 0, 1), (8, 0, 1), (8, 2, 3), (8, 6, 4)])
def test_interlaced_pngs(size: tuple[int, int], depth: int, colour: int, channels: int) -> None:
    width, height = size
    pixels = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        pixels += (b"\0" + bytes((columns * depth * channels + 7) // 8)) * rows if columns else b""
    fields: dict[str, Any] = {"shape": (None, None, channels), "formats": ["png"]}
    assert rule(png(width, height, depth, colour, pixels, interlace=1), **fields) is None
    assert rule(png(width, height, depth, colour, pixels[:-1], interlace=1), **fields) == "truncated_image"
    assert decoded(Checked(png(width, height, depth, colour, pixels, interlace=1), None, height, width))


@pytest.mark.parametrize(
    ("data", "fields", "expected"),
    [
        (packed(picture("CMYK"), "jpeg"), {}, "cmyk"),
        (packed(picture("I;16"), "png"), {"shape": (None, None, 1)}, "bit_depth"),
        (png(2, 1, 16, 2, bytes(13)), {}, "bit_depth"),
        (packed(picture("L"), "jpeg"), {}, "wrong_channels"),
        (packed(picture("RGB"), "jpeg"), {"shape": (None, None, 1)}, "wrong_channels"),
        (packed(picture("RGBA"), "png"), {}, "wrong_channels"),
        (packed(picture("LA"), "png"), {"shape": (None, None, 1)}, "wrong_channels"),
        (packed(picture("P"), "png"), {"shape": (None, None, 1)}, "wrong_channels"),
        (packed(picture("P"), "png"), {"shape": (None, None, 4), "formats": ["png"]}, "wrong_channels"),
        (packed(picture("P"), "png", transparency=0), {"shape": (None, None, 4), "formats": ["png"]}, None),
        (packed(picture("P"), "png", transparency=0), {}, None),
        (packed(picture("P"), "bmp"), {"formats": ["bmp"]}, "bit_depth"),
        (packed(picture(), "jpeg"), {"min_size": (31, 40)}, "too_small"),
        (packed(picture(), "jpeg"), {"min_size": (30, 41)}, "too_small"),
        (packed(picture(), "jpeg"), {"shape": (30, 30, 3)}, "wrong_size"),
        (packed(picture(), "jpeg"), {"shape": (None, 30, 3)}, "wrong_size"),
        (packed(picture(), "jpeg"), {"max_pixels": 1199}, "too_many_pixels"),
        (animation("png"), {}, "animated"),
        (animation("gif"), ENCODE, "animated"),
        (packed(picture("L"), "bmp"), {"formats": ["bmp"]}, "wrong_channels"),
        (animation("webp"), ENCODE, "animated"),
        (animation("tiff"), ENCODE, "animated"),
    ],
)
def test_refusals(data: bytes, fields: dict[str, Any], expected: str | None) -> None:
    assert rule(data, **fields) == expected
    assert rule(data, check="header", **fields) == expected


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize(
    "bomb",
    [
        png(100_000, 100_000, 8, 2, b""),
        packed(picture(), "jpeg").replace(struct.pack(">HH", 30, 40), struct.pack(">HH", 65_000, 65_000)),
        packed(picture(), "gif").replace(struct.pack("<HH", 40, 30), struct.pack("<HH", 65_000, 65_000)),
        packed(picture(), "bmp").replace(struct.pack("<II", 40, 30), struct.pack("<II", 65_000, 65_000)),
    ],
)
def test_bombs_are_refused_by_their_claim(bomb: bytes, check: str) -> None:
    assert rule(bomb, check=check, **ENCODE) == "too_many_pixels"


def test_pixels_that_inflate_to_more_than_claimed_are_left_alone() -> None:
    # 1 GB of zeros in a megabyte: read only as far as the image goes.
    squeezer = zlib.compressobj(9)
    zeros = b"".join(squeezer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + squeezer.flush()
    header = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    assert rule(data, shape=(None, None, 1)) is None


def test_a_jpeg_of_endless_scans() -> None:
    data = packed(picture(), "jpeg", progressive=True)
    scans = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 200
    assert rule(data[:-2] + scans + data[-2:]) == "corrupt_image"


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA])
def test_jpegs_that_few_can_decode(marker: int) -> None:
    data = packed(picture(), "jpeg").replace(b"\xff\xc0\x00\x11\x08", bytes([0xFF, marker, 0, 0x11, 8]))
    assert rule(data) == rule(data, check="header") == "corrupt_image"


def test_pillows_own_limit_neither_warns_nor_stays_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert rule(packed(picture(), "gif"), **ENCODE) is None
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("target", "channels"), [("jpeg", 1), ("jpeg", 3), ("png", 1), ("png", 3), ("png", 4)]
)
def test_encoding_any_format(kind: str, channels: int, target: str) -> None:
    wanted = feature(formats=FORMATS, shape=(None, None, channels), encode={"format": target})
    checked = check_image(packed(picture(), kind), wanted)
    image = decoded(checked)
    assert image.format == target.upper()
    assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    assert checked.channels == channels
    assert check_image(packed(picture(), kind), wanted) == checked


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_encoding_any_mode(mode: str) -> None:
    source = picture(mode)
    data = packed(source, "tiff" if mode == "CMYK" else "png")
    image = decoded(check_image(data, feature(**ENCODE)))
    expected = (
        (np.asarray(source) >> 8).astype(np.uint8)[..., None] if mode == "I;16" else source.convert("RGB")
    )
    assert np.array_equal(np.asarray(image), np.broadcast_to(np.asarray(expected), (30, 40, 3)))


def test_cmyk_jpegs_become_rgb() -> None:
    image = decoded(check_image(packed(picture("CMYK"), "jpeg", quality=100), feature(**ENCODE)))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(picture())).mean() < 5


def test_what_is_transparent_turns_white_where_alpha_is_lost() -> None:
    data = packed(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "png")
    assert decoded(check_image(data, feature(**ENCODE))).getpixel((0, 0)) == (255, 255, 255)
    kept = decoded(check_image(data, feature(shape=(None, None, 4), **ENCODE)))
    assert kept.getpixel((0, 0)) == (0, 0, 0, 0)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_encoding_turns_images_upright(value: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = packed(picture(), kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    expected = picture()
    if value > 1:
        turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
        expected = expected.transpose(Image.Transpose(turns[value]))
    image = decoded(check_image(data, feature(**ENCODE)))
    assert image.size == expected.size
    difference = np.asarray(image).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < (20 if kind == "jpeg" else 1)
    assert not image.getexif()


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\x08\0\0\0"]
)
def test_broken_exif_is_no_orientation(exif: bytes) -> None:
    assert orientation(exif) == 1


@pytest.mark.parametrize(
    ("how", "corner", "middle"),
    [("stretch", (0, 0), None), ("crop", None, None), ("pad", (0, 0, 0), (200, 100, 50))],
)
def test_resizing(how: str, corner: object, middle: object) -> None:
    data = packed(Image.new("RGB", (40, 20), (200, 100, 50)), "png")
    wanted = feature(encode={"format": "png", "size": (30, 30), "resize": how}, shape=(None, None, 3))
    image = decoded(check_image(data, wanted))
    assert image.size == (30, 30)
    assert image.getpixel((15, 15)) == (200, 100, 50)
    assert image.getpixel((0, 0)) == ((0, 0, 0) if how == "pad" else (200, 100, 50))


def test_sizes_are_judged_before_resizing() -> None:
    data = packed(picture(), "png")
    encode = {"format": "png", "size": (64, 64)}
    assert rule(data, encode=encode, min_size=(31, 40)) == "too_small"
    assert rule(data, encode=encode, shape=(64, 64, 3)) is None
    assert rule(data, encode={"format": "png"}, shape=(64, 64, 3)) == "wrong_size"


def test_depths_without_a_scale_are_refused() -> None:
    data = packed(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "tiff")
    assert rule(data, **ENCODE) == "bit_depth"


def test_a_column_of_images() -> None:
    good, small = packed(picture(), "jpeg"), packed(picture(width=5, height=5), "jpeg")
    column = pa.array([good, b"no image", None, small, good], pa.large_binary())
    stored, problems = check_images(column, feature(min_size=(10, 10)))
    assert stored.to_pylist() == [good, None, None, None, good]
    assert [(row, rule) for row, rule, _ in problems] == [
        (1, "unknown_format"),
        (2, "missing"),
        (3, "too_small"),
    ]
    assert stored.type == pa.large_binary()
    stored.validate(full=True)
    stored, problems = check_images(column[1:], feature(min_size=(10, 10)))
    assert stored.to_pylist() == [None, None, None, good]
    assert [row for row, _, _ in problems] == [0, 1, 2]
    assert check_images(column[:0], feature())[0].to_pylist() == []
    assert check_images(pa.array([None, None], pa.binary()), feature())[0].to_pylist() == [None, None]


def test_a_column_of_good_images_is_not_copied() -> None:
    column = pa.array([packed(picture(), "jpeg")] * 3, pa.large_binary())
    stored, problems = check_images(column[1:], feature())
    assert problems == []
    assert stored.buffers()[2].address == column.buffers()[2].address
    encoded, problems = check_images(column, feature(**ENCODE))
    assert problems == []
    assert encoded.null_count == 0


def test_a_column_of_something_else() -> None:
    with pytest.raises(HeadraceError, match="needs a column of bytes"):
        check_images(pa.array(["x"]), feature())


def test_threads_get_the_same() -> None:
    data = [packed(picture(), kind) for kind in FORMATS] * 8
    column = pa.array(data, pa.large_binary())
    wanted = feature(formats=FORMATS, encode={"format": "jpeg", "size": (20, 20)})
    expected = check_images(column, wanted)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: check_images(column, wanted), range(8)))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([packed(picture(width=9, height=9), kind) for kind in FORMATS] + [animation("gif")]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_hostile_bytes_are_refused_and_never_raise(data: bytes, seed: int, encode: bool) -> None:
    chance = random.Random(seed)
    spoiled = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(spoiled))
        spoiled[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
    fields = {"encode": {"format": "png"}} if encode else {"encode": None, "formats": ["jpeg", "png", "bmp"]}
    checked = check_image(bytes(spoiled), feature(max_pixels=10_000, **({"formats": FORMATS} | fields)))
    assert (checked.stored is None) == (checked.problem is not None)


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
def test_what_is_kept_decodes_in_tensorflow_as_it_says(kind: str) -> None:
    import tensorflow as tf

    modes = {"jpeg": ["L", "RGB"], "png": ["1", "L", "P", "RGB", "RGBA"], "bmp": ["RGB", "RGBA"]}[kind]
    for mode in modes:
        for options in [{}, {"transparency": 0}] if mode == "P" else [{}]:
            data = packed(picture(mode), kind, **options)
            for channels in STORED_FORMATS[kind]:
                checked = check_image(data, feature(formats=[kind], shape=(None, None, channels)))
                if checked.stored is not None:
                    assert checked[2:] == tuple(tf.io.decode_image(data, channels=channels).shape)


def test_headers_are_plain_values() -> None:
    assert read_header(packed(picture("CMYK"), "jpeg"), "jpeg") == Header("jpeg", 30, 40, 4, cmyk=True)
