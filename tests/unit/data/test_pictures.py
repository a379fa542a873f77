"""Pictures of known pixels become the stated ones, and no file does harm."""

import contextlib
import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from photographs import damaged
from PIL import Image

from barlow_atlas.data.errors import DataError
from barlow_atlas.data.pictures import BACKGROUND, MOST_PIXELS, stored
from barlow_atlas.data.reading import open_image

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
LOSSLESS = {"webp": {"lossless": True, "exact": True}}


def read(tmp_path: Path, image: Image.Image, ending: str = "png", **how: object) -> NDArray:
    """The stored pixels (size, size, 3) of a square picture, at its own size."""
    path = tmp_path / f"picture.{ending}"
    image.save(path, **how)  # type: ignore[arg-type]
    return stored(path, "picture", min(image.size)).transpose(1, 2, 0)


def quarters() -> Image.Image:
    """Red and green above blue and grey."""
    pixels = np.array([[RED, GREEN], [BLUE, GREY]], dtype=np.uint8)
    return Image.fromarray(pixels.repeat(16, 0).repeat(16, 1))


def corners(pixels: NDArray) -> list[tuple[int, ...]]:
    return [tuple(pixels[y, x].tolist()) for y in (4, -4) for x in (4, -4)]


# The picture that is stored, row by row, for each value of the tag (EXIF 2.32, 4.6.4 A).
UPRIGHT = {
    1: [RED, GREEN, BLUE, GREY],
    2: [GREEN, RED, GREY, BLUE],
    3: [GREY, BLUE, GREEN, RED],
    4: [BLUE, GREY, RED, GREEN],
    5: [RED, BLUE, GREEN, GREY],
    6: [BLUE, RED, GREY, GREEN],
    7: [GREY, GREEN, BLUE, RED],
    8: [GREEN, GREY, RED, BLUE],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
def test_pictures_are_turned_as_their_file_says(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = LOSSLESS.get(ending, {"quality": 100, "subsampling": 0} if ending == "jpg" else {})
    found = corners(read(tmp_path, quarters(), ending, exif=exif, **how))
    assert np.abs(np.array(found) - np.array(UPRIGHT[orientation])).max() <= 3


def test_an_orientation_of_no_meaning_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert corners(read(tmp_path, quarters(), exif=exif)) == UPRIGHT[1]


def test_damaged_notes_do_not_cost_a_whole_picture(tmp_path: Path) -> None:
    assert corners(read(tmp_path, quarters(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")) == UPRIGHT[1]


def cut_out(mode: str) -> Image.Image:
    """Noise, all of it transparent but for a square of one colour."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[4:12, 4:12] = (200, 200, 200, 255)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str, ending: str) -> None:
    found = read(tmp_path, cut_out(mode), ending, **LOSSLESS.get(ending, {}))
    expected = np.full((16, 16, 3), BACKGROUND)
    expected[4:12, 4:12] = 200
    assert_array_equal(found, expected)


def test_what_is_half_transparent_is_half_white(tmp_path: Path) -> None:
    found = read(tmp_path, Image.new("RGBA", (8, 8), (0, 100, 200, 51)))
    assert_array_equal(found[0, 0], [204, 224, 244])  # a fifth of the colour, the rest white


def test_transparent_pixels_do_not_bleed_when_resized(tmp_path: Path) -> None:
    cut_out("RGBA").resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    found = stored(tmp_path / "a.png", "a", 16)
    assert found.min() >= 195  # between the square's 200, and white


@pytest.mark.parametrize("kind", ["palette", "one colour", "grey", "gif"])
def test_transparency_of_other_kinds_is_white_too(tmp_path: Path, kind: str) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 8, 4))
    if kind == "palette":
        found = read(tmp_path, image, transparency=bytes([255, 0]))
    elif kind == "gif":
        found = read(tmp_path, image, "gif", transparency=1)
    elif kind == "one colour":
        found = read(tmp_path, image.convert("RGB"), transparency=(40, 50, 60))
    else:
        grey = Image.new("L", (8, 8), 9)
        grey.paste(10, (0, 0, 8, 4))
        found = read(tmp_path, grey, transparency=9)
    assert_array_equal(found[:4], np.full((4, 8, 3), 10 if kind == "grey" else [10, 20, 30]))
    assert_array_equal(found[4:], np.full((4, 8, 3), 255))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (quarters().convert("P", palette=Image.Palette.ADAPTIVE), RED),
    ],
)
def test_modes_become_colours(
    tmp_path: Path, image: Image.Image, expected: tuple[int, ...]
) -> None:
    assert tuple(read(tmp_path, image)[0, 0].tolist()) == expected


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG file with the bytes of its unfiltered rows, each after a zero."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_of_sixteen_bits_of_a_colour_the_upper_eight_are_taken(tmp_path: Path) -> None:
    pixel = struct.pack(">HHH", 0x12FF, 0x8000, 0xFE01)
    (tmp_path / "deep.png").write_bytes(png(4, 4, 16, 2, (b"\0" + 4 * pixel) * 4))
    found = stored(tmp_path / "deep.png", "deep", 4)
    assert_array_equal(found[:, 0, 0], [0x12, 0x80, 0xFE])


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [
        *((np.uint16, ending) for ending in ("png", "tif", "pgm")),
        *((pixels, "tif") for pixels in (np.int32, np.float32)),
    ],
)
def test_deep_greys_are_refused(tmp_path: Path, pixels: type, ending: str) -> None:
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        read(tmp_path, Image.fromarray(np.full((8, 8), 3000, pixels)), ending)


@pytest.mark.parametrize("ending", ["webp", "png", "tif", "gif"])
def test_of_several_pictures_the_first_is_taken(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    how = LOSSLESS.get(ending, {})
    found = read(tmp_path, frames[0], ending, save_all=True, append_images=frames[1:], **how)
    assert tuple(found[0, 0].tolist()) == RED


@pytest.mark.parametrize("size", [(5000, 3), (3, 5000), (700, 1)])
def test_of_a_very_long_picture_the_middle_is_stored(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, RED)
    middle = (size[0] // 2 - 60, size[1] // 2 - 60, size[0] // 2 + 60, size[1] // 2 + 60)
    image.paste(BLUE, middle)
    image.save(tmp_path / "long.png")
    found = stored(tmp_path / "long.png", "long", 32)
    assert_array_equal(found, np.broadcast_to(np.array(BLUE)[:, None, None], (3, 32, 32)))


# Nothing but DataError, and no more memory than is stated


def jpeg(size: tuple[int, int], where: Path, **how: object) -> None:
    Image.new("L", size, 200).save(where, "JPEG", **how)  # type: ignore[arg-type]


def colour_by_colour(size: tuple[int, int]) -> bytes:
    """A baseline JPEG in three scans of one colour each."""
    buffer = io.BytesIO()
    Image.new("L", size, 200).save(buffer, "JPEG")
    grey, place, segments = buffer.getvalue(), 2, {}
    while (marker := grey[place : place + 2]) != b"\xff\xda":
        after = place + 2 + int.from_bytes(grey[place + 2 : place + 4], "big")
        segments[marker] = segments.get(marker, b"") + grey[place:after]
        place = after
    tables = segments[b"\xff\xdb"] + segments[b"\xff\xc4"]
    start, scan = segments[b"\xff\xc0"], grey[place + 10 : -2]
    colours = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    frame = start[:2] + (17).to_bytes(2, "big") + start[4:9] + b"\3" + colours
    scans = (b"\xff\xda\0\x08\1" + bytes((k,)) + b"\0\0\x3f\0" + scan for k in (1, 2, 3))
    return b"\xff\xd8" + tables + frame + b"".join(scans) + b"\xff\xd9"


def wide_webp(where: Path) -> None:
    """Two small pictures on a canvas of 16,384 x 16,384."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    frames[0].save(where, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    content = bytearray(where.read_bytes())
    content[24:30] = 2 * (16_383).to_bytes(3, "little")
    where.write_bytes(content)


def flat_png(width: int, height: int, where: Path) -> None:
    where.write_bytes(png(width, height, 8, 2, (b"\0" + bytes(3 * width)) * height))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "whole"),
    [
        (lambda p: jpeg((12_000, 11_000), p), True),  # 132 million pixels, decoded at a half
        # All of a progressive one is held, whatever is decoded of it.
        (lambda p: jpeg((12_000, 11_000), p, progressive=True), False),
        (lambda p: jpeg((8_000, 8_000), p, progressive=True), True),
        # Nor need one that is not progressive bring its colours together.
        (lambda p: p.write_bytes(colour_by_colour((12_000, 11_000))), False),
        (lambda p: p.write_bytes(colour_by_colour((8_000, 8_000))), True),
        (lambda p: jpeg((20_000, 16_000), p), False),
        (wide_webp, False),
        (lambda p: jpeg((65_000, 1), p), True),
        (lambda p: jpeg((1, 65_000), p), True),
        (lambda p: flat_png(1, 4_000_000, p), True),
        (lambda p: flat_png(8_000, 8_000, p), True),  # just below the limit
        (lambda p: flat_png(8_300, 8_300, p), False),
        (lambda p: p.write_bytes(png(100_000, 100_000, 8, 2, b"")), False),
        (lambda p: p.write_bytes(png(2**31 - 1, 2**31 - 1, 8, 2, b"")), False),
        (lambda p: p.write_bytes(b"P6 60000 60000 255\n"), False),
        (lambda p: p.write_bytes(b"GIF89a" + 4 * b"\xff" + bytes(60)), False),
        (lambda p: p.open("wb").truncate(2**33), False),  # a sparse file of 8 GiB
    ],
)
def test_memory_is_bounded_for_any_picture(
    tmp_path: Path, make: Callable[[Path], object], whole: bool
) -> None:
    """12 bytes for each of `MOST_PIXELS`, beside what Python and its libraries take."""
    path = tmp_path / "picture"
    make(path)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from barlow_atlas.data.errors import DataError\n"
        "from barlow_atlas.data.pictures import stored\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"most = used + 12 * {MOST_PIXELS} + 50_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "try: print(stored(Path(sys.argv[1]), 'picture', 64).shape)\n"
        "except DataError as error: print(error); sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == (0 if whole else 3), done.stdout + done.stderr
    assert "MemoryError" not in done.stdout


MAKERS: dict[str, dict[str, object]] = {
    "jpg": {"format": "JPEG"},
    "progressive": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "bmp": {"format": "BMP"},
    "ppm": {"format": "PPM"},
    "tif": {"format": "TIFF"},
    "lzw": {"format": "TIFF", "compression": "tiff_lzw"},
    "deflate": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    "webp": {"format": "WEBP"},
    "gif": {"format": "GIF"},
    "avif": {"format": "AVIF"},
    "dds": {"format": "DDS"},
    "jp2": {"format": "JPEG2000"},
    "tga": {"format": "TGA"},
    "ico": {"format": "ICO"},
    "icns": {"format": "ICNS"},
    "pcx": {"format": "PCX"},
    "sgi": {"format": "SGI"},
    "qoi": {"format": "QOI"},
}
REFUSED = ("avif", "dds", "jp2", "tga", "ico", "icns", "pcx", "sgi", "qoi")


def made(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    noted = {"exif": exif} if kind in ("jpg", "png", "tif", "webp") else {}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **MAKERS[kind], **noted)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("kind", MAKERS)
def test_no_damage_raises_anything_but_a_data_error(tmp_path: Path, kind: str) -> None:
    draw, content, path = random.Random(kind), made(kind), tmp_path / "picture.jpg"
    path.write_bytes(content)
    if kind in REFUSED:
        with pytest.raises(DataError, match="is not a readable image"):
            stored(path, "picture", 8)
    else:
        assert stored(path, "picture", 8).shape == (3, 8, 8)
    for _ in range(150):
        path.write_bytes(damaged(content, draw))
        for reads in (lambda: stored(path, "x", 8), lambda: open_image(path.read_bytes(), "x")):
            with contextlib.suppress(DataError):
                assert reads() is not None
