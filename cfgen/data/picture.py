"""An item of a folder as an image that can be explained, whatever its format."""

from __future__ import annotations

import torch
from torch import Tensor

from cfgen.data import dicom, nifti
from cfgen.data.folder import Item
from cfgen.data.kinds import page_of
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
        keep_aspect: Pad with black, centred, to the aspect of `size` before resizing.
        limits: Ends of the window of medical files; None takes theirs.

    Returns:
        The image, and the window of a grey medical file.

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
    check_padded((x.shape[1], x.shape[2]), size, keep_aspect, item.max_pixels)
    x = resize(x, size, keep_aspect=keep_aspect).clamp(0, 1)
    x = x.expand(channels, -1, -1).contiguous()
    return Picture(x, None if plane.colour else plane.window)


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
        return nifti.read(item.path, item.index, item.axis, limits=limits, max_pixels=most)
    return dicom.read(
        item.path, item.index, limits=limits, annotated=not item.opaque, max_pixels=most
    )


def resize(x: Tensor, size: tuple[int, int] | None, *, keep_aspect: bool) -> Tensor:
    """How an image (C, h, w) comes to the size (H, W): the linear part of reading."""
    return fit(x, size, keep_aspect, mode="bilinear")
