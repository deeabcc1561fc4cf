"""The pair that does nothing."""

from __future__ import annotations

from torch import Tensor

from cfgen.generators.base import Generator


class Identity(Generator):
    """z = x: the latent space is the image space, and a counterfactual an adversarial image."""

    def __init__(self) -> None:
        """Nothing to set."""
        super().__init__()
        self.freeze()

    def encode(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W)."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Return z (B, C, H, W)."""
        return z
