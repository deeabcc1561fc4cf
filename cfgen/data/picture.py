"""An item of a folder as an image that can be explained, whatever its format."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cfgen.data import dicom, nifti
from cfgen.data.folder import Item
from cfgen.data.grid import squared
from cfgen.data.kinds import page_of
from cfgen.data.raster import check_pixels
from cfgen.data.read import LUMA, check_padded, fit, read_image
from cfgen.data.window import Picture, Plane


def read_picture(
    item: Item,
    *,
    channels: int,
    size: tuple[int, int] | None = None,
    keep_aspect: bool = True,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Read the image of an item.

    Args:
        item: What to read.
        channels: C, 1 for grey or 3 for RGB. A grey slice of a medical file fills all of them;
            a colour one goes to grey by its luma.
        size: (H, W) in pixels; None keeps the size of the file.
        keep_aspect: Make pixels square that a medical file says are not, and pad with black,
            centred, to the aspect of `size` before resizing.
        limits: Ends of the window of medical files; None takes theirs.

    Returns:
        The image, the window of a grey medical file and the grid of any.

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
    """
    if item.kind == "picture":
        x = read_image(
            item.path,
            channels=channels,
            size=size,
            keep_aspect=keep_aspect,
            page=page_of(item.path, item.index),
            max_pixels=item.max_pixels,
        )
        return Picture(x)
    plane = read_plane(item, limits=limits)
    shown = torch.from_numpy(plane.window.fraction(plane.values).clip(0, 1))
    x = to_channels(shown if plane.colour else shown[None], channels).float()
    h, w = plane.values.shape[-2:]
    shape = squared((h, w), plane.grid.aspect) if keep_aspect and size is not None else (h, w)
    check_pixels(shape, item.max_pixels)
    check_padded(shape, size, keep_aspect, item.max_pixels)
    x = resize(x, size, keep_aspect=keep_aspect, aspect=plane.grid.aspect).clamp(0, 1)
    x = x.expand(channels, -1, -1).contiguous()
    grid = plane.grid.resized((h, w), size, keep_aspect=keep_aspect)
    return Picture(x, None if plane.colour else plane.window, grid)


def to_channels(x: Tensor, channels: int) -> Tensor:
    """Colours (3, h, w) to grey (1, h, w) where one channel is wanted, by their luma: linear."""
    if len(x) <= channels:
        return x
    return torch.einsum("c,chw->hw", torch.from_numpy(LUMA).to(x.dtype), x)[None]


def read_plane(item: Item, *, limits: tuple[float, float] | None = None) -> Plane:
    """The values of a slice of a medical file, and its window.

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
    """
    most = item.max_pixels
    if item.kind == "nifti":
        return nifti.read(
            item.path, item.index, item.axis, part=item.volume, limits=limits, max_pixels=most
        )
    return dicom.read(
        item.path, item.index, limits=limits, annotated=not item.opaque, max_pixels=most
    )


def resize(
    x: Tensor, size: tuple[int, int] | None, *, keep_aspect: bool, aspect: float = 1.0
) -> Tensor:
    """How an image (C, h, w) comes to the size (H, W): the linear part of reading."""
    if keep_aspect and size is not None:
        x = square(x, aspect, mode="bilinear")
    return fit(x, size, keep_aspect, mode="bilinear")


def square(x: Tensor, aspect: float, *, mode: str) -> Tensor:
    """An image (C, h, w) with square pixels, from pixels of an aspect: height over width."""
    shape = x.shape[1], x.shape[2]
    size = squared(shape, aspect)
    if size == shape:
        return x
    return F.interpolate(x[None], size=size, mode=mode, antialias=mode == "bilinear")[0]
