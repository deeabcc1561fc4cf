"""An image file as a tensor (C, H, W) in [0, 1], and its mask on the same grid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfgen.data.decode import decode, file_bytes
from cfgen.data.raster import MAX_PIXELS, Raster, UnreadableImage

LUMA = np.array([0.299, 0.587, 0.114])
BLOCK = 2**18  # pixels that are floats at once before they are resized


def read_image(
    path: str | Path,
    *,
    channels: int,
    size: tuple[int, int] | None = None,
    keep_aspect: bool = True,
    page: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a PNG, JPEG, TIFF, BMP or NPY file; see `decode` for the scale of its pixels.

    Alpha is composited over black, palettes are expanded, EXIF orientation is applied. Colour goes
    to grey by the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B. An image that has the wanted
    size already comes through without any resampling, so 8-bit pixels are exactly k / 255.

    Args:
        path: The file. Its content counts, not its suffix.
        channels: C, 1 for grey or 3 for RGB.
        size: (H, W) in pixels; None keeps the size of the file.
        keep_aspect: Pad with black, centred, to the aspect of `size` before resizing; False
            stretches.
        page: Which page of a TIFF, from 0; None expects a single one.
        max_pixels: The file is refused if it has more, or would with its padding.

    Returns:
        float32 (C, H, W) in [0, 1].

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
        ValueError: channels or size is not possible.
    """
    if channels not in (1, 3):
        raise ValueError(f"expected channels of 1 or 3, got {channels}")
    raster = decode(file_bytes(path), page, max_pixels)
    raster.check_scale()
    tall, wide = check_padded(raster.shape, size, keep_aspect, max_pixels)
    # Block by block to the width that is wanted: the floats of a whole file may fill the memory.
    width = raster.shape[1] if size is None else size[1]
    # The result has its place first: small parts between large blocks keep the heap from shrinking.
    image, top = torch.empty(0), 0
    for block in _blocks(raster, channels):
        if not top:
            image = block.new_empty(len(block), raster.shape[0], width)
        image[:, top : top + block.shape[1]] = _along(block, 2, wide, width, "bilinear")
        top += block.shape[1]
    height = raster.shape[0] if size is None else size[0]
    image = _along(image, 1, tall, height, "bilinear").clamp_(0, 1)
    return image.expand(channels, -1, -1).contiguous()


def _blocks(raster: Raster, channels: int) -> Iterator[Tensor]:
    """The image (1 or C, n, w) from top to bottom, float32 over its full scale."""
    height, width = raster.shape
    step = max(1, BLOCK // width)
    for top in range(0, height, step):
        pixels = raster.rows(top, min(top + step, height)).astype(np.float32)
        pixels /= np.float32(raster.full)
        if pixels.shape[-1] in (2, 4):
            pixels = pixels[..., :-1] * pixels[..., -1:]
        if channels < pixels.shape[-1]:
            # In float64, so that R = G = B gives that very float32 back.
            pixels = (pixels.astype(np.float64) @ LUMA).astype(np.float32)[..., None]
        yield torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))


def read_mask(
    path: str | Path,
    size: tuple[int, int] | None = None,
    *,
    keep_aspect: bool = True,
    page: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Read a mask, True where a pixel is not black, padded and resized as `read_image` does.

    Values need no scale here: whole numbers of any type, below 0 too, are True where they are not
    0. In a JPEG, which does not keep black, a pixel must be brighter than half of the brightest.

    Args:
        path: The file.
        size: (H, W) in pixels; None keeps the size of the file.
        keep_aspect: As for the image.
        page: Which page of a TIFF, from 0; None expects a single one.
        max_pixels: The file is refused if it has more.

    Returns:
        bool (H, W), resized to the nearest pixel.

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
        ValueError: size is not possible.
    """
    raster = decode(file_bytes(path), page, max_pixels)
    pixels = raster.rows(0, raster.shape[0])
    if raster.lossy:
        brightest = pixels.max(-1)
        mask = brightest > brightest.max() / 2
    elif pixels.shape[-1] in (2, 4):
        mask = (pixels[..., :-1] != 0).any(-1) & (pixels[..., -1] != 0)
    else:
        mask = (pixels != 0).any(-1)
    return fit_mask(torch.from_numpy(mask), size, keep_aspect=keep_aspect)


def fit_mask(mask: Tensor, size: tuple[int, int] | None, *, keep_aspect: bool) -> Tensor:
    """Pad and resize a mask (h, w) of bool to the size (H, W), to the nearest pixel."""
    return fit(mask[None].byte(), size, keep_aspect, mode="nearest-exact")[0] > 0


def padded(
    shape: tuple[int, int], size: tuple[int, int] | None, keep_aspect: bool
) -> tuple[int, int]:
    """The size (h, w) of an image before it is resized: that of its padding too.

    Raises:
        ValueError: size is not possible.
    """
    h, w = shape
    if size is None:
        return shape
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"expected a size (H, W) of at least (1, 1), got {size}")
    if not keep_aspect:
        return shape
    return max(h, round(w * height / width)), max(w, round(h * width / height))


def check_padded(
    shape: tuple[int, int], size: tuple[int, int] | None, keep_aspect: bool, max_pixels: int
) -> tuple[int, int]:
    """Check and return the size (h, w) of an image with its padding.

    Raises:
        UnreadableImage: It has more than ``max_pixels``.
        ValueError: size is not possible.
    """
    tall, wide = padded(shape, size, keep_aspect)
    if (tall, wide) != shape and tall * wide > max_pixels:
        raise UnreadableImage(
            f"expected at most {max_pixels} pixels after padding (--max-pixels), "
            f"got {tall} x {wide}"
        )
    return tall, wide


def fit(image: Tensor, size: tuple[int, int] | None, keep_aspect: bool, *, mode: str) -> Tensor:
    """Pad (C, h, w) with black to the aspect of ``size``, then resize to it: a linear map.

    Raises:
        ValueError: size is not possible.
    """
    tall, wide = padded((image.shape[1], image.shape[2]), size, keep_aspect)
    if size is None:
        return image
    return _along(_along(image, 2, wide, size[1], mode), 1, tall, size[0], mode)


def _along(image: Tensor, axis: int, long: int, length: int, mode: str) -> Tensor:
    """Pad one axis of (C, h, w) with black to ``long`` pixels, then resize it to ``length``."""
    have = image.shape[axis]
    before = (long - have) // 2
    ends = (before, long - have - before)
    image = F.pad(image, ends if axis == 2 else (0, 0, *ends))
    if long == length:
        return image
    size = (image.shape[1], length) if axis == 2 else (length, image.shape[2])
    return F.interpolate(image[None], size=size, mode=mode, antialias=mode == "bilinear")[0]
