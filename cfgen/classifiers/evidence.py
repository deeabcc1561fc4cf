"""A classifier that says where it looks: evidence for each place, pooled into one logit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EvidenceNet(nn.Module):
    """Multiple-instance network: an image is positive as far as its most suspicious places are.

    The feature maps of a timm network give evidence e for each place, and the logit is
    a * log mean exp e + b. Evidence adds up but never cancels, so that nothing elsewhere makes up
    for a finding; in the log-odds only the place that carries a finding has a gradient to speak of.

    Args:
        name: Network of timm.
        levels: Its feature levels that are looked at, finest first.
        width: Channels of the layer that joins them.
        arguments: Of ``timm.create_model``.

    Reference: Pinheiro & Collobert, From Image-level to Pixel-level Labeling with Convolutional
    Networks, 2015, arXiv:1411.6228; Brendel & Bethge, Approximating CNNs with Bag-of-local-Features
    models, 2019, arXiv:1904.00760.
    """

    def __init__(
        self, name: str, levels: tuple[int, ...] = (2, 3), width: int = 64, **arguments: Any
    ) -> None:
        super().__init__()
        import timm

        self.features: Any = timm.create_model(
            name, pretrained=False, features_only=True, out_indices=tuple(levels), **arguments
        )
        channels = sum(self.features.feature_info.channels())
        self.join = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def evidence(self, x: Tensor) -> Tensor:
        """Evidence (B, 1, h, w) of normalised images (B, C, H, W), on the grid of the first level.

        It is the log-odds of a finding at a place where training supervised it so.
        """
        first, *rest = self.features(x)
        size = (first.shape[2], first.shape[3])
        rest = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in rest]
        return self.join(torch.cat([first, *rest], 1))

    def pool(self, evidence: Tensor) -> Tensor:
        """Logits (B, 1) of evidence (B, 1, h, w)."""
        flat = evidence.flatten(1)
        mean = flat.logsumexp(1, keepdim=True) - torch.tensor(float(flat.shape[1])).log()
        return self.scale * mean + self.bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1) of normalised images (B, C, H, W)."""
        return self.pool(self.evidence(x))
