"""The signed difference of two images, painted over the first one."""

from __future__ import annotations

from math import cos, radians, sin

import torch
from torch import Tensor

# Oklab colours of one lightness and one chroma, on opposite sides of grey: equal differences are
# equal steps for the eye. Blue and orange stay apart with every common colour blindness.
LIGHTNESS, CHROMA = 0.7, 0.158
DARKER = (LIGHTNESS, CHROMA * cos(radians(250)), CHROMA * sin(radians(250)))
BRIGHTER = (LIGHTNESS, CHROMA * cos(radians(55)), CHROMA * sin(radians(55)))
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
    """Move grey x towards blue where X' is darker and towards orange where it is brighter.

    With d = mean_c X' - mean_c x a pixel goes the share min(|d| / limit, 1) of the straight way in
    Oklab from its own grey to the colour, so the eye sees |d| in equal steps and an unchanged pixel
    keeps its grey. A change of hue that leaves the mean of the channels alone is not seen.

    Args:
        x: Image (C, H, W) in [0, 1].
        x_cf: Image of the same shape.
        limit: Difference painted in full colour, in units of the image; None takes
            :func:`difference_limit`.

    Returns:
        The painted image, uint8 (3, H, W), and the limit.

    Raises:
        ValueError: Wrong or different shapes, or a limit that is not positive.

    Reference:
        Ottosson, A perceptual color space for image processing, 2020.
    """
    if limit is None:
        limit = difference_limit(x, x_cf)
    if not limit > 0:
        raise ValueError(f"expected limit > 0, got {limit}")
    d = _signed(x, x_cf).double()
    share = (d.abs() / limit).clamp(max=1)
    grey = x.double().mean(0)
    lightness = torch.where(grey > 0.04045, ((grey + 0.055) / 1.055) ** 2.4, grey / 12.92) ** (
        1 / 3
    )
    neutral = torch.stack([lightness, torch.zeros_like(grey), torch.zeros_like(grey)])
    ends = torch.tensor([DARKER, BRIGHTER], dtype=d.dtype, device=d.device)
    end = ends[(d > 0).long()].permute(2, 0, 1)
    rgb = oklab_to_srgb(neutral + share * (end - neutral))
    return (rgb * 255).round().byte(), limit


def oklab_to_srgb(lab: Tensor) -> Tensor:
    """Oklab (3, ...) as gamma-encoded sRGB (3, ...), clamped to [0, 1]."""
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = torch.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ]
    ).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def _signed(x: Tensor, x_cf: Tensor) -> Tensor:
    """The difference of the channel means (H, W)."""
    if x.ndim != 3 or x.shape != x_cf.shape:
        raise ValueError(
            "expected two images of one shape (C, H, W), "
            f"got {tuple(x.shape)} and {tuple(x_cf.shape)}"
        )
    return x_cf.mean(0) - x.mean(0)
