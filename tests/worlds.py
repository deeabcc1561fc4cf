"""Worlds in which the truth is known: the smallest step in closed form, or every status at will."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfgen.criterion import Flip
from cfgen.generators import Generator, Identity, Linear
from cfgen.problem import Problem

SHAPE = (1, 10, 10)
PIXELS = 100
LATENTS = 8


@dataclass
class World:
    """A problem, its smallest step (B,), and the direction of that step (B, *L)."""

    problem: Problem
    optimum: Tensor
    nearest: Tensor


class TwoLogits(nn.Module):
    """The logits (0, score(x)) (B, 2) of a score (B,)."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        return torch.stack([torch.zeros_like(score), score], 1)


def random(seed: int) -> Callable[..., Tensor]:
    """Normal numbers in float64, from a seed of their own."""
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)


def orthonormal(randn: Callable[..., Tensor]) -> Linear:
    """Eight orthonormal images around a grey mean."""
    basis = torch.linalg.qr(randn(PIXELS, LATENTS))[0].T.reshape(LATENTS, *SHAPE)
    return Linear(basis, torch.full(SHAPE, 0.5, dtype=torch.float64))


def linear_world(
    batch: int,
    target: int,
    *,
    detail: bool = True,
    seed: int = 0,
    identity: bool = False,
    confidence: float | None = None,
    levels: int | None = None,
) -> World:
    """Two classes separated by a plane in the space of images.

    With G(z) = mean + z B, B orthonormal, and logits (0, <w, x> + b), the margin is linear in z
    with gradient +-B w, so the smallest step is -m(z) / |B w|. With ``identity`` B is the unit
    matrix and the latent has the shape of an image.
    """
    randn = random(seed)
    linear = orthonormal(randn)
    generator: Generator = Identity() if identity else linear
    w = randn(*SHAPE)
    x = 0.5 + 0.03 * randn(batch, *SHAPE)
    sign = 1 if target == 1 else -1
    # The plane lies beyond every image and every reconstruction, away from the target.
    seen = torch.cat([x, linear.decode(linear.encode(x))])
    bias = -sign * ((sign * (seen * w).sum((1, 2, 3))).max() + 0.05 * w.norm())
    model = TwoLogits(lambda x: (x * w).sum((1, 2, 3)) + bias)
    criterion = Flip(torch.full((batch,), target), confidence=confidence)
    problem = Problem(generator, model, criterion, x, detail=detail, levels=levels)
    gradient = sign * w if identity else sign * (linear.basis * w).sum((1, 2, 3))
    start = x if detail else generator.decode(generator.encode(x))
    optimum = -criterion(model(start)) / gradient.norm()
    nearest = (gradient / gradient.norm()).expand(batch, *gradient.shape)
    return World(problem, optimum, nearest)


def ellipsoid_world(
    batch: int,
    target: int,
    distance: float,
    *,
    axes: Sequence[float] = (0.5,) * LATENTS,
    skew: float = 1.5,
    seed: int = 0,
) -> World:
    """Class 0 is an ellipsoid in latent space, class 1 lies outside; each z is ``distance`` away.

    The score (sum (z / axes)^2 - 1) exp(<a, z>) is zero on the ellipsoid alone, but its gradient
    is turned towards a. Each z lies on the normal of a point of the ellipsoid: outside where the
    target is 0, inside where it is 1. That point is the nearest from any distance outside, and
    from less than the least radius of curvature, min(axes)^2 / max(axes), inside.
    """
    randn = random(seed)
    generator = orthonormal(randn)
    axis = torch.tensor(axes, dtype=torch.float64)
    a = randn(LATENTS)
    a = 2 * skew * a / a.norm()

    def score(x: Tensor) -> Tensor:
        z = generator.encode(x)
        return ((z / axis).square().sum(1) - 1) * (z @ a).exp()

    point = randn(batch, LATENTS)
    point = axis * point / point.norm(dim=1, keepdim=True)
    normal = point / axis**2
    normal = normal / normal.norm(dim=1, keepdim=True)
    nearest = normal if target == 1 else -normal
    x = generator.decode(point - distance * nearest)
    criterion = Flip(torch.full((batch,), target))
    problem = Problem(generator, TwoLogits(score), criterion, x, levels=None)
    return World(problem, torch.full((batch,), distance, dtype=torch.float64), nearest)


def _score(pixels: Tensor) -> Tensor:
    """The score of one image of :func:`status_world`, in plain words."""
    a, b, c, _ = pixels
    if b > 0.95:  # The gradient is 0 times infinity.
        return -1 - (0 * a).sqrt()
    if b > 0.8:  # The gradient is zero.
        return -1 + 0 * a
    if b < 0.2:  # No pixel can be as bright as this asks for.
        return a - 1.2
    return a - 0.6 + (c - 0.5)


STATUS_IMAGES = {
    "FLIPPED": (0.5, 0.5, 0.5, 0.5),
    "ALREADY": (0.7, 0.5, 0.5, 0.3),
    "RECONSTRUCTION_FLIPS": (0.65, 0.5, 0.4, 0.5),
    "NO_DIRECTION": (0.5, 0.9, 0.5, 0.5),
    "NOT_FINITE": (0.5, 1.0, 0.5, 0.5),
    "NOT_FOUND": (0.5, 0.1, 0.5, 0.6),
    "FLIPPED too": (0.4, 0.6, 0.4, 0.7),
}


def status_models() -> tuple[Linear, TwoLogits]:
    """The pair of the first two of four pixels, and a classifier with a place for each status."""
    basis = torch.eye(4, dtype=torch.float64)[:2].reshape(2, 1, 2, 2)
    generator = Linear(basis, torch.full((1, 2, 2), 0.5, dtype=torch.float64))
    return generator, TwoLogits(lambda x: torch.stack([_score(p) for p in x.flatten(1)]))


def status_world(names: Sequence[str] = tuple(STATUS_IMAGES), detail: bool = True) -> Problem:
    """Images of four pixels, one for each status; without detail the last two pixels are lost."""
    x = torch.tensor([STATUS_IMAGES[n] for n in names], dtype=torch.float64).reshape(-1, 1, 2, 2)
    return Problem(*status_models(), Flip(torch.ones(len(x), dtype=torch.int64)), x, detail=detail)
