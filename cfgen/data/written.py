"""Pictures that are written: 8 bit, and marked where they show nothing real."""

from __future__ import annotations

import errno

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

MARK = "synthetic counterfactual, not for diagnosis"
SYNTHETIC_PATIENT = "synthetic patient, not for diagnosis"
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room for what is written


def to_image(x: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], C of 1 or 3, as an 8-bit Pillow image."""
    array = (x * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def marked() -> PngInfo:
    """What a PNG of a counterfactual says of itself."""
    info = PngInfo()
    info.add_text("Comment", MARK)
    return info
