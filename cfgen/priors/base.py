"""The abstract latent prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """A distribution of latents given a class, in the units of the generator's latent.

    Attributes:
        classes: Class names; the position is the label.
        scale: Standard deviation of latents, broadcastable to (B, *L).
    """

    classes: tuple[str, ...]
    scale: Tensor

    @abstractmethod
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """Draw one latent for each label (B,) int64: z (B, *L). The same seed draws the same."""

    @abstractmethod
    def edit(
        self, z: Tensor, source: Tensor, target: Tensor, seed: int, *, guidance: float
    ) -> Tensor:
        """Redraw latents z (B, *L) of the classes ``source`` (B,) in the classes ``target`` (B,).

        Everything that does not tell the classes apart is to stay. The same seed draws the same,
        and each sample by itself what it draws in a batch.
        """
