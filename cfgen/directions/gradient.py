"""The gradient of the margin at z."""

from __future__ import annotations

from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.directions.minimal_norm import norm
from cfgen.problem import Problem, unit


class Gradient(Direction):
    """Steepest ascent of the margin: alpha = grad m(z) / |grad m(z)|, the latent shift.

    Reference: Cohen et al., Gifsplanation via Latent Shift, 2021, arXiv:2102.09475.
    """

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and where each meets the tangent plane's zero (B,)."""
        m, g = problem.grad(problem.z)
        return unit(g), -m / norm(g)
