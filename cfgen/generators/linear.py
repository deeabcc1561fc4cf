"""A linear pair: coordinates in an orthonormal basis of images."""

from __future__ import annotations

import torch
from torch import Tensor

from cfgen.generators.base import Generator


class Linear(Generator):
    """E(x) = B (x - m) and G(z) = m + B^T z, so that G(E(x)) is the orthogonal projection of x.

    Args:
        basis: orthonormal rows (D, C, H, W).
        mean: the image m (C, H, W).

    Raises:
        ValueError: shapes that do not fit, or rows that are not orthonormal.
    """

    basis: Tensor
    mean: Tensor

    def __init__(self, basis: Tensor, mean: Tensor) -> None:
        """Check the basis and keep it."""
        super().__init__()
        if basis.shape[1:] != mean.shape:
            raise ValueError(
                f"expected mean of shape {tuple(basis.shape[1:])}, got {tuple(mean.shape)}"
            )
        rows = basis.flatten(1)
        gap = (rows @ rows.T - torch.eye(len(rows)).to(rows)).abs().max().item()
        if not gap < torch.finfo(basis.dtype).eps ** 0.5:
            raise ValueError(f"expected orthonormal rows, got products off by {gap:.2g}")
        self.register_buffer("basis", basis)
        self.register_buffer("mean", mean)
        self.freeze()

    @classmethod
    def fit(cls, x: Tensor, components: int) -> Linear:
        """Return the pair of the leading principal components of images.

        The sign of a component, which the data leave open, makes its largest entry positive.

        Args:
            x: images (N, C, H, W) in [0, 1].
            components: how many, from 1 to min(N - 1, C * H * W).

        Raises:
            ValueError: more components than the images span.

        Reference:
            Turk, Pentland (1991). Eigenfaces for Recognition.
        """
        most = min(len(x) - 1, x[0].numel())
        if not 1 <= components <= most:
            raise ValueError(f"expected 1 to {most} components, got {components}")
        mean = x.mean(0)
        rows = torch.linalg.svd((x - mean).flatten(1), full_matrices=False).Vh[:components]
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        return cls((rows * largest.sign()).reshape(components, *x.shape[1:]), mean)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to coordinates (B, D)."""
        return (x - self.mean).flatten(1) @ self.basis.flatten(1).T

    def decode(self, z: Tensor) -> Tensor:
        """Map coordinates (B, D) to images (B, C, H, W), not clamped."""
        return self.mean + (z @ self.basis.flatten(1)).unflatten(1, self.mean.shape)
