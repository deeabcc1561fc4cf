"""The abstract latent prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """A distribution of latents given a class, in the units of the generator's latent.

    Attributes:
        classes: Class names; the position is the label.
    """

    classes: tuple[str, ...]

    @abstractmethod
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """Draw one latent for each label (B,) int64: z (B, *L). The same seed draws the same."""
