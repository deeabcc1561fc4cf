"""Any direction in a part of the latent space."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.problem import Problem, View, unit

Projection = Callable[[Tensor, "Tensor | slice"], Tensor]
"""``project(v (n, *L), rows (n,)) -> (n, *L)``: an orthogonal projection for each sample."""

ROUNDING = 1e-4
"""A projected gradient shorter than this share of the gradient is rounding, not a direction."""


class Confined(Direction):
    """A direction in the subspace around z that a projection P leaves.

    The direction sees the margin of z + P(z' - z) wherever it looks, so the steepest, the nearest
    or the most natural way is that of the subspace. What it hands over is projected, too.

    Args:
        direction: The direction.
        allow: Makes the projection for the samples of a problem, as :func:`away_from` does.
    """

    def __init__(self, direction: Direction, allow: Callable[[Problem], Projection]) -> None:
        self.direction, self.allow = direction, allow

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and where each may first cross (B,)."""
        project = self.allow(problem)
        part = copy(problem)  # shares the count of passes

        def inside(z: Tensor, rows: Tensor | slice) -> Tensor:
            start = problem.z[rows]
            return start + project(z - start, rows)

        def decode(z: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            return problem.decode(inside(z, rows), rows)

        def grad(
            z: Tensor, rows: Tensor | None = None, view: View | None = None
        ) -> tuple[Tensor, Tensor]:
            index = slice(None) if rows is None else rows
            margin, whole = problem.grad(inside(z, index), rows, view)
            left = project(whole, index)
            size, most = (g.flatten(1).norm(dim=1) for g in (left, whole))
            kept = (size > ROUNDING * most).view(-1, *[1] * (left.ndim - 1))
            return margin, torch.where(kept, left, 0)

        part.decode, part.grad = decode, grad
        alpha, guess = self.direction.aim(part)
        alpha = project(alpha, slice(None))
        return unit(alpha), guess * alpha.flatten(1).norm(dim=1)


def away_from(vectors: Tensor) -> Projection:
    """The projection on what is orthogonal to vectors (B, n, *L); zero vectors take nothing."""
    flat = vectors.flatten(2).mT
    u, s, _ = torch.linalg.svd(flat, full_matrices=False)
    # Vectors that others span already add rounding only.
    basis = u * (s > ROUNDING * s[:, :1])[:, None].to(u)

    def project(v: Tensor, rows: Tensor | slice) -> Tensor:
        b, w = basis[rows], v.flatten(1)[..., None]
        return (w - b @ (b.mT @ w)).view_as(v)

    return project
