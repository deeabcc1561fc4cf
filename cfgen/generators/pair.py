"""Any encoder with any decoder."""

from __future__ import annotations

from torch import Tensor, nn

from cfgen.generators.base import Generator


class Pair(Generator):
    """E and G from two modules, for instance a GAN's generator with a trained encoder.

    Both modules are frozen and put in eval mode; they see images in [0, 1] and bring their own
    scaling.

    Args:
        encoder: maps images (B, C, H, W) in [0, 1] to latents (B, *L).
        decoder: maps latents (B, *L) to images (B, C, H, W).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        """Take the two modules and freeze them."""
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.freeze()

    def encode(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to latents (B, *L)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Map latents (B, *L) to images (B, C, H, W), not clamped."""
        return self.decoder(z)
