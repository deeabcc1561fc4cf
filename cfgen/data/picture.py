"""An item of a folder as an image that can be explained, whatever its format."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cfgen.data import dicom, nifti
from cfgen.data.decode import UnreadableImage
from cfgen.data.folder import Item, kind_of
from cfgen.data.read import LUMA, fit, fit_mask, read_image, read_mask
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
        x = read_image(item.path, channels=channels, size=size, keep_aspect=keep_aspect)
        return Picture(x)
    plane = read_plane(item, limits=limits)
    shown = torch.from_numpy(plane.window.fraction(plane.values).clip(0, 1))
    x = to_channels(shown if plane.colour else shown[None], channels).float()
    x = resize(x, size, keep_aspect=keep_aspect).clamp(0, 1)
    x = x.expand(channels, -1, -1).contiguous()
    return Picture(x, None if plane.colour else plane.window)


def to_channels(x: Tensor, channels: int) -> Tensor:
    """Colours (3, h, w) to grey (1, h, w) where one channel is wanted, by their luma: linear."""
    if len(x) <= channels:
        return x
    return torch.einsum("c,chw->hw", torch.from_numpy(LUMA).to(x.dtype), x)[None]


def read_item_mask(
    item: Item, size: tuple[int, int] | None = None, *, keep_aspect: bool = True
) -> Tensor | None:
    """Read the mask of an item: a picture, or the same slice or frame of a medical file.

    Args:
        item: Whose mask.
        size: (H, W) in pixels; None keeps the size of the file.
        keep_aspect: As for the image.

    Returns:
        bool (H, W), True where it is not 0; None where the item has no mask.

    Raises:
        UnreadableImage: The file cannot be read, or lies on another grid than its volume.
    """
    if item.mask is None:
        return None
    kind = kind_of(item.mask)
    if kind == "picture":
        return read_mask(item.mask, size, keep_aspect=keep_aspect)
    if kind == item.kind == "nifti":
        nifti.check_grid(item.mask, item.path)
    plane = read_plane(replace(item, path=item.mask, kind=kind))
    if plane.colour:
        raise UnreadableImage("expected a grey mask, got colours")
    return fit_mask(torch.from_numpy(plane.values != 0), size, keep_aspect=keep_aspect)


def read_plane(item: Item, *, limits: tuple[float, float] | None = None) -> Plane:
    """The values of a slice of a medical file, and its window.

    Raises:
        UnreadableImage: The file cannot be read; the message is the reason.
    """
    if item.kind == "nifti":
        return nifti.read(item.path, item.index, item.axis, limits=limits)
    return dicom.read(item.path, item.index, limits=limits, annotated=not item.opaque)


def resize(x: Tensor, size: tuple[int, int] | None, *, keep_aspect: bool) -> Tensor:
    """How an image (C, h, w) comes to the size (H, W): the linear part of reading."""
    return fit(x, size, keep_aspect, mode="bilinear")
