"""Where the prior leads, and from there where f asks for more."""

from __future__ import annotations

import torch
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.directions.translation import Translation
from cfgen.priors.base import Prior
from cfgen.problem import Problem, unit


class Guided(Direction):
    """The translation by the prior; where it does not flip, a climb of the margin from there.

    The climb follows the gradient smoothed over noise: each step draws one noise, and momentum
    averages over the steps. Its steps are DeepFool's, towards the boundary of the tangent plane,
    but no longer than a share of the translation. Each sample stops on its own, and the chord from
    z is handed over.

    Args:
        prior: Latents given a class, with the classes of f.
        seed: Seed of the noise, the same for each sample.
        steps: Largest number of gradients.
        noise: Standard deviation of the noise, relative to that of each latent under the prior.
        momentum: Weight of the gradients before, in [0, 1).
        reach: Longest step as a share of the length of the translation.

    Reference: in the spirit of Jeanneret et al., Diffusion Models for Counterfactual Explanations,
    2022, arXiv:2203.15636, and Weng et al., Fast Diffusion-Based Counterfactuals, 2023,
    arXiv:2312.14115, in latent space; Smilkov et al., SmoothGrad, 2017, arXiv:1706.03825.
    """

    def __init__(
        self,
        prior: Prior,
        seed: int = 0,
        steps: int = 40,
        noise: float = 0.3,
        momentum: float = 0.5,
        reach: float = 0.1,
    ) -> None:
        self.translation = Translation(prior, seed)
        self.prior, self.seed, self.steps = prior, seed, steps
        self.noise, self.momentum, self.reach = noise, momentum, reach

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        e, rows = self.translation.chord(problem)
        longest = self.reach * e.flatten(1).norm(dim=1) + 2 * self.noise
        velocity = torch.zeros_like(e)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            if not len(rows):
                break
            n = torch.randn(e.shape[1:], generator=generator).to(e) * self.noise * self.prior.scale
            m, g = problem.grad(problem.z[rows] + e[rows] + n, rows)
            going = m <= OVER
            over = (~going).nonzero()[:, 0]
            if len(over):  # it may be the noise that flips
                going[over] = problem.margin(problem.z[rows[over]] + e[rows[over]], rows[over]) <= 0
            rows, m, g = (t[going] for t in (rows, m, g))
            velocity[rows] = self.momentum * velocity[rows] + g
            size = velocity[rows].flatten(1).norm(dim=1)
            step = torch.minimum((GOAL - m).clamp(min=OVER) / size, longest[rows])
            e[rows] += step.view(-1, *[1] * (e.ndim - 1)) * unit(velocity[rows])
        return unit(e)


# The margin at which a sample stops, and at which its steps aim: a little past the boundary.
OVER, GOAL = 0.05, 0.3
