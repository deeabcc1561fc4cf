"""A random projection of LPIPS features: distances to many images by one matrix product."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cfgen.plausibility.lpips import LPIPS

WIDTH = 512


def sketch(lpips: LPIPS, x: Tensor, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Return s(x) with E ||s(a) - s(b)||^2 = LPIPS(a, b), the mean taken over the seeds.

    The standard deviation of the squared distance is at most sqrt(2 / width) of it.

    Args:
        lpips: the distance.
        x: images (B, C, H, W) in [0, 1].
        width: length of a sketch; more is more exact.
        seed: of the projection; the same on every device and machine.

    Returns:
        Sketches (B, width).

    Raises:
        ValueError: width is not positive, or x is no batch of images.

    Reference:
        Charikar, Chen, Farach-Colton (2002). Finding Frequent Items in Data Streams.
        Clarkson, Woodruff (2013). Low Rank Approximation and Regression in Input Sparsity Time.
        arXiv:1207.6365.
    """
    return project(lpips.features(x), width, seed)


def project(features: list[Tensor], width: int = WIDTH, seed: int = 0) -> Tensor:
    """Return the CountSketch (B, width) of the vectors of ``LPIPS.features``, [(B, D_k)]."""
    if width < 1:
        raise ValueError(f"expected a width of at least 1, got {width}")
    total = features[0].new_zeros(len(features[0]), width)
    for layer, phi in enumerate(features):
        place, sign = (t.to(phi.device) for t in _hash(phi.shape[1], width, seed, layer))
        total = total.scatter_add(1, place.expand_as(phi), phi * sign)
    return total


@lru_cache(maxsize=8)
def _hash(size: int, width: int, seed: int, layer: int) -> tuple[Tensor, Tensor]:
    """Where each of ``size`` numbers is added, in 0 ... width - 1, and with which sign."""
    # The raw stream of a bit generator is what NumPy promises never to change.
    raw = np.random.PCG64([seed, layer]).random_raw(size)
    place = (raw % np.uint64(width)).astype(np.int64)
    sign = np.where(raw >> np.uint64(63), np.int8(1), np.int8(-1))
    return torch.from_numpy(place), torch.from_numpy(sign)
