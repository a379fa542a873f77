"""What is said to be decoded by the loader is: it is asked here, of whole and damaged files."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from photographs import damaged, encoded, picture
from PIL import Image

from barlow_atlas.data import sharding
from barlow_atlas.data.decodable import is_whole
from barlow_atlas.data.errors import DataError
from barlow_atlas.data.loader import decode
from barlow_atlas.data.pictures import opaque

JPEGS = {
    "baseline": {},
    "whole colours": {"subsampling": 0},
    "progressive": {"progressive": True},
    "progressive, with restarts": {"progressive": True, "restart_marker_blocks": 2},
    "optimised": {"optimize": True},
    "with restarts": {"restart_marker_blocks": 2},
    "red, green, blue": {"keep_rgb": True},
}


def in_three_scans(size: tuple[int, int]) -> bytes:
    """A baseline JPEG with a scan for each colour, of three grey ones with the same tables."""
    greys = [encoded(picture(k, size, "L")) for k in (1, 2, 3)]
    frame, scan = (greys[0].index(marker) for marker in (b"\xff\xc0", b"\xff\xda"))
    height_and_width = greys[0][frame + 5 : frame + 9]
    colours = b"".join(bytes((k, 0x11, 0)) for k in (1, 2, 3))
    scans = (
        b"\xff\xda" + bytes((0, 8, 1, k, 0, 0, 63, 0)) + grey[grey.index(b"\xff\xda") + 10 : -2]
        for k, grey in enumerate(greys, 1)
    )
    return b"".join(
        (
            *(greys[0][:frame], b"\xff\xc0\0\x11\x08", height_and_width, b"\3", colours),
            *(greys[0][frame + 13 : scan], *scans, b"\xff\xd9"),
        )
    )


def jpeg(kind: str, size: tuple[int, int]) -> bytes:
    if kind == "three scans":
        return in_three_scans(size)
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    return encoded(picture(1, size, mode), **JPEGS.get(kind, {}))


def outcome(content: bytes) -> object:
    try:
        return sharding.checked(content, "x", turned=True)
    except DataError as error:
        return str(error)


def loaded(content: bytes) -> np.ndarray:
    """As the loader does."""
    return decode(torch.frombuffer(bytearray(content), dtype=torch.uint8)).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", [*JPEGS, "three scans", "grey", "cmyk"])
def test_an_eighth_of_the_pixels_tells_of_damage_what_all_of_them_do(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images are taken, stored as the same bytes, and refused in the same words."""
    draw = random.Random(kind)
    content = jpeg(kind, (30, 24))
    images = [content, *(damaged(content, draw) for _ in range(120))]
    by_an_eighth = [outcome(image) for image in images]
    assert any(isinstance(each, str) for each in by_an_eighth)
    for each in by_an_eighth:
        if isinstance(each, tuple):
            stored, *height_and_width = each
            assert [*loaded(stored).shape] == [*height_and_width, 3]
    monkeypatch.setattr(Image.Image, "draft", lambda *_: None)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
    assert by_an_eighth == [outcome(image) for image in images]


@pytest.mark.parametrize("kind", [*JPEGS, "three scans", "grey"])
def test_whole_jpegs_are_decoded_at_an_eighth_alone(kind: str) -> None:
    """Else the test above compares what is slow with itself."""
    content = jpeg(kind, (40, 24))
    with Image.open(io.BytesIO(content)) as image:
        assert is_whole(image, content)
        assert image.size == (5, 3)
    assert sharding.checked(content, kind, turned=True) == (content, 24, 40)


WHOLE = jpeg("baseline", (40, 30))
BEHIND = {
    "a length that leads behind the end": WHOLE[:-40] + b"\xff\xe0\xff\xff" + WHOLE[-36:],
    "a table that is cut": WHOLE[:-2] + b"\xff\xdb\0\3\0\xff\xd9",
}


@pytest.mark.parametrize("what", BEHIND)
def test_what_comes_behind_the_last_line_is_no_file_of_the_loader_s(what: str) -> None:
    """Pillow shows the picture all the same, so its pixels are stored."""
    with pytest.raises(RuntimeError):
        loaded(BEHIND[what])
    with Image.open(io.BytesIO(BEHIND[what])) as image:
        pixels = np.asarray(image)
    stored, *_ = sharding.checked(BEHIND[what], what, turned=True)
    np.testing.assert_array_equal(loaded(stored), pixels)


def test_other_common_ratios_of_colours_are_stored_as_they_are() -> None:
    """Such as whole colours told by 2 x 2 for all of them: all of their pixels are decoded."""
    content = bytearray(in_three_scans((40, 30)))
    first = content.index(b"\xff\xc0") + 11
    content[first : first + 7 : 3] = b"\x22\x22\x22"
    with Image.open(io.BytesIO(content)) as image:
        assert is_whole(image, bytes(content))
        assert image.size == (40, 30)
    assert loaded(bytes(content)).shape == (30, 40, 3)


def test_colours_in_odd_ratios_are_refused() -> None:
    """Three to two: their grey values can be decoded, and the loader wants colours."""
    content = encoded(picture(1), subsampling=0)
    ratios = content.index(b"\xff\xc0") + 11
    odd = bytearray(content)
    odd[ratios], odd[ratios + 3] = 0x31, 0x21
    with pytest.raises(DataError, match="is not a readable image"):
        sharding.checked(bytes(odd), "x", turned=True)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By type: grey, colours, places in a palette, and the first two with transparency."""
PASSES = {
    0: [(0, 0, 1, 1)],
    1: [
        *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
        *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
    ],
}


def lines(
    draw: random.Random, bits: int, size: tuple[int, int], interlaced: int
) -> Iterator[bytes]:
    """Random ones of a PNG, of all filters."""
    for x, y, right, down in PASSES[interlaced]:
        columns, rows = len(range(x, size[0], right)), len(range(y, size[1], down))
        for _ in range(rows if columns else 0):
            yield bytes([draw.randrange(5)]) + draw.randbytes((columns * bits + 7) // 8)


def png(
    colour: int,
    depth: int,
    interlaced: int = 0,
    *,
    size: tuple[int, int] = (13, 11),
    palette: bytes | None = None,
    before: tuple[tuple[bytes, bytes], ...] = (),
    short: int = 0,
    parts: int = 1,
) -> bytes:
    draw = random.Random(f"{colour} {depth} {interlaced}")
    raw = b"".join(lines(draw, depth * CHANNELS[colour], size, interlaced))
    data = zlib.compress(raw[: len(raw) - short])
    if palette is None and colour == 3:
        palette = draw.randbytes(3 << depth)
    each = -(-len(data) // parts)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)),
            *([chunk(b"PLTE", palette)] if palette else []),
            *(chunk(*one) for one in before),
            *(chunk(b"IDAT", data[i : i + each]) for i in range(0, len(data), each)),
            chunk(b"IEND", b""),
        )
    )


DEPTHS = {0: (1, 2, 4, 8), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(
    ("colour", "depth"), [(colour, depth) for colour in DEPTHS for depth in DEPTHS[colour]]
)
def test_every_form_of_png_is_stored_so_that_its_pixels_are_loaded(
    colour: int, depth: int, interlaced: int
) -> None:
    """Where that is as it lies in the file, it is."""
    for size in ((13, 11), (1, 1), (3, 40)):
        content = png(colour, depth, interlaced, size=size, parts=3)
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(opaque(image))
        stored, *height_and_width = sharding.checked(content, "x", turned=True)
        assert height_and_width == [size[1], size[0]]
        assert loaded(stored).dtype == np.uint8
        np.testing.assert_array_equal(loaded(stored), pixels)
        assert (stored == content) == (depth <= 8 and colour in (0, 2, 3))


OTHERWISE = {
    "places behind the palette": png(3, 8, palette=b"abc"),
    "a palette of broken colours": png(3, 2, palette=b"abc" * 4 + b"d"),
    "a line that is not there": png(0, 1, short=3),
    "a line that is not there, interlaced": png(3, 1, 1, short=3),
    "a name that is reserved": png(2, 8, before=((b"abcd", b""),)),
    "transparent": png(3, 8, before=((b"tRNS", bytes(256)),)),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_what_the_loader_does_not_decode_to_the_right_pixels_is_stored_otherwise(what: str) -> None:
    """Some of these end a process that asks torchvision's decoder."""
    content = OTHERWISE[what]
    stored, *_ = sharding.checked(content, what, turned=True)
    assert stored != content
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(opaque(image))
    np.testing.assert_array_equal(loaded(stored), pixels)


def test_a_side_that_libpng_does_not_read_is_refused() -> None:
    with pytest.raises(DataError, match="a side of at most 1,000,000 pixels is read"):
        sharding.checked(png(0, 1, size=(1_000_001, 1)), "x", turned=True)
