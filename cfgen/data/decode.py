"""From the bytes of an image file to its pixels; whatever goes wrong is one exception."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from cfgen.data.pillow import count_pages, header, open_page, read_raster
from cfgen.data.quiet import quiet
from cfgen.data.raster import MAX_PIXELS, Raster, UnreadableImage, check_pixels, whole

_NPY = b"\x93NUMPY"
_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (_PNG, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
_ORIENTATION = 0x0112  # EXIF


def file_bytes(path: str | Path) -> bytes:
    """The whole file.

    Raises:
        UnreadableImage: It cannot be opened or read.
    """
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableImage("no such file") from error
    except OSError as error:
        raise UnreadableImage((error.strerror or type(error).__name__).lower()) from error
    except ValueError as error:  # a NUL in the name
        raise UnreadableImage("no such file") from error


def decode(data: bytes, page: int | None = None, max_pixels: int = MAX_PIXELS) -> Raster:
    """Pixels of a PNG, JPEG, TIFF, BMP or NPY file, told apart by content.

    The full scale of integers is that of their container: 1 for 1 bit, 255 for 8 bit, 65535 for
    16 bit (also where only 12 of the bits are used; packed 12-bit TIFF has 4095). A 32-bit or
    signed integer TIFF counts as 16-bit data in a wider container. That of floats is 1.

    Args:
        data: The whole file.
        page: Which page of a TIFF, from 0; None expects a single one.
        max_pixels: More are refused before they are decoded.

    Returns:
        The pixels, upright (EXIF orientation applied).

    Raises:
        UnreadableImage: The file is empty, damaged, of another kind, animated or too large, or its
            pixels are not finite.
    """
    with _refusing(data):
        if data.startswith(_NPY):
            return _npy(data, max_pixels)
        return read_raster(data, page, max_pixels)


def upright(data: bytes, page: int | None = None) -> tuple[tuple[int, int], int]:
    """The size (H, W) that an image is shown at, and the EXIF orientation of its pixels.

    Raises:
        UnreadableImage: The file cannot be opened.
    """
    with _refusing(data):
        if data.startswith(_NPY):
            return _npy(data, sys.maxsize).shape, 1
        image = open_page(data, page)
        turn = image.getexif().get(_ORIENTATION, 1)
        # Pillow gives the size of a TIFF as it is shown.
        turned = turn in (5, 6, 7, 8) and image.format != "TIFF"
        w, h = image.size[::-1] if turned else image.size
        return (h, w), turn


def pages(path: Path) -> int:
    """Number of pages of a TIFF; 1 of anything else, and of what cannot be read."""
    try:
        with quiet(), path.open("rb") as stream:
            return count_pages(header(stream, ("TIFF",)))[0]
    except Exception:  # damaged bytes are answered with any type of exception
        return 1


@contextmanager
def _refusing(data: bytes) -> Iterator[None]:
    """Whatever a decoder answers to these bytes becomes UnreadableImage."""
    if not data:
        raise UnreadableImage("file is empty")
    with quiet():  # Pillow and NumPy warn about metadata and size: what matters is checked
        try:
            yield
        except UnreadableImage:
            raise
        except UnidentifiedImageError as error:
            raise UnreadableImage(_unidentified(data)) from error
        except Exception as error:  # decoders answer damaged bytes with any type of exception
            raise UnreadableImage(_reason(error, data)) from error


def _unidentified(data: bytes) -> str:
    """Why Pillow knows no format for these bytes."""
    size = None
    if data.startswith(_PNG) and len(data) >= 24:
        size = struct.unpack(">II", data[16:24])
    elif data.startswith(b"BM") and len(data) >= 26:
        size = struct.unpack("<ii", data[18:26])
    if size and 0 in size:
        return f"expected an image with pixels, got {size[1]} x {size[0]}"
    if data.startswith(_SIGNATURES):
        return "header is truncated, damaged or of a kind that is not supported"
    return "not an image"


def _reason(error: Exception, data: bytes) -> str:
    """One line for what a decoder threw."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    if "truncated" in line.lower() or line.startswith("EOF: reading"):
        return "truncated"
    if data.startswith(_NPY) and not line.startswith("Object arrays"):
        return "damaged NPY header"  # NumPy quotes the whole header, or the parser's own objects
    return f"cannot be decoded: {line}"


def _npy(data: bytes, max_pixels: int) -> Raster:
    """The array of an NPY file."""
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    shape, kind = array.shape, array.dtype.kind
    if array.ndim not in (2, 3):
        raise UnreadableImage(f"expected an array (H, W), (H, W, C) or (C, H, W), got {shape}")
    if 0 in shape:
        raise UnreadableImage(f"expected an image with pixels, got {' x '.join(map(str, shape))}")
    if kind not in "buif":
        raise UnreadableImage(f"expected bool, uint8, uint16 or float pixels, got {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    else:
        last, first = shape[2] in (1, 3, 4), shape[0] in (1, 3)
        if not last and not first:
            raise UnreadableImage(
                f"expected 1, 3 or 4 channels last, or 1 or 3 channels first, got {shape}"
            )
        if last and first:
            raise UnreadableImage(f"expected (H, W, C) or (C, H, W), got {shape}, which is both")
        array = array if last else np.moveaxis(array, 0, -1)
    full = None
    if kind in "bf":
        full = 1.0
    elif array.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        full = float(np.iinfo(array.dtype).max)
    check_pixels(array.shape[:2], max_pixels)
    return whole(array, full)
