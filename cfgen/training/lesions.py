"""Lesions taken out of slices and put into others, so that a class no longer stands for a place.

In the data a slice without lesion lies at the base or the vertex of the skull; a model that is
trained on it alone calls the middle of a brain "tumour" whatever it shows. Two kinds of made slices
break the tie: the slice with its lesion replaced by the mirrored other half of the brain, and the
slice with the lesion of another patient added. Decoys, slices with a healthy part replaced in the
same way, keep the traces of the making from telling the classes apart.

Reference: Zhang et al., CarveMix: A Simple Data Augmentation Method for Brain Lesion Segmentation,
2021, arXiv:2108.06883; Perez et al., Poisson Image Editing, 2003, doi:10.1145/1201775.882269.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BRAIN = 10 / 255  # darker pixels are background
RIM = 3  # pixels around a mask that go with it


class Slices(NamedTuple):
    """Images (N, 1, H, W) uint8, lesion masks (N, 1, H, W) uint8 of 0 or 255, labels (N,)."""

    images: Tensor
    masks: Tensor
    labels: Tensor


def grow(mask: Tensor, rim: int = RIM) -> Tensor:
    """Masks (B, 1, H, W) in {0, 1} dilated by ``rim`` pixels."""
    return F.max_pool2d(mask, 2 * rim + 1, 1, rim)


def harmonic(x: Tensor, mask: Tensor, rounds: int = 60) -> Tensor:
    """Fill masks (B, 1, H, W) in {0, 1} of images by the membrane through their rim, coarse first.

    Returns:
        Images (B, 1, H, W) that keep x outside the mask and have about no Laplacian inside.
    """
    known = 1 - mask
    if min(x.shape[-2:]) > 8:
        weight = F.avg_pool2d(known, 2)
        coarse = F.avg_pool2d(x * known, 2) / weight.clamp(min=1e-6)
        coarse = harmonic(coarse, (weight == 0).to(x), rounds)
        inside = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    else:
        total = known.sum((2, 3), keepdim=True).clamp(min=1)
        inside = ((x * known).sum((2, 3), keepdim=True) / total).expand_as(x)
    for _ in range(rounds):
        inside = F.avg_pool2d(F.pad(x * known + inside * mask, (1,) * 4, mode="replicate"), 3, 1)
    return x * known + inside * mask


def mirrored(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Images and masks (B, 1, H, W) mirrored on the line on which a brain is most symmetric."""
    small, small_mask = F.avg_pool2d(x, 4), F.max_pool2d(mask, 4)  # the search needs no detail
    best = torch.full((len(x),), torch.inf)
    theta = torch.zeros(len(x), 2, 3)
    for degrees in range(-12, 13, 3):
        for shift in range(-8, 9):
            a = torch.deg2rad(torch.tensor(float(degrees)))
            row = torch.stack([-a.cos(), -a.sin(), torch.tensor(shift / 64)])
            line = torch.stack([row, torch.stack([-a.sin(), a.cos(), torch.tensor(0.0)])])
            grid = F.affine_grid(line.expand(len(x), 2, 3), list(small.shape), align_corners=False)
            y, hidden = (F.grid_sample(t, grid, align_corners=False) for t in (small, small_mask))
            seen = (1 - small_mask) * (1 - hidden) * ((small > BRAIN) | (y > BRAIN))
            gap = (seen * (y - small).abs()).sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1)
            better = gap < best
            best[better], theta[better] = gap[better], line
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    y, hidden = (F.grid_sample(t, grid, align_corners=False) for t in (x, mask))
    return y, (hidden > 0.1).to(x)


def replace(x: Tensor, mask: Tensor, lesion: Tensor) -> Tensor:
    """Images (B, 1, H, W) with what lies under ``mask`` replaced by the other half of the brain.

    The mirrored half is moved in brightness by the membrane that closes the seam (Poisson editing);
    where it shows a ``lesion`` itself, the membrane alone is left.
    """
    y, ill = mirrored(x, grow(torch.maximum(mask, lesion)))
    guide = harmonic(y, ill)
    hole = grow(mask)
    return (guide + harmonic(x - guide, hole)).clamp(0, 1)


def donors(x: Tensor, lesions: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """For each image the one of ``draws`` random lesions that lies best inside its brain.

    Args:
        x: Images (B, 1, H, W).
        lesions: Masks (M, 1, H, W) in {0, 1}.
        draws: Lesions to choose from.
        generator: Source of the draws.

    Returns:
        Indices (B,) int64 into ``lesions``; -1 where none lies inside by 95 %.
    """
    # The brain without its outer rim, which is skull.
    brain = F.avg_pool2d((x > BRAIN).to(x), 9, 1, 4) > 0.95
    brain = 1 - grow((~brain).to(x), 4)
    index = torch.randint(len(lesions), (len(x), draws), generator=generator)
    inside = torch.stack([(brain * lesions[i]).sum((1, 2, 3)) for i in index.T], 1)
    share = inside / lesions.sum((1, 2, 3))[index].clamp(min=1)
    best = share.max(1)
    return torch.where(best.values > 0.95, index.gather(1, best.indices[:, None])[:, 0], -1)


@torch.no_grad()
def made(real: Slices, seed: int, draws: int = 24) -> Slices:
    """Slices with lesions taken out, lesions put in, and decoys of both classes.

    Args:
        real: Slices of one split, label 1 for a lesion.
        seed: Seed of what is drawn.
        draws: Lesions to choose from for each slice.

    Returns:
        About three made slices for two real ones.
    """
    generator = torch.Generator().manual_seed(seed)
    x, mask = real.images.float() / 255, (real.masks > 0).float()
    ill = real.labels == 1
    without = torch.cat([replace(a, b, b) for a, b in cut(x[ill], mask[ill])])
    lesion = x[ill] - without  # zero outside the grown mask
    parts = [(without, torch.zeros_like(without))]
    for hosts in (x[~ill], without):
        index = donors(hosts, mask[ill], draws, generator)
        hosts, index = hosts[index >= 0], index[index >= 0]
        # A lesion as bright for its host as for its patient.
        gain = brightness(hosts) / brightness(without[index])
        parts.append(((hosts + gain * lesion[index]).clamp(0, 1), mask[ill][index]))
    for hosts, own in ((x[~ill], mask[~ill]), (x[ill], mask[ill])):
        index = donors(hosts, mask[ill], draws, generator)
        hosts, own, index = hosts[index >= 0], own[index >= 0], index[index >= 0]
        # A decoy is not to touch the lesion.
        hole = mask[ill][index] * (1 - grow(own, 3 * RIM))
        parts.append((torch.cat([replace(*t) for t in cut(hosts, hole, own)]), own))
    images, masks = (torch.cat(t) for t in zip(*parts, strict=True))
    labels = masks.flatten(1).any(1).long()
    return Slices((images * 255).round().byte(), masks.byte() * 255, labels)


def cut(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors (N, ...) in parts of 64 rows."""
    return list(zip(*(t.split(64) for t in tensors), strict=True))


def brightness(x: Tensor) -> Tensor:
    """Mean of the brain of images (B, 1, H, W): (B, 1, 1, 1)."""
    brain = (x > BRAIN).to(x)
    return (x * brain).sum((1, 2, 3), keepdim=True) / brain.sum((1, 2, 3), keepdim=True)
