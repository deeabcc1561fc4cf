"""The counterfactual problem: where E, G and f meet. The formula stands here, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, fields

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from cfgen.classifiers.check import check_models
from cfgen.criterion import Criterion
from cfgen.generators.base import Generator

LEVELS = 255
BLOCK = 4
"""Rows of a pass that makes what is handed over. On a CPU a row of four takes 0.6 of the time of a
row alone, and a row alone waits for four. Rows that only fill a block are not counted as passes."""

View = Callable[[Tensor], Tensor]
"""Images (n, C, H, W) in [0, 1] to such images."""


@dataclass
class Passes:
    """Passes of each sample through the models, as int64 tensors (B,).

    Attributes:
        encode: Passes through E.
        forward: Forward passes, each one classification by f behind at most one decode by G.
        backward: Backward passes, each through f and G.
    """

    encode: Tensor
    forward: Tensor
    backward: Tensor

    @classmethod
    def zeros(cls, size: int) -> Passes:
        """No passes yet for ``size`` samples."""
        return cls(*(torch.zeros(size, dtype=torch.int64) for _ in fields(cls)))

    def __getitem__(self, index: Tensor | slice) -> Passes:
        """A copy of the passes of some samples."""
        index = index.cpu() if isinstance(index, Tensor) else index
        return Passes(*(getattr(self, f.name)[index].clone() for f in fields(self)))

    def __setitem__(self, index: Tensor, passes: Passes) -> None:
        """Set the passes of some samples."""
        for f in fields(self):
            getattr(self, f.name)[index.cpu()] = getattr(passes, f.name)


class Problem:
    """Find the smallest step in latent space that meets the criterion, for a batch of images.

        z = E(x)        X' = S G(z + lam * alpha) + r        r = x - S G(z)

    S is a Gaussian of the pair's sigma: what is finer, the image keeps. Without detail S is the
    identity and r is 0.

    Args:
        generator: The pair E, G.
        classifier: f, images (B, C, H, W) in [0, 1] to logits (B, K).
        criterion: Logits to a signed margin (B,).
        x: Images (B, C, H, W) in [0, 1], float32 or float64 as the weights of the models.
        detail: Keep what the pair cannot reconstruct, by adding r, and what is finer than sigma.
        region: Where the image may change (B, 1, H, W) in [0, 1]: X' moves from x to S G(z') + r
            by this share. None for everywhere; 1 - mask for "not here".
        levels: Grid of the images that are handed over, 255 for 8 bit; None for no rounding.
        autocast: Context manager for the passes of the direction, for mixed precision. The search
            and the verdict always run in the precision of the weights.

    Attributes:
        x: The images on the grid (B, C, H, W).
        x_rec: G(z), clamped, on the grid (B, C, H, W).
        start: The image at step 0: x, or without detail the reconstruction (in the region).
        z: Latents (B, *L).
        passes: Cost so far, for each sample.
        not_finite: Which samples had a margin or a gradient that is not finite (B,) bool.

    Raises:
        ValueError: x is not a batch of images in [0, 1], or criterion and models do not fit it.
    """

    def __init__(
        self,
        generator: Generator,
        classifier: Callable[[Tensor], Tensor],
        criterion: Criterion,
        x: Tensor,
        *,
        detail: bool = True,
        region: Tensor | None = None,
        levels: int | None = LEVELS,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        if x.ndim != 4:
            raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(x.shape)}")
        check_models(x, classifier=classifier, generator=generator)
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"expected finite images in [0, 1], got [{x.min():g}, {x.max():g}]")
        if levels is not None and levels < 1:
            raise ValueError(f"expected levels of at least 1, got {levels}")
        if criterion.target.shape != (len(x),):
            raise ValueError(
                f"expected target of shape ({len(x)},), got {tuple(criterion.target.shape)}"
            )
        fits = (len(x), 1, *x.shape[2:])
        self.region = None if region is None else region.to(x)
        if region is not None and (
            region.shape != fits or not bool(((region >= 0) & (region <= 1)).all())
        ):
            low, high = (float(t) for t in region.aminmax()) if region.numel() else (0, 0)
            raise ValueError(
                f"expected a region of shape {fits} in [0, 1], got {tuple(region.shape)} in "
                f"[{low:g}, {high:g}]"
            )
        self.generator, self.classifier, self.criterion = generator, classifier, criterion
        self.detail, self.levels, self.autocast = detail, levels, autocast
        self.x = self.to_grid(x.detach())
        self.passes = Passes.zeros(len(x))
        self.not_finite = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with torch.no_grad():
            self.z = in_blocks(generator.encode, self.x)
            rec = in_blocks(generator.decode, self.z)
        if rec.shape != x.shape:
            raise ValueError(
                f"expected a reconstruction of shape {tuple(x.shape)}, got {tuple(rec.shape)}"
            )
        self.passes.encode += 1
        self.x_rec = self.to_grid(rec.clamp(0, 1))
        self.r = self.x - in_blocks(self.smooth, rec) if detail else torch.zeros_like(rec)
        self.start = self.x if detail else self.to_grid(self.compose(rec).clamp(0, 1))

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.x)

    def rows(self, index: Tensor | slice) -> Problem:
        """The problem of some samples of the batch, with passes and marks of its own."""
        part = copy(self)
        part.x, part.x_rec, part.start, part.z, part.r = (
            t[index] for t in (self.x, self.x_rec, self.start, self.z, self.r)
        )
        part.region = None if self.region is None else self.region[index]
        part.criterion = self.criterion.rows(torch.arange(len(self), device=self.x.device)[index])
        part.passes = self.passes[index]
        part.not_finite = torch.zeros_like(self.not_finite[index])
        return part

    def to_grid(self, x: Tensor) -> Tensor:
        """Round images to the grid of the file that is handed over."""
        return x if self.levels is None else (x * self.levels).round() / self.levels

    def smooth(self, rec: Tensor) -> Tensor:
        """S of decoded images (n, C, H, W): without what is finer than the pair's sigma."""
        sigma = self.generator.sigma if self.detail else 0.0
        if sigma == 0:
            return rec
        side = 2 * math.ceil(3 * sigma) + 1
        return gaussian_blur2d(rec, (side, side), (sigma, sigma))

    def compose(self, rec: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Add the detail to S G(z), rec (n, C, H, W); outside the region stays x."""
        x = rec + self.r[rows]
        return x if self.region is None else torch.lerp(self.x[rows], x, self.region[rows])

    def decode(self, z: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The image of z, clamped to [0, 1] but not rounded: differentiable in z (n, *L)."""
        x = self.compose(self.smooth(self.generator.decode(z)), rows)
        # A pixel on the edge of the range, as black background is, keeps its gradient, whatever the
        # last bits of G (they depend on the batch) and the gradient of torch's clamp there.
        outside = (x < -1e-5) | (x > 1 + 1e-5)
        return x.clamp(0, 1).detach() + torch.where(outside, 0, x - x.detach())

    def latent(self, alpha: Tensor, lam: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The latents z + lam * alpha of ``rows``, for directions (n, *L) and steps (n,)."""
        return self.z[rows] + lam.to(alpha).view(-1, *[1] * (alpha.ndim - 1)) * alpha

    @torch.no_grad()
    def image(self, alpha: Tensor, lam: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """X' as it is handed over: clamped and on the grid.

        Args:
            alpha: Directions (n, *L).
            lam: Steps (n,); nan gives the image at 0.
            rows: Which samples they belong to.

        Returns:
            Images (n, C, H, W) in [0, 1].
        """
        z = self.latent(alpha, lam.nan_to_num(), rows)
        rec = in_blocks(lambda block: self.smooth(self.generator.decode(block)), z)
        return self.to_grid(self.compose(rec, rows).clamp(0, 1))

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """The logits f(x) (B, K) of images (B, C, H, W)."""
        return in_blocks(self.classifier, x)

    def count(self, kind: str, rows: Tensor | None = None) -> None:
        """Add one pass of the given kind to the samples ``rows``, or to all."""
        getattr(self.passes, kind)[slice(None) if rows is None else rows.cpu()] += 1

    def finite(self, numbers: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Which rows of ``numbers`` (n, ...) are finite (n,) bool; marks the samples of others."""
        fine = numbers[:, None].isfinite().flatten(1).all(1)
        self.not_finite[torch.arange(len(self), device=fine.device)[rows][~fine]] = True
        return fine

    @torch.no_grad()
    def margin(self, z: Tensor, rows: Tensor) -> Tensor:
        """Margins (n,) at latents z (n, *L) of the samples ``rows``, by one forward pass."""
        self.count("forward", rows)
        with self.autocast():
            margin = self.criterion.rows(rows)(self.classifier(self.decode(z, rows)).to(z.dtype))
        self.finite(margin, rows)
        return margin

    def grad(
        self, z: Tensor, rows: Tensor | None = None, view: View | None = None
    ) -> tuple[Tensor, Tensor]:
        """Margin and its gradient at latents z, by one forward and one backward pass.

        A criterion that compares X' with x sees x in the same view, by one forward pass more.

        Args:
            z: Latents (n, *L).
            rows: Which samples they belong to (n,) int64; None for all.
            view: What f sees of the images, turned or brighter for instance; None for themselves.

        Returns:
            Margins (n,) and gradients (n, *L) in the type of z; zero for one that is not finite.
        """
        index = slice(None) if rows is None else rows
        criterion = self.criterion if rows is None else self.criterion.rows(rows)
        if view is not None:

            def before() -> Tensor:
                self.count("forward", rows)
                with torch.no_grad(), self.autocast():
                    return self.classifier(view(self.x[index])).to(z.dtype)

            criterion = criterion.since(before)
        with torch.enable_grad(), self.autocast():
            z = z.detach().requires_grad_(True)
            x = self.decode(z, index)
            margin = criterion(self.classifier(view(x) if view else x).to(z.dtype))
            (gradient,) = torch.autograd.grad(margin.sum(), z)
        self.count("forward", rows)
        self.count("backward", rows)
        self.finite(margin, index)
        fine = self.finite(gradient, index).view(-1, *[1] * (gradient.ndim - 1))
        return margin.detach(), torch.where(fine, gradient, 0)

    def along(self, alpha: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The margin along a direction, all that a search may see.

        Args:
            alpha: Directions (B, *L).

        Returns:
            phi: ``phi(lam (n,), rows (n,)) -> margin (n,)`` of the rounded image of the samples
            ``rows`` at the steps ``lam``.
        """

        @torch.no_grad()
        def phi(lam: Tensor, rows: Tensor) -> Tensor:
            z = self.latent(alpha[rows], lam, rows)
            x = self.to_grid(self.decode(z, rows))
            self.count("forward", rows)
            margin = self.criterion.rows(rows)(self.classifier(x))
            self.finite(margin, rows)
            return margin

        return phi


def in_blocks(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply f to x (B, ...) in blocks of ``BLOCK`` rows, the last filled up by its last: (B, ...).

    The last bits of a convolution can depend on the size of the batch. What is handed over must
    not, so that a saved case replays exactly and two processes write the same rows as one.
    """
    filled = torch.arange(-(-len(x) // BLOCK) * BLOCK, device=x.device).clamp(max=len(x) - 1)
    return torch.cat([f(block) for block in x[filled].split(BLOCK)])[: len(x)]


def unit(v: Tensor) -> Tensor:
    """Scale each row of v (B, *L) to Euclidean norm 1; a zero or non-finite row becomes zero."""
    flat = v.flatten(1)
    # Divide by the largest entry first: the square of a tiny gradient underflows.
    flat = flat / flat.abs().amax(1, keepdim=True)
    flat = flat / flat.norm(dim=1, keepdim=True)
    return torch.where(flat.isfinite().all(1, keepdim=True), flat, 0).view_as(v)
