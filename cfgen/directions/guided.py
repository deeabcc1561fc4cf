"""Where the prior leads, and from there where f asks for more."""

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
from cfgen.directions.minimal_norm import norm
from cfgen.directions.smoothed import drawn
from cfgen.directions.translation import Translation, lengths
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
    """The translation by the prior; where it does not flip, a climb of the margin from there.

    The climb follows the gradient smoothed over noise in z and over views of the image (mirrored,
    moved, turned, brighter or darker), for what turns f from every view is more than a pattern at
    one place: each step draws one of each, and momentum averages over the steps. Its steps are
    DeepFool's, towards the boundary of the tangent plane, but no longer than a share of the
    translation. Each sample stops on its own. Of the chord from z only the places that changed most
    are handed over, as few as still flip.

    Args:
        prior: Latents given a class, with the classes of f.
        seed: Seed of the noise, the same for each sample.
        steps: Largest number of gradients.
        noise: Standard deviation of the noise, relative to that of each latent under the prior.
        momentum: Weight of the gradients before, in [0, 1).
        reach: Longest step as a share of the length of the translation.
        augment: Draws a view of images (n, C, H, W) from torch's generator, the same for all.

    Reference: in the spirit of Jeanneret et al., Diffusion Models for Counterfactual Explanations,
    2022, arXiv:2203.15636, and Weng et al., Fast Diffusion-Based Counterfactuals, 2023,
    arXiv:2312.14115, in latent space; Smilkov et al., SmoothGrad, 2017, arXiv:1706.03825; Xie et
    al., Improving Transferability of Adversarial Examples with Input Diversity, 2018,
    arXiv:1803.06978.
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
    ) -> None:
        self.translation = Translation(prior, seed)
        self.prior, self.seed, self.steps = prior, seed, steps
        self.noise, self.momentum, self.reach, self.augment = noise, momentum, reach, augment

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and the lengths (B,) at which the climbs ended."""
        e, rows = self.translation.chord(problem)
        longest = self.reach * norm(e) + 2 * self.noise
        velocity = torch.zeros_like(e)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            if not len(rows):
                break
            n = torch.randn(e.shape[1:], generator=generator).to(e) * self.noise * self.prior.scale
            view = drawn(self.augment, generator)
            m, g = problem.grad(problem.z[rows] + e[rows] + n, rows, view)
            going = m <= OVER
            over = (~going).nonzero()[:, 0]
            if len(over):  # it may be the noise that flips
                ends = problem.margin(problem.z[rows[over]] + e[rows[over]], rows[over])
                going[over] = ends <= OVER
            rows, m, g = (t[going] for t in (rows, m, g))
            velocity[rows] = self.momentum * velocity[rows] + g
            size = norm(velocity[rows])
            step = torch.minimum((GOAL - m).clamp(min=OVER) / size, longest[rows])
            e[rows] += step.view(-1, *[1] * (e.ndim - 1)) * unit(velocity[rows])
        e = few_places(problem, e)
        return unit(e), norm(e)


def few_places(problem: Problem, e: Tensor) -> Tensor:
    """Changes e (B, C, ...) at the places of their longest vectors only, if z + e still flips so.

    As :func:`cfgen.directions.translation.shrink` does, but nothing that stays gets shorter.
    """
    if e.ndim < 3:
        return e
    kept, rows = e.clone(), torch.arange(len(e), device=e.device)
    size, longest = lengths(e)
    for share in KEPT:
        if not len(rows):
            break
        part = e[rows] * (size >= share * longest)[rows]
        flips = problem.margin(problem.z[rows] + part, rows) > OVER
        kept[rows[flips]] = part[flips]
        rows = rows[~flips]
    return kept


KEPT = (0.6, 0.45, 0.3, 0.2, 0.1)
"""Places with a vector of this share of the longest are tried for themselves, in this order."""

# The margin at which a sample stops, and at which its steps aim: a little past the boundary.
OVER, GOAL = 0.05, 0.3
