"""Where the prior leads, from there where f asks for more, and back as far as f allows."""

from __future__ import annotations

import torch
from kornia.augmentation import (
    AugmentationSequential,
    RandomAffine,
    RandomContrast,
    RandomHorizontalFlip,
)
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.directions.minimal_norm import norm, scale
from cfgen.directions.smoothed import drawn
from cfgen.directions.translation import Translation, shrink
from cfgen.priors.base import Prior
from cfgen.problem import Problem, View, unit

VIEWS = AugmentationSequential(
    RandomHorizontalFlip(p=0.5),
    RandomAffine(10.0, (0.05, 0.05), (0.9, 1.1), p=1.0),
    RandomContrast((0.8, 1.2), p=1.0),
    same_on_batch=True,
)
"""Mirrored or not; at most turned by 10 degrees, moved by 5 %, scaled by 10 %, 20 % brighter."""


class Guided(Direction):
    """The translation by the prior, a climb of the margin where it does not flip, a tightening.

    Both follow the gradient smoothed over noise in z and over views of the image (mirrored, moved,
    turned, brighter or darker), for what turns f from every view is more than a pattern at one
    place: each step draws one of each. Its length is DeepFool's, towards the boundary of the
    tangent plane, but no longer than a share of the change. The climb averages gradients by
    momentum, and each sample stops on its own; one that does not flip starts again without noise
    and views, which ask for more than a flip. The tightening takes from a change
    that flips: each round shrinks it at every place, which leaves the places that changed most, and
    steps to where f is turned again; the smallest change that flips is handed over.

    Args:
        prior: Latents given a class, with the classes of f.
        seed: Seed of the noise, the same for each sample.
        steps: Largest number of gradients of a climb.
        noise: Standard deviation of the noise, relative to that of each latent under the prior.
        momentum: Weight of the gradients before in the climb, in [0, 1).
        reach: Longest step as a share of the length of the change.
        augment: Draws a view of images (n, C, H, W) from torch's generator, the same for all.
        rounds: Rounds of the tightening, one gradient each.
        shrink: Share of its largest change by which a round shrinks one that flips, in [0, 1).

    Reference: in the spirit of Jeanneret et al., Diffusion Models for Counterfactual Explanations,
    2022, arXiv:2203.15636, and Weng et al., Fast Diffusion-Based Counterfactuals, 2023,
    arXiv:2312.14115, in latent space; Smilkov et al., SmoothGrad, 2017, arXiv:1706.03825; Xie et
    al., Improving Transferability of Adversarial Examples with Input Diversity, 2018,
    arXiv:1803.06978; Rony et al., Decoupling Direction and Norm, 2019, arXiv:1811.09600, for the
    tightening.
    """

    def __init__(
        self,
        prior: Prior,
        seed: int = 0,
        steps: int = 40,
        noise: float = 0.3,
        momentum: float = 0.5,
        reach: float = 0.1,
        augment: View = VIEWS,
        rounds: int = 8,
        shrink: float = 0.05,
    ) -> None:
        self.translation = Translation(prior, seed)
        self.prior, self.seed, self.steps = prior, seed, steps
        self.noise, self.momentum, self.reach, self.augment = noise, momentum, reach, augment
        self.rounds, self.shrink = rounds, shrink

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and the lengths (B,) of the changes."""
        e, rows = self.translation.chord(problem)
        start = e.clone()
        short = self._climb(problem, e, rows, torch.Generator().manual_seed(self.seed))
        e[short] = start[short]
        short = self._climb(problem, e, short, None)
        flips = torch.ones(len(e), dtype=torch.bool, device=e.device)
        flips[short] = False
        # Another generator, for how much the climb drew is a matter of the batch.
        generator = torch.Generator().manual_seed(self.seed + 1)
        e = self._tighten(problem, e, flips.nonzero()[:, 0], generator)
        return unit(e), norm(e)

    def _climb(
        self, problem: Problem, e: Tensor, rows: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Climb from z + e (B, *L) of ``rows``, in place; returns those that do not flip."""
        longest, velocity = self._longest(e), torch.zeros_like(e)
        for _ in range(self.steps):
            if not len(rows):
                break
            m, g = self._look(problem, e, rows, generator)
            going = m <= OVER
            over = (~going).nonzero()[:, 0]
            if len(over):  # it may be the noise that flips
                ends = problem.margin(problem.z[rows[over]] + e[rows[over]], rows[over])
                going[over] = ends <= OVER
            rows, m, g = (t[going] for t in (rows, m, g))
            velocity[rows] = self.momentum * velocity[rows] + g
            e[rows] += stride((GOAL - m).clamp(min=OVER), velocity[rows], longest[rows])
        return rows

    def _tighten(
        self, problem: Problem, e: Tensor, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Changes (B, *L) no longer than e, by which ``rows`` flip as they do by e."""
        best, now, longest = e.clone(), e.clone(), self._longest(e)
        flipped = rows
        for _ in range(self.rounds):
            if not len(rows):
                break
            now[flipped] = shrink(now[flipped], self.shrink)
            m, g = self._look(problem, now, rows, generator)
            now[rows] += stride((GOAL - m).clamp(min=0), g, longest[rows])
            flips = problem.margin(problem.z[rows] + now[rows], rows) > OVER
            flipped = rows[flips]
            better = rows[flips & (norm(now) < norm(best))[rows]]
            best[better] = now[better]
        return best

    def _longest(self, e: Tensor) -> Tensor:
        """The longest steps (B,) from changes e (B, *L): a share of them, and more than noise."""
        return self.reach * norm(e) + 2 * self.noise

    def _look(
        self, problem: Problem, e: Tensor, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Margins (n,) and gradients (n, *L) at z + e of ``rows``; with noise, from some view."""
        z = problem.z[rows] + e[rows]
        if generator is None:
            return problem.grad(z, rows)
        n = torch.randn(e.shape[1:], generator=generator).to(e) * self.noise * self.prior.scale
        return problem.grad(z + n, rows, drawn(self.augment, generator))


def stride(rise: Tensor, g: Tensor, longest: Tensor) -> Tensor:
    """Steps (n, *L) by which tangent planes of gradients g (n, *L) rise so much (n,), at most."""
    return scale(torch.minimum(rise / norm(g).clamp(min=1e-12), longest), unit(g))


# The margin at which a sample has flipped, and at which steps aim: a little past the boundary.
OVER, GOAL = 0.05, 0.3
