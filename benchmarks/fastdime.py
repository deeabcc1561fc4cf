"""FastDiME on the latent prior, as a direction; for the benchmarks only.

From the paper: the input is noised to tau and denoised step by step; each step's mean is moved by
the gradient of a loss of the denoised estimate (classifier, and distances to the input), taken at
the estimate itself instead of through the chain, which is what makes it fast; from the step
``warm`` on a mask of the places where estimate and input differ most keeps the rest of the input.

What differs: the chain runs in the latent of the pair and on a rectified flow with unit steps of
the share of noise, x0 = u - sigma v, without the class (the null label), as DiME's models are
unconditional; the distance is l1 in the latent, without the perceptual term and without the pixels;
the gradient is scaled to a share of the latent's standard deviation, for the margins of models
differ; and there is no second round with a fixed mask ("2-step" FastDiME). Scales are tried from
weak to strong, each sample keeps the first that flips, as in DiME.

Reference: Weng et al., Fast Diffusion-Based Counterfactuals for Shortcut Removal and Generation,
2023, arXiv:2312.14115; Jeanneret et al., Diffusion Models for Counterfactual Explanations, 2022,
arXiv:2203.15636.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cfgen.directions import Direction
from cfgen.directions.minimal_norm import norm
from cfgen.priors import LatentFlow
from cfgen.problem import Problem, unit


class FastDiME(Direction):
    """Direction of the chord to FastDiME's counterfactual.

    Args:
        prior: The flow.
        seed: Seed of the noise, the same for each sample.
        tau: Share of noise to which the input is taken, in (0, 1).
        steps: Steps from there to data.
        warm: Share of the steps before the mask is used.
        kept: Share of the places that may change, by the mask.
        distance: Weight of the l1 distance.
        scales: Lengths of a guidance step, in standard deviations of the whole latent.
    """

    def __init__(
        self,
        prior: LatentFlow,
        seed: int = 0,
        tau: float = 0.6,
        steps: int = 10,
        warm: float = 0.5,
        kept: float = 0.3,
        distance: float = 0.05,
        scales: tuple[float, ...] = (0.05, 0.1, 0.2),
    ) -> None:
        self.prior, self.seed, self.tau, self.steps = prior, seed, tau, steps
        self.warm, self.kept, self.distance, self.scales = warm, kept, distance, scales

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and the lengths (B,) of the chords."""
        e, rows = torch.zeros_like(problem.z), torch.arange(len(problem), device=problem.z.device)
        for scale in self.scales:
            e[rows] = self.chord(problem, rows, scale)
            rows = rows[problem.margin(problem.z[rows] + e[rows], rows) <= 0]
            if not len(rows):
                break
        return unit(e), norm(e)

    @torch.no_grad()
    def chord(self, problem: Problem, rows: Tensor, scale: float) -> Tensor:
        """Changes (n, C, h, w) of the samples ``rows`` at one strength of guidance."""
        prior = self.prior
        data = (problem.z[rows] - prior.mean) / prior.std
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(data.shape[1:], generator=generator).to(data)
        null = torch.full((len(rows),), len(prior.classes), device=data.device)
        mask = torch.ones_like(data[:, :1])
        u = (1 - self.tau) * data + self.tau * noise
        for k in range(self.steps):
            sigma, lower = (self.tau * (1 - j / self.steps) for j in (k, k + 1))
            v = prior.velocity(u, torch.full((len(u),), sigma).to(u), null)
            estimate = u - sigma * v
            # The margin is sought at the estimate under the mask, as it would be handed over.
            shown = data + mask * (estimate - data)
            _, gradient = problem.grad(prior.mean + prior.std * shown, rows)
            pull = unit(gradient * prior.std) - self.distance * unit((shown - data).sign())
            u = u - (sigma - lower) * v + scale * data[0].numel() ** 0.5 * pull
            if k + 1 >= self.warm * self.steps:
                mask = largest((estimate - data).abs().mean(1, keepdim=True), self.kept)
                u = mask * u + (1 - mask) * ((1 - lower) * data + lower * noise)
        return prior.std * mask * (u - data)


def largest(size: Tensor, share: float) -> Tensor:
    """1 at the share of the places (n, 1, h, w) with the largest values of a sample, else 0."""
    return (size >= size.flatten(1).quantile(1 - share, 1).view(-1, 1, 1, 1)).to(size)
