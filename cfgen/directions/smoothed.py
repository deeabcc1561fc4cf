"""Any direction on a smoothed margin."""

from __future__ import annotations

from copy import copy

import torch
from kornia.augmentation import AugmentationSequential, RandomAffine, RandomContrast
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.problem import Problem, View


class Smoothed(Direction):
    """A direction that sees the margin's gradient averaged over noise in z and over augmentations.

    A pattern that flips f at one exact place only has no share in the average. The margins that the
    direction sees are averages too; the search and the verdict are of f itself.

    Args:
        direction: The direction.
        samples: Draws of noise and augmentation for each gradient; each costs its passes.
        noise: Standard deviation of the noise in z.
        degrees: Largest rotation of the image.
        shift: Largest shift, as a share of the side.
        brightness: Largest relative change of brightness; black stays black.
        seed: Seed of the draws; all samples of a batch share a draw.

    Reference: Smilkov et al., SmoothGrad, 2017, arXiv:1706.03825; Athalye et al., Synthesizing
    Robust Adversarial Examples (expectation over transformation), 2018, arXiv:1707.07397.
    """

    def __init__(
        self,
        direction: Direction,
        samples: int = 4,
        noise: float = 0.15,
        degrees: float = 5.0,
        shift: float = 0.02,
        brightness: float = 0.05,
        seed: int = 0,
    ) -> None:
        if samples < 1:
            raise ValueError(f"expected samples >= 1, got {samples}")
        self.direction, self.samples, self.noise, self.seed = direction, samples, noise, seed
        self.augment = AugmentationSequential(
            RandomAffine(degrees, (shift, shift), p=1.0),
            RandomContrast((1 - brightness, 1 + brightness), p=1.0),
            same_on_batch=True,
        )

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        part = copy(problem)  # shares the count of passes
        generator = torch.Generator().manual_seed(self.seed)

        def grad(
            z: Tensor, rows: Tensor | None = None, view: View | None = None
        ) -> tuple[Tensor, Tensor]:
            margins, gradients = torch.zeros(len(z)).to(z), torch.zeros_like(z)
            for _ in range(self.samples):
                n = self.noise * torch.randn(z.shape[1:], generator=generator).to(z)
                m, g = problem.grad(z + n, rows, drawn(self.augment, generator, view))
                margins, gradients = margins + m / self.samples, gradients + g / self.samples
            return margins, gradients

        part.grad = grad
        return self.direction(part)


def drawn(augment: View, generator: torch.Generator, first: View | None = None) -> View:
    """A view of images that kornia draws from torch's own generator, seeded by ``generator``.

    Args:
        augment: Draws a view.
        generator: Says which; torch's own generator stays as it is.
        first: A view that comes before it.
    """
    seed = int(torch.randint(2**31, (), generator=generator))

    def view(x: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return augment(x if first is None else first(x)).clamp(0, 1)

    return view
