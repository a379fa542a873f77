"""Image files -> pixels: one rule each for turned, transparent, deep and extreme pictures."""

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from barlow_atlas.data.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "PPM", "TIFF", "WEBP", "GIF")
"""What is read, of files with several pictures the first."""
MOST_PIXELS = 1 << 26
"""Of a picture that is decoded whole: at most 12 bytes each are held while it is read, 800 MB. A
larger JPEG is decoded at a half, a quarter or an eighth of its size, unless it comes in several
scans, as progressive ones do: their whole is held whatever is decoded of them. Others are refused,
and above Pillow's own limit (178,956,970) all."""
MOST_BYTES = 1 << 29
"""Of a file."""
LONGEST = 16
"""Sides of a picture that is resized whole; of a longer one the middle is cut out first, so that
the resized picture has at most this many times the pixels that are stored."""
BACKGROUND = (255, 255, 255)
"""The colour below transparent pixels: white, as paper."""

_Pixels = TypeVar("_Pixels")
ORIENTATION = 0x0112
START_OF_SCAN = b"\xff\xda"
END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
"""Any of a JPEG but those that may stand within a scan."""
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def stored(path: Path, what: str, size: int) -> NDArray[np.uint8]:
    """A user's picture as it is stored, (3, size, size): upright, opaque, its middle square.

    The shorter side is resized to `size` (bicubic, antialiased), the longer one cropped. A picture
    is turned as its file says, and laid on `BACKGROUND` where it is transparent. Of 16-bit colours
    the upper 8 bits are taken; greys of more than 8 bits are refused, as their range is not told.

    Raises:
        DataError: as `decoded`.
    """
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            return decoded(file, what, length, size, lambda image: _square_pixels(image, size))
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}") from error


def decoded(
    file: IO[bytes], what: str, length: int, size: int, finish: Callable[[Image.Image], _Pixels]
) -> _Pixels:
    """What `finish` makes of a picture, which is stored at `size` pixels a side, or as it is (0).

    Raises:
        DataError: it is damaged, of no known format, too large, or a grey of more than 8 bits.
    """
    try:
        if length > MOST_BYTES:
            raise ValueError(f"a file of at most {MOST_BYTES:,} bytes is read")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised; the rest is no fault
            with Image.open(file, formats=FORMATS) as image:
                _fit(image, size, file)
                image.load()
                return finish(image)
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them do
        raise DataError(
            f"{what} is not a readable image ({length:,} bytes): {_said(error, file)}. Expected a "
            "whole JPEG, PNG, BMP, PPM, TIFF, WebP or GIF file of 8 bits a channel: replace or "
            "remove it."
        ) from error


def _said(error: Exception, file: IO[bytes]) -> str:
    if isinstance(error, UnidentifiedImageError):
        file.seek(0)
        return f"it begins with {file.read(12)!r}"
    if isinstance(error, Image.DecompressionBombError):
        return "it has more pixels than any picture is read with; make it smaller"
    return str(error) or type(error).__name__


def _fit(image: Image.Image, size: int, file: IO[bytes]) -> None:
    """Has a picture that is too large decoded smaller, if its format can, or raises ValueError."""
    if image.mode.startswith(("I", "F")):
        # Pillow would clip these values instead of scaling them.
        raise ValueError(f"its mode {image.mode!r} has more than 8 bits a channel")
    width, height = image.size
    pixels = width * height
    if pixels > MOST_PIXELS and size and not in_several_scans(image, _all_of(file)):
        shrink = next((n for n in (2, 4, 8) if pixels <= MOST_PIXELS * n * n), 8)
        image.draft(None, (width // shrink, height // shrink))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels are more than {MOST_PIXELS:,}, which such a {image.format} "
            "is not decoded with; make it smaller"
        )


def _all_of(file: IO[bytes]) -> bytes:
    """Its content; it is left standing where it stood."""
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return content


def in_several_scans(image: Image.Image, content: bytes) -> bool:
    """Whether a JPEG's first scan has not all of its colours, or not all of their bits.

    Its decoder then reads all of them, to the end of the file, before it makes the first pixel.
    """
    if not isinstance(image, JpegImageFile) or image.info.get("progressive"):
        return True
    scans = (inside for marker, inside in jpeg_segments(content) if marker == START_OF_SCAN)
    first = next(scans, b"\0")
    return first[0] < image.layers


def jpeg_segments(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The segments of a JPEG, marker and what is inside; last the empty `END`, if it is there.

    What lies between them, as codes do behind the head of a scan, is passed over.
    """
    place = 2
    while marker := _MARKER.search(content, place):
        if marker[0] == END:
            yield END, b""
            return
        first = marker.end() + 2
        place = marker.end() + max(int.from_bytes(content[marker.end() : first], "big"), 2)
        yield marker[0], content[first:place]


def _square_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return np.asarray(opaque(_square(upright(image).convert(mode), size))).transpose(2, 0, 1)


def opaque(image: Image.Image) -> Image.Image:
    """In RGB, laid on `BACKGROUND` where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    below = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """Turned as its file says."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # damaged notes beside a picture that is whole; Pillow raises many types
        return image
    return image.transpose(_TURNED[orientation]) if orientation in _TURNED else image


def _square(image: Image.Image, size: int) -> Image.Image:
    """The centre of an image whose shorter side was resized to `size` (bicubic, antialiased)."""
    width, height = image.size
    most = LONGEST * min(width, height)
    if max(width, height) > most:
        image = _centre(image, min(width, most), min(height, most))
        width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        # int() after the product, as torchvision's Resize does it.
        width, height = max(size, int(width * scale)), max(size, int(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _centre(image, size, size)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
