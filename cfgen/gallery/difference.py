"""The signed difference of two images, painted over the first one."""

from __future__ import annotations

import torch
from torch import Tensor

DARKER = (61, 155, 255)
BRIGHTER = (255, 138, 31)
SMALLEST_LIMIT = 8 / 255


def difference_limit(x: Tensor, x_cf: Tensor) -> float:
    """Return the scale max |X' - x| of the channel means, at least 8/255: noise is not blown up.

    Args:
        x: Image (C, H, W) in [0, 1].
        x_cf: Image of the same shape.

    Returns:
        The scale, in (0, 1].

    Raises:
        ValueError: Wrong or different shapes.
    """
    return max(float(_signed(x, x_cf).abs().max()), SMALLEST_LIMIT)


def difference_overlay(x: Tensor, x_cf: Tensor, limit: float | None = None) -> tuple[Tensor, float]:
    """Blend grey x with blue where X' is darker and with orange where it is brighter.

    With d = mean_c X' - mean_c x the colour covers a share min(|d| / limit, 1) of the pixel, so an
    unchanged pixel keeps its grey. Blue and orange stay apart with every common colour blindness.
    A change of hue that leaves the mean of the channels alone is not seen.

    Args:
        x: Image (C, H, W) in [0, 1].
        x_cf: Image of the same shape.
        limit: Difference painted in full colour, in units of the image; None takes
            :func:`difference_limit`.

    Returns:
        The picture (3, H, W) uint8, and the limit used.

    Raises:
        ValueError: Wrong or different shapes, or a limit that is not positive.
    """
    difference = _signed(x, x_cf)
    if limit is None:
        limit = difference_limit(x, x_cf)
    if not limit > 0:
        raise ValueError(f"expected limit > 0, got {limit}")
    cover = (difference.abs() / limit).clamp(max=1)
    darker, brighter = (x.new_tensor(c).view(3, 1, 1) / 255 for c in (DARKER, BRIGHTER))
    colour = torch.where(difference < 0, darker, brighter)
    picture = torch.lerp(x.mean(0).expand(3, -1, -1), colour, cover.expand(3, -1, -1))
    return (picture.clamp(0, 1) * 255).round().byte(), limit


def _signed(x: Tensor, x_cf: Tensor) -> Tensor:
    """The difference of the channel means (H, W)."""
    if x.ndim != 3 or x.shape != x_cf.shape:
        raise ValueError(
            "expected two images of one shape (C, H, W), "
            f"got {tuple(x.shape)} and {tuple(x_cf.shape)}"
        )
    return x_cf.mean(0) - x.mean(0)
