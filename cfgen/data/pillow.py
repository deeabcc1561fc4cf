"""What Pillow makes of a PNG, JPEG, TIFF or BMP file, and what it would lose of it."""

from __future__ import annotations

import io
import re
import sys
import threading
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from cfgen.data.raster import Raster, UnreadableImage, check_pixels, whole

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")

_PLAIN = {"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_CONVERT = {"1": "L", "P": "RGBA", "PA": "RGBA", "La": "LA", "CMYK": "RGB", "YCbCr": "RGB"}
_BYTES = ("L", "LA", "RGB", "RGBA")
_GREY_STEP = {"L;2": 85, "L;4": 17}  # Pillow widens these pixels to 8 bit, but not their tRNS key

# Pillow keeps the high byte of 16-bit colour. The same bytes read in the other order give the low
# byte; grey with alpha is four bytes a pixel, so it comes through whole as 8-bit RGBA.
_NATIVE_SWAPPED = "B" if sys.byteorder == "little" else "L"
_LOW_BYTE = {
    f"{bands};16{order}": f"{bands};16{swapped}"
    for bands in ("RGB", "RGBX", "RGBA")
    for order, swapped in (("B", "L"), ("L", "B"), ("N", _NATIVE_SWAPPED))
}
_GREY_ALPHA = "LA;16B"
_BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 258, 259, 262, 270  # TIFF tags
_STRIPS, _STRIP_BYTES, _PLANAR, _SAMPLE_FORMAT = 273, 279, 284, 339
_OPENING = threading.Lock()


def header(stream: IO[bytes], formats: tuple[str, ...] = FORMATS) -> ImageFile.ImageFile:
    """What Pillow makes of a file: its header only."""
    # Pillow's limit is one for the whole process, and not the one that was asked for.
    with _OPENING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(stream, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def count_pages(image: ImageFile.ImageFile) -> tuple[int, int]:
    """How many pages a file has, and how many bytes lie between two that share a header, else 0.

    ImageJ and those who write as it does may put the slices of a stack behind each other, and
    describe the first one only.
    """
    many = getattr(image, "n_frames", 1)
    tags = getattr(image, "tag_v2", {})
    told = re.match(
        r"ImageJ=.*^images=(\d+)", str(tags.get(_DESCRIPTION)), re.DOTALL | re.MULTILINE
    )
    if not told or int(told[1]) <= many:
        return many, 0
    stride, start = sum(tags.get(_STRIP_BYTES, ())), min(tags.get(_STRIPS, (0,)))
    held = (image.fp.seek(0, 2) - start) // stride if image.fp and stride else 0
    if many > 1 or tags.get(_COMPRESSION) != 1 or int(told[1]) > held:
        raise UnreadableImage(f"expected {int(told[1])} pages, one for each slice, got {many}")
    return int(told[1]), stride


def open_page(data: bytes, page: int | None) -> ImageFile.ImageFile:
    """A page of an image file, not decoded yet."""
    image = header(io.BytesIO(data))
    many, stride = count_pages(image)
    if page is None or image.format != "TIFF":
        if many > 1 and image.format != "MPO":  # MPO is a photo with its previews behind it
            raise UnreadableImage(f"expected a single image, got {many} pages or frames")
        page = 0
    if page >= many:
        raise UnreadableImage(f"expected a page below {many}, got {page}")
    if stride:
        image.tile = [t._replace(offset=t.offset + page * stride) for t in image.tile]
        return image
    size = image.size
    image.seek(page)
    if image.size != size:
        raise UnreadableImage("expected pages of one size, got several")
    return image


def read_raster(data: bytes, page: int | None, max_pixels: int) -> Raster:
    """The pixels that Pillow reads."""
    image = open_page(data, page)
    check_pixels((image.height, image.width), max_pixels)
    args = image.tile[0].args if image.tile else image.mode
    raw = str(args[0] if isinstance(args, tuple) else args)
    tags = getattr(image, "tag_v2", {})
    white_is_zero = tags.get(_PHOTOMETRIC) == 0
    deep = raw in _LOW_BYTE or raw == _GREY_ALPHA
    if raw.startswith(("CMYK;16", "RGBa;16")):
        raise UnreadableImage(f"expected 16-bit pixels as grey, RGB or RGBA, got {raw[:4]}")
    if tags.get(_PLANAR) == 2 and 16 in tags.get(_BITS, ()) and image.mode in ("RGB", "RGBA"):
        raise UnreadableImage("expected 16-bit colour pixel by pixel, got separate planes")
    if 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)) and image.mode == "L":
        raise UnreadableImage("expected unsigned pixels, got signed 8 bit")
    lossy = image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg"
    if not deep:
        ImageOps.exif_transpose(image, in_place=True)
        image = image.convert(_CONVERT[image.mode]) if image.mode in _CONVERT else image
        if image.mode not in _PLAIN:
            raise UnreadableImage(
                f"expected a grey, RGB, RGBA or palette image, got {image.mode} colours"
            )
    key = image.info.get("transparency")
    key = np.multiply(key, _GREY_STEP.get(raw, 1)) if isinstance(key, (int, tuple)) else None

    def plain(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        if key is not None:  # one fully transparent colour: black
            pixels = np.where((pixels == key).all(-1, keepdims=True), 0, pixels)
        return pixels

    if image.mode in _BYTES and not deep:
        w, h = image.size

        def rows(top: int, bottom: int) -> np.ndarray:
            return plain(np.asarray(image.crop((0, top, w, bottom))))

        return Raster((h, w), rows, 255.0, lossy=lossy)
    full = 65535.0
    if image.mode == "F":
        full = 1.0
    elif raw == "I;12":
        full = 4095.0
    pixels = plain(_deep(data, page, image, raw) if deep else np.asarray(image))
    if white_is_zero and image.mode in ("I;16", "F"):  # Pillow inverts 1 to 8 bit itself
        pixels = full - pixels
    return whole(pixels, full)


def _deep(data: bytes, page: int | None, image: Image.Image, raw: str) -> np.ndarray:
    """All 16 bits of a colour or grey-alpha image, (H, W, C)."""
    again = open_page(data, page)
    swapped = _LOW_BYTE.get(raw, "RGBA")
    again.tile = [
        t._replace(args=(swapped, *t.args[1:]) if isinstance(t.args, tuple) else swapped)
        for t in again.tile
    ]
    ImageOps.exif_transpose(again, in_place=True)
    low = np.asarray(again)
    if raw == _GREY_ALPHA:
        return low.view(">u2")
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image).astype(np.uint16) * 256 + low
