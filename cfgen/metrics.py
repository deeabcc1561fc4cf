"""Metrics of a counterfactual image beside its original: one function a metric, (B,) each.

Images of half precision are measured in single precision; other than real numbers, images of
different shapes and, by SSIM, images that its window does not fit, are a ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import kornia
import torch
from torch import Tensor

SSIM_SIDE = 6
"""Shortest side that half a window of SSIM can be mirrored at."""


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of images (B, C, H, W) in [0, 1]: (B,), lower is closer."""
    x, y = _real(x, y)
    return (x - y).abs().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images (B, C, H, W) in [0, 1], in dB: (B,), higher is closer.

    inf for equal images.
    """
    x, y = _real(x, y)
    return -10 * (x - y).square().flatten(1).mean(1).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of images (B, C, H, W) in [0, 1]: (B,), higher is closer.

    Window of 11 pixels. 1 for equal images.

    Reference: Wang et al., Image Quality Assessment: From Error Visibility to Structural
    Similarity, 2004, doi:10.1109/TIP.2003.819861.
    """
    x, y = _real(x, y)
    if min(x.shape[-2:]) < SSIM_SIDE:
        raise ValueError(
            f"expected sides of at least {SSIM_SIDE} px, got {x.shape[-2]} x {x.shape[-1]}"
        )
    # The formula's constants keep it from 0 / 0; kornia's eps beside them would keep it from 1.
    return kornia.metrics.ssim(x, y, window_size=11, eps=0.0).flatten(1).mean(1)


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


def _real(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two images of one shape (B, C, H, W), in single precision at least."""
    if x.ndim != 4 or x.shape != y.shape:
        raise ValueError(
            "expected images of the same shape (B, C, H, W), "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if not (x.is_floating_point() and y.is_floating_point()):
        kinds = " and ".join(str(t.dtype).removeprefix("torch.") for t in (x, y))
        raise ValueError(f"expected images of floating point in [0, 1], got {kinds}")
    kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(kind), y.to(kind)
