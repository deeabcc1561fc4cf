"""Metrics of a counterfactual image beside its original: one function a metric, (B,) each."""

from __future__ import annotations

import kornia
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
