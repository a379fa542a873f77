"""Of which files the loader's decoder gives the right pixels, told by Pillow: no torch is loaded.

Torch takes more memory than all the rest of a preparation. Pillow and torchvision decode with the
same libraries, libjpeg-turbo and zlib, so a file that Pillow decodes is damaged for neither; where
they do differ, a file's own marks tell. What is not of these known forms is not said to be right.
"""

import re
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from barlow_atlas.data.pictures import END, START_OF_SCAN, in_several_scans, jpeg_segments

_FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")
"""Begin the frame of a JPEG of Huffman codes: baseline, extended, progressive (ITU-T T.81, B.1)."""
_SAMPLINGS = slice(10, None, 3)
"""Where the frame tells how often colours other than the first are sampled (T.81, B.2.2)."""
_ONCE = b"\x11"
_MARKERS = {
    *(*_FRAMES, START_OF_SCAN, END, b"\xff\xc4", b"\xff\xdb", b"\xff\xdd", b"\xff\xfe"),
    *(bytes((0xFF, application)) for application in range(0xE0, 0xF0)),
}
_ASIDE = rb"(?:[a-z][A-Za-z][A-Z][A-Za-z])*"
_CHUNKS = re.compile(rb"IHDR%b(?:PLTE%b)?(?:IDAT)+%bIEND" % (_ASIDE, _ASIDE, _ASIDE))
"""Names of a PNG's chunks, one after another; those of small first letters may be passed over."""
_PALETTE = 3
"""The type of colour of a PNG (W3C PNG, 11.2.1) whose pixels are places in a table."""
_CHANNELS = {0: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}
"""By the type of colour."""
_WHOLE = ((0, 0, 1, 1),)
_INTERLACED = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column and row of each pass, and the steps to the next ones (W3C PNG, 8.2)."""
LONGEST_SIDE = 1_000_000
"""Pixels, of which libpng reads no more in a PNG (PNG_USER_WIDTH_MAX)."""


def is_whole(image: Image.Image, content: bytes) -> bool:
    """Whether the loader decodes an opened JPEG, in grey or colour, to its end.

    An eighth of its grey values is asked for, of which all bytes must be decoded, but few blocks
    made pixels; of colours that are sampled in other ratios than common ones, all pixels. What
    comes behind the last line Pillow reads less strictly, so there must be nothing but the end.
    """
    segments = list(jpeg_segments(content))
    markers = [marker for marker, _ in segments]
    if not _MARKERS.issuperset(markers) or markers[-1] != END:
        return False
    behind = markers[markers.index(START_OF_SCAN) + 1 :]
    if behind != [END] and not in_several_scans(image, content):
        return False
    frames = [inside for marker, inside in segments if marker in _FRAMES]
    if not any(frame[_SAMPLINGS].strip(_ONCE) for frame in frames):
        image.draft("L", (1, 1))
    try:
        image.load()
    except OSError:
        return False
    return True


def is_plain(image: Image.Image, content: bytes, shown: Image.Image) -> bool:
    """Whether the loader decodes a PNG, loaded as `image`, to the pixels `shown`.

    It drops transparency and turns nothing. Libpng is stricter than Pillow with checksums, with the
    order and names of chunks and with lines that are not there, at which torchvision's decoder may
    end the process; and of 16 bits it gives all.
    """
    chunks = list(_chunks(content))
    if not _CHUNKS.fullmatch(b"".join(name for name, _ in chunks)):
        return False
    inside = dict(chunks)
    depth, colour, _, _, interlaced = inside[b"IHDR"][8:]
    if depth > 8:
        return False
    palette = inside.get(b"PLTE", b"")
    if len(palette) % 3 or (colour == _PALETTE and np.asarray(image).max() * 3 >= len(palette)):
        return False
    try:
        lines = zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT"), wbits=0)
    except zlib.error:
        return False
    if len(lines) != _length(*image.size, depth * _CHANNELS[colour], bool(interlaced)):
        return False
    return np.array_equal(np.asarray(image.convert("RGB")), np.asarray(shown))


def _length(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the lines of a PNG of that many bits a pixel, each with its filter."""
    return sum(
        -(-(height - row) // down) * (1 + -(-columns * bits // 8))
        for column, row, right, down in (_INTERLACED if interlaced else _WHOLE)
        if (columns := -(-(width - column) // right))
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of the chunks of a PNG up to its end, or to one that is damaged."""
    place, name = 8, b""
    while name != b"IEND":
        first, last = place + 8, place + 8 + int.from_bytes(content[place : place + 4], "big")
        name, place = content[place + 4 : first], last + 4
        if content[last:place] != zlib.crc32(content[first - 4 : last]).to_bytes(4, "big"):
            return
        yield name, content[first:last]
