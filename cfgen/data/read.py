"""An image file as a tensor (C, H, W) in [0, 1], and its mask on the same grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfgen.data.decode import MAX_PIXELS, UnreadableImage, decode, file_bytes

LUMA = np.array([0.299, 0.587, 0.114])


def read_image(
    path: str | Path,
    *,
    channels: int,
    size: tuple[int, int] | None = None,
    keep_aspect: bool = True,
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

    Returns:
        float32 (C, H, W) in [0, 1].

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
        ValueError: channels or size is not possible.
    """
    if channels not in (1, 3):
        raise ValueError(f"expected channels of 1 or 3, got {channels}")
    pixels = decode(file_bytes(path))
    if pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1] * pixels[..., -1:]
    if channels < pixels.shape[-1]:
        # In float64, so that R = G = B gives that very float32 back.
        pixels = (pixels.astype(np.float64) @ LUMA).astype(np.float32)[..., None]
    image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))
    image = image.expand(channels, -1, -1).contiguous()
    return fit(image, size, keep_aspect, mode="bilinear", antialias=True).clamp(0, 1)


def read_mask(
    path: str | Path, size: tuple[int, int] | None = None, *, keep_aspect: bool = True
) -> Tensor:
    """Read a mask, True where a pixel is not black, padded and resized as `read_image` does.

    Args:
        path: The file.
        size: (H, W) in pixels; None keeps the size of the file.
        keep_aspect: As for the image.

    Returns:
        bool (H, W), resized to the nearest pixel.

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
        ValueError: size is not possible.
    """
    return fit_mask(read_image(path, channels=1)[0] > 0, size, keep_aspect=keep_aspect)


def fit_mask(mask: Tensor, size: tuple[int, int] | None, *, keep_aspect: bool) -> Tensor:
    """Pad and resize a mask (h, w) of bool to the size (H, W), to the nearest pixel."""
    one = mask[None].float()
    return fit(one, size, keep_aspect, mode="nearest-exact", antialias=False)[0] > 0


def fit(
    image: Tensor, size: tuple[int, int] | None, keep_aspect: bool, *, mode: str, antialias: bool
) -> Tensor:
    """Pad (C, h, w) with black to the aspect of ``size``, then resize to it: a linear map.

    Raises:
        UnreadableImage: The padded image would be too large.
        ValueError: size is not possible.
    """
    h, w = image.shape[-2:]
    if size is None:
        return image
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"expected a size (H, W) of at least (1, 1), got {size}")
    if keep_aspect:
        tall, wide = max(h, round(w * height / width)), max(w, round(h * width / height))
        if tall * wide > MAX_PIXELS:
            raise UnreadableImage(
                f"expected at most {MAX_PIXELS} pixels after padding, got {tall} x {wide}"
            )
        top, left = (tall - h) // 2, (wide - w) // 2
        image = F.pad(image, (left, wide - w - left, top, tall - h - top))
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image[None], size=(height, width), mode=mode, antialias=antialias)[0]
