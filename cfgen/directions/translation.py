"""The chord to the image as the prior would draw it in the target class."""

from __future__ import annotations

import torch
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.directions.minimal_norm import norm
from cfgen.priors.base import Prior
from cfgen.problem import Problem, unit


class Translation(Direction):
    """Direction of e = prior.edit(z) - z, from the class that f sees to the target.

    Where z + e does not meet the criterion, the prior is asked again with more guidance; each
    sample stops on its own. Of e only the places that change most are kept: each place of a latent
    (C, h, w) is shrunk by a share of the largest change, which takes the small changes away that
    the prior makes everywhere.

    Args:
        prior: Latents given a class, with the classes of f.
        seed: Seed of the prior's noise, the same for each sample.
        guidance: Strengths to try, in this order.
        shrink: Share of the largest change by which each place is shrunk, in [0, 1).
    """

    def __init__(
        self,
        prior: Prior,
        seed: int = 0,
        guidance: tuple[float, ...] = (6.0, 10.0),
        shrink: float = 0.3,
    ) -> None:
        self.prior, self.seed, self.guidance, self.shrink = prior, seed, guidance, shrink

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and the lengths (B,) of the chords."""
        e, _ = self.chord(problem)
        return unit(e), norm(e)

    def chord(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Changes e (B, *L), and the samples (n,) int64 that do not flip at z + e."""
        target = problem.criterion.target
        source = problem.criterion.classes(problem.logits(problem.x)).argmax(1)
        problem.count("forward")
        e, rows = torch.zeros_like(problem.z), torch.arange(len(problem), device=problem.z.device)
        for guidance in self.guidance:
            z = problem.z[rows]
            ways = source[rows], target[rows]
            with problem.autocast():
                edited = self.prior.edit(z, *ways, self.seed, guidance=guidance).to(z)
            e[rows] = shrink(edited - z, self.shrink if z.ndim > 2 else 0)
            rows = rows[problem.margin(z + e[rows], rows) <= 0]
            if not len(rows):
                break
        return e, rows


def shrink(e: Tensor, share: float) -> Tensor:
    """Shorten the vector e[:, :, i, j] of each place by a share of the longest one of its sample.

    This is the proximal map of the sum of the vectors' lengths, and makes e (B, C, ...) sparse in
    space; a latent without places (B, L) is one place. Reference: Yuan & Lin, Model selection and
    estimation in regression with grouped variables, 2006, doi:10.1111/j.1467-9868.2005.00532.x.
    """
    size = e.norm(dim=1, keepdim=True)
    longest = size.flatten(1).amax(1).view(-1, *[1] * (e.ndim - 1))
    return e * (1 - share * longest / size.clamp(min=1e-12)).clamp(min=0)
