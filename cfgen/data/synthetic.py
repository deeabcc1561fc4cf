"""Synthetic patients: images drawn from a checkpoint's latent prior."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cfgen.data.folder import Item
from cfgen.generators import Generator
from cfgen.priors import Prior


@torch.no_grad()
def synthetic_patients(
    prior: Prior, generator: Generator, n: int, seed: int
) -> tuple[list[Item], dict[str, Tensor]]:
    """Draw n images, the classes by turns.

    Args:
        prior: Distribution of latents given the class.
        generator: G, which decodes them.
        n: How many.
        seed: Seed of the draw.

    Returns:
        One item an image, and the images (C, H, W) in [0, 1] by ``item.stem``.
    """
    labels = torch.arange(n) % len(prior.classes)
    images = generator.decode(prior.sample(labels, seed)).clamp(0, 1).cpu()
    items = [
        Item(file=f"{stem}.png", path=Path(f"{stem}.png"), stem=stem, label=label)
        for i, label in enumerate(prior.classes[k] for k in labels.tolist())
        for stem in [f"synthetic-{i:02d}-{label}"]
    ]
    return items, {item.stem: image for item, image in zip(items, images, strict=True)}
