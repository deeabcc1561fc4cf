"""The steepest direction when a step is measured in the image and not in the latent."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.func import jvp, vjp

from cfgen.directions.base import Direction
from cfgen.directions.minimal_norm import dot, norm, scale
from cfgen.problem import Problem, unit


class NaturalGradient(Direction):
    """alpha ~ (J^T J + eps I)^-1 grad m, with J the Jacobian of the decoded image at z.

    J^T J is the metric that the decoder pulls back from the image, so this is the ascent of the
    margin for the smallest |X' - x|_2. The system is solved by conjugate gradients; each step costs
    one product with J and one with J^T, counted as a forward and a backward pass, though they go
    through G alone.

    Args:
        steps: Steps of the conjugate gradients.
        damping: eps, relative to |J g|^2 / |g|^2 along the gradient g.

    Reference: Amari, Natural Gradient Works Efficiently in Learning, 1998,
    doi:10.1162/089976698300017746; Arvanitidis et al., Latent Space Oddity, 2018, arXiv:1710.11379.
    """

    def __init__(self, steps: int = 8, damping: float = 0.01) -> None:
        self.steps, self.damping = steps, damping

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and where each meets the tangent plane's zero (B,)."""
        m, steepest = problem.grad(problem.z)
        g = unit(steepest)

        pull = vjp(problem.decode, problem.z)[1]
        problem.count("forward")

        def metric(v: Tensor) -> Tensor:
            with warnings.catch_warnings():  # torch's own, of its forward derivatives
                warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
                warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
                pushed = jvp(problem.decode, (problem.z,), (v,))[1]
            problem.count("forward")
            problem.count("backward")
            return pull(pushed)[0]

        solution, residual, way = torch.zeros_like(g), g.clone(), g.clone()
        eps = torch.zeros_like(norm(g))
        size = dot(residual, residual)
        for k in range(self.steps):
            pulled = metric(way)
            if k == 0:  # the first way is g itself
                eps = self.damping * dot(g, pulled)
            pulled = pulled + scale(eps, way)
            curvature = dot(way, pulled)
            step = torch.where(curvature > 0, size / curvature, 0)
            solution, residual = solution + scale(step, way), residual - scale(step, pulled)
            new = dot(residual, residual)
            way, size = residual + scale(torch.where(size > 0, new / size, 0), way), new
        # A sample whose image does not move at all keeps the plain gradient.
        still = ~solution.flatten(1).any(1)
        alpha = unit(torch.where(still.view(-1, *[1] * (g.ndim - 1)), g, solution))
        return alpha, -m / dot(steepest, alpha)
