"""From the bytes of an image file to pixels in [0, 1]; whatever goes wrong is one exception."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cfgen.data.quiet import quiet

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MAX_PIXELS = 2**26  # 8192 x 8192, 256 MiB for each float channel

_NPY = b"\x93NUMPY"
_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (_PNG, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
_PLAIN = {"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_CONVERT = {"1": "L", "P": "RGBA", "PA": "RGBA", "La": "LA", "CMYK": "RGB", "YCbCr": "RGB"}
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
_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339  # TIFF tags


class UnreadableImage(ValueError):
    """A file is no image that can be read; the message is the reason, one line, without a path."""


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


def decode(data: bytes) -> np.ndarray:
    """Pixels of a PNG, JPEG, TIFF, BMP or NPY file, told apart by content, over their full scale.

    Integers are divided by the full scale of their container: 1 bit by 1, 8 bit by 255, 16 bit by
    65535 (also where only 12 of the bits are used; packed 12-bit TIFF by 4095). A 32-bit or signed
    integer TIFF counts as 16-bit data in a wider container. Floats must already lie in [0, 1].

    Args:
        data: The whole file.

    Returns:
        float32 (H, W, C) in [0, 1], upright (EXIF orientation applied); C is 1 for grey, 3 for RGB,
        one more with straight alpha.

    Raises:
        UnreadableImage: The file is empty, damaged, of another kind, animated or too large, or its
            pixels are not finite or off the scale.
    """
    if not data:
        raise UnreadableImage("file is empty")
    with quiet():  # Pillow and NumPy warn about metadata and size: what matters is checked below
        try:
            pixels, full = _npy(data) if data.startswith(_NPY) else _pillow(data)
        except UnreadableImage:
            raise
        except UnidentifiedImageError as error:
            raise UnreadableImage(_unidentified(data)) from error
        except Image.DecompressionBombError as error:
            raise UnreadableImage(f"expected at most {MAX_PIXELS} pixels, got more") from error
        except Exception as error:  # decoders answer damaged bytes with any type of exception
            raise UnreadableImage(_reason(error, data)) from error
        return _unit(pixels, full)


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


def _npy(data: bytes) -> tuple[np.ndarray, float]:
    """The array (H, W, C) of an NPY file and its full scale."""
    array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    shape, kind = array.shape, array.dtype.kind
    if array.ndim not in (2, 3):
        raise UnreadableImage(f"expected an array (H, W), (H, W, C) or (C, H, W), got {shape}")
    if 0 in shape:
        raise UnreadableImage(f"expected an image with pixels, got {' x '.join(map(str, shape))}")
    if kind not in "bf" and array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
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
    return array, 1.0 if kind in "bf" else float(np.iinfo(array.dtype).max)


def _pillow(data: bytes) -> tuple[np.ndarray, float]:
    """The pixels (H, W, C) that Pillow reads and their full scale."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO is a photo with its previews behind it
        raise UnreadableImage(f"expected a single image, got {frames} pages or frames")
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(
            f"expected at most {MAX_PIXELS} pixels, got {image.height} x {image.width}"
        )
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

    if deep:
        pixels = _deep(data, image, raw)
    else:
        image = ImageOps.exif_transpose(image)
        image = image.convert(_CONVERT[image.mode]) if image.mode in _CONVERT else image
        if image.mode not in _PLAIN:
            raise UnreadableImage(
                f"expected a grey, RGB, RGBA or palette image, got {image.mode} colours"
            )
        pixels = np.asarray(image)
    full = 65535.0 if deep or image.mode.startswith("I") else 255.0
    if image.mode == "F":
        full = 1.0
    elif image.mode == "I" and (pixels.min() < 0 or pixels.max() > full):
        raise UnreadableImage(
            f"expected integers in [0, 65535], got [{pixels.min()}, {pixels.max()}]"
        )
    elif raw == "I;12":
        full = 4095.0
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    key = image.info.get("transparency")
    if isinstance(key, (int, tuple)):  # one fully transparent colour: black
        key = np.multiply(key, _GREY_STEP.get(raw, 1))
        pixels = np.where((pixels == key).all(-1, keepdims=True), 0, pixels)
    if white_is_zero and image.mode in ("I;16", "F"):  # Pillow inverts 1 to 8 bit itself
        pixels = full - pixels
    return pixels, full


def _deep(data: bytes, image: Image.Image, raw: str) -> np.ndarray:
    """All 16 bits of a colour or grey-alpha image, (H, W, C)."""
    again = Image.open(io.BytesIO(data), formats=FORMATS)
    swapped = _LOW_BYTE.get(raw, "RGBA")
    again.tile = [
        t._replace(args=(swapped, *t.args[1:]) if isinstance(t.args, tuple) else swapped)
        for t in again.tile
    ]
    low = np.asarray(ImageOps.exif_transpose(again))
    if raw == _GREY_ALPHA:
        return low.view(">u2")
    high = np.asarray(ImageOps.exif_transpose(image))
    return high.astype(np.uint16) * 256 + low


def _unit(pixels: np.ndarray, full: float) -> np.ndarray:
    """The pixels over their full scale, float32, checked."""
    floating = pixels.dtype.kind == "f"
    if floating and not np.isfinite(pixels).all():
        found = "NaN" if np.isnan(pixels).any() else "inf"
        raise UnreadableImage(f"expected finite pixels, found {found}")
    values = pixels.astype(np.float32) / np.float32(full)
    if values.min() < 0 or values.max() > 1:
        raise UnreadableImage(
            f"expected float pixels in [0, 1], got [{pixels.min():g}, {pixels.max():g}]"
        )
    return values
