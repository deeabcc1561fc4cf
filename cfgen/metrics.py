"""Metrics of a counterfactual image beside its original: one function a metric, (B,) each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import kornia
import torch
from torch import Tensor


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of images (B, C, H, W) in [0, 1]: (B,), lower is closer."""
    return (x - y).abs().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (B, C, H, W) in [0, 1], in dB: (B,), higher is closer.

    inf for equal images.
    """
    return -10 * (x - y).square().flatten(1).mean(1).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of images (B, C, H, W) in [0, 1]: (B,), higher is closer.

    Window of 11 pixels.

    Reference: Wang et al., Image Quality Assessment: From Error Visibility to Structural
    Similarity, 2004, doi:10.1109/TIP.2003.819861.
    """
    return kornia.metrics.ssim(x, y, window_size=11).flatten(1).mean(1)


def spread(changes: Sequence[Tensor]) -> Tensor:
    """Mean angle between k >= 2 changes (B, ...) of the same images, in degrees.

    Of directions alpha, the angle in latent space; of X' - x, that of the difference maps.

    Returns:
        (B,) from 0, all the same, over 90, nothing in common, to 180; higher is more diverse. nan
        where a change is zero.
    """
    if len(changes) < 2:
        raise ValueError(f"expected two changes or more, got {len(changes)}")
    unit = [c.flatten(1) / c.flatten(1).norm(dim=1, keepdim=True) for c in changes]
    # acos of an inner product would lose the small angles to rounding.
    angles = [
        2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)) for a, b in combinations(unit, 2)
    ]
    return torch.stack(angles).mean(0).rad2deg()
