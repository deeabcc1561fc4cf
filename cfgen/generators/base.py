"""The abstract encoder/generator pair."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Generator(nn.Module, ABC):
    """An encoder/generator pair: ``encode`` is E, ``decode`` is G.

    A generator is frozen and in eval mode, and both maps are deterministic: the same rows give the
    same rows. An autoencoder, a GAN with an encoder and a linear basis all fit.

    Attributes:
        sigma: What is finer than a Gaussian of this standard deviation, in pixels, the pair cannot
            be trusted with: a counterfactual that keeps the detail of its image keeps it there.
    """

    sigma: float = 0.0

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to latents z (B, *L)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Map latents z (B, *L) to images (B, C, H, W), meant to lie in [0, 1] but not clamped."""

    def freeze(self) -> Generator:
        """Put the pair in eval mode and stop gradients to its weights; returns itself."""
        return self.eval().requires_grad_(False)
