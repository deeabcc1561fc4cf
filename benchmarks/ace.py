"""ACE on the latent prior, as a direction; for the benchmarks only.

From the paper: projected gradient descent on the input, its gradient taken through the filter that
noises to tau and denoises, so that a change must survive the filter (pre-explanation); then a mask
of the largest changes, dilated, and the filter once more, in which every step takes the places
outside the mask from the noised input (RePaint), so that only the mask changes.

What differs: input and filter are latents of the pair and a rectified flow, x0 = u - sigma v,
without the class; the distance is the l2 length in the latent; and the filter has few steps. Sample
by sample PGD stops where the filtered latent flips with a little to spare.

Reference: Jeanneret et al., Adversarial Counterfactual Visual Explanations, 2023, arXiv:2303.09962;
Lugmayr et al., RePaint, 2022, arXiv:2201.09865.
"""

from __future__ import annotations

import torch
from fastdime import largest
from torch import Tensor

from cfgen.directions import Direction
from cfgen.directions.minimal_norm import norm
from cfgen.priors import LatentFlow
from cfgen.problem import Problem, unit


class ACE(Direction):
    """Direction of the chord to ACE's counterfactual.

    Args:
        prior: The flow.
        seed: Seed of the noise, the same for each sample.
        tau: Share of noise of the filter, in (0, 1).
        steps: Steps of the filter.
        attack: Largest number of steps of PGD.
        length: Length of a step of PGD, in standard deviations of the whole latent.
        distance: Weight of the pull back to the input.
        kept: Share of the places that may change, before dilation by one place.
    """

    def __init__(
        self,
        prior: LatentFlow,
        seed: int = 0,
        tau: float = 0.2,
        steps: int = 3,
        attack: int = 25,
        length: float = 0.06,
        distance: float = 0.1,
        kept: float = 0.2,
    ) -> None:
        self.prior, self.seed, self.tau, self.steps = prior, seed, tau, steps
        self.attack, self.length, self.distance, self.kept = attack, length, distance, kept

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and the lengths (B,) of the chords."""
        e = self.chord(problem)
        return unit(e), norm(e)

    def chord(self, problem: Problem) -> Tensor:
        """Changes (B, C, h, w) of the latents."""
        prior = self.prior
        data = (problem.z - prior.mean) / prior.std
        u, rows = data.clone(), torch.arange(len(data), device=data.device)
        size = self.length * data[0].numel() ** 0.5
        for _ in range(self.attack):
            margin, gradient = self.grad(problem, u[rows], data[rows], rows)
            rows, gradient = rows[margin <= OVER], gradient[margin <= OVER]
            if not len(rows):
                break
            pull = unit(gradient) - self.distance * unit(u[rows] - data[rows])
            u[rows] += size * unit(pull)
        with torch.no_grad():
            changed = (self.filter(u) - data).abs().mean(1, keepdim=True)
            mask = torch.nn.functional.max_pool2d(largest(changed, self.kept), 3, 1, 1)
            return prior.std * mask * (self.filter(u, data, mask) - data)

    def grad(
        self, problem: Problem, u: Tensor, data: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Margin (n,) of the filtered latents u (n, C, h, w), and its gradient in u."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            filtered = self.prior.mean + self.prior.std * self.filter(u)
            margin, inner = problem.grad(filtered.detach(), rows)
            (gradient,) = torch.autograd.grad((filtered * inner).sum(), u)
        return margin, gradient

    def filter(self, u: Tensor, data: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Noise latents u (n, C, h, w) to tau and denoise them; outside the mask data stays."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(u.shape[1:], generator=generator).to(u)
        null = torch.full((len(u),), len(self.prior.classes), device=u.device)
        u = (1 - self.tau) * u + self.tau * noise
        for k in range(self.steps):
            sigma, lower = (self.tau * (1 - j / self.steps) for j in (k, k + 1))
            u = u - (sigma - lower) * self.prior.velocity(
                u, torch.full_like(u[:, 0, 0, 0], sigma), null
            )
            if data is not None and mask is not None:
                u = mask * u + (1 - mask) * ((1 - lower) * data + lower * noise)
        return u


OVER = 0.05
"""The margin at which a sample stops."""
