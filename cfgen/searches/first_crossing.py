"""The first crossing along a direction: a bracketing walk, then batched root-finding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cfgen.searches.base import Phi, Root, Search

BOUND, TINY = 1e6, 1e-12
BEND = 0.01
"""Share of the margin at 0 below which a crossing is near, and the margin about linear."""


def tame(margin: Tensor) -> Tensor:
    """Make margins finite and never about zero: the sign alone says flipped, and nan is not."""
    margin = margin.cpu().double().nan_to_num(nan=-1.0).clamp(-BOUND, BOUND)
    return torch.where(margin > 0, margin.clamp(min=TINY), margin.clamp(max=-TINY))


class FirstCrossing(Search):
    """Walk outwards until the margin turns positive, then shrink the bracket to ``tol``.

    The walk sees every crossing that stays flipped over one of its steps: at lam the step is
    ``max(first, ratio * lam)``, or shorter where the last two margins predict a crossing inside it.
    A line is drawn through their square roots, for where classifiers disagree a margin is flat.
    With a guess the walk is coarser: its first steps end at half the guess and at the guess. So
    what it sees before a guess are crossings that stay flipped over half the guess, and a guess
    within ``tol / 2`` costs three evaluations.
    The root is found by Chandrupatla's method on all samples at once, from such a line; where it
    would bisect such a line is taken too, as long as two steps take 30 % of the bracket away.

    Args:
        first: Shortest step of the walk, its resolution near 0.
        ratio: Step of the walk as a share of lam, its resolution far out.
        limit: End of the walk.
        tol: Width of the final bracket, relative to lam + first / 10.

    Raises:
        ValueError: A parameter is not positive and finite.

    Reference: Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a
    nonlinear function without using derivatives, 1997, doi:10.1016/s0965-9978(96)00051-8.
    """

    def __init__(
        self, first: float = 0.5, ratio: float = 0.5, limit: float = 64.0, tol: float = 5e-3
    ) -> None:
        for name, value in {"first": first, "ratio": ratio, "limit": limit, "tol": tol}.items():
            if not value > 0:
                raise ValueError(f"expected {name} > 0, got {value}")
            if value == math.inf:
                raise ValueError(f"expected a finite {name}, got {value}")
        self.first, self.ratio, self.limit, self.tol = first, ratio, limit, tol

    def __call__(self, phi: Phi, start: Tensor, guess: Tensor | None = None) -> Root:
        """Search along each direction; see :class:`Search`."""
        # The bookkeeping is in float64 on the CPU, where a short step never vanishes in a long lam,
        # and because a GPU may have no float64 (MPS).
        size, device, dtype = len(start), start.device, start.dtype
        lower = torch.zeros(size, dtype=torch.float64)
        upper = torch.full_like(lower, torch.nan)
        m_start = tame(start).abs()
        m_lower, m_upper = -m_start, torch.full_like(lower, torch.nan)
        past, m_past = lower.clone(), torch.full_like(lower, torch.nan)
        evals = torch.zeros(size, dtype=torch.int64)

        def evaluate(lam: Tensor, rows: Tensor) -> Tensor:
            evals[rows] += 1
            return tame(phi(lam.to(device, dtype), rows.to(device)))

        goal = torch.zeros_like(lower)
        if guess is not None:
            goal = guess.cpu().double().nan_to_num(0, 0, 0).clamp(0, self.limit)

        def bend(lam: Tensor, margin: Tensor, rows: Tensor) -> Tensor:
            least = BEND * m_start[rows]
            guessed = (lam == goal[rows]) & (margin.abs() < least)
            return torch.where(guessed, torch.inf, least)  # a good guess needs no curve

        rows = torch.arange(size)
        while len(rows):
            low, m_low = lower[rows], m_lower[rows]
            step = (self.ratio * low).clamp(min=self.first)
            # Many very short steps would creep; a single one may follow the guess.
            shortest = torch.where(low == goal[rows], 0, 0.05 * step)
            share = line(m_low, m_past[rows], bend(low, m_low, rows))
            predicted = 1.1 * share * (past[rows] - low)
            shorter = (predicted > shortest) & (predicted < step)
            predicted = torch.maximum(predicted, 0.99 * self._width(low))
            lam = low + torch.where(shorter, predicted, step)
            for stop in (goal[rows], goal[rows] / 2):
                lam = torch.where(low < stop, stop, lam)
            lam = lam.clamp(max=self.limit)
            margin = evaluate(lam, rows)
            hit = margin > 0
            upper[rows[hit]], m_upper[rows[hit]] = lam[hit], margin[hit]
            rest = rows[~hit]
            past[rest], m_past[rest] = lower[rest], m_lower[rest]
            lower[rest], m_lower[rest] = lam[~hit], margin[~hit]
            rows = rest[lam[~hit] < self.limit]

        found = upper.isfinite()
        if found.any():
            wide = found & (upper - lower > self._width(lower))
            ends, margins = (lower, upper), (m_lower, m_upper)
            self._shrink(evaluate, wide.nonzero()[:, 0], ends, margins, bend)
        lam, lam_lower = (end.to(device, dtype) for end in (upper, lower))
        return Root(lam, lam_lower, found.to(device), evals)

    def _shrink(
        self, evaluate: Phi, rows: Tensor, ends: tuple, margins: tuple, bend: Callable
    ) -> None:
        """Narrow the brackets ``ends`` of the samples ``rows`` in place, by root-finding."""
        (lower, upper), (m_lower, m_upper) = ends, margins
        # The newest step, the other end of the bracket, and the step before: x1, x2, x3.
        x1, f1, x2, f2 = (t[rows] for t in (upper, m_upper, lower, m_lower))
        share = line(f1, f2, bend(x1, f1, rows))
        before = torch.full_like(x1, torch.inf)
        while len(rows):
            # What is estimated next to an end is looked for just beyond, which closes the bracket.
            least = 0.99 * self._width(torch.minimum(x1, x2)) / (x2 - x1).abs()
            earlier, before = before, (x2 - x1).abs()
            x = x1 + share.clamp(least, 1 - least) * (x2 - x1)
            f = evaluate(x, rows)
            same = (f > 0) == (f1 > 0)
            x3, f3 = torch.where(same, x1, x2), torch.where(same, f1, f2)
            x2, f2 = torch.where(same, x2, x1), torch.where(same, f2, f1)
            x1, f1 = x, f
            # Inverse quadratic interpolation where it is monotone, else a line or bisection.
            xi, eta = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
            quadratic = f1 / (f2 - f1) * f3 / (f2 - f3)
            quadratic += (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
            smooth = (eta.square() < xi) & ((1 - eta).square() < 1 - xi)
            # A margin of about zero tells nothing of how far the crossing is.
            slow = ((x2 - x1).abs() > 0.7 * earlier) | (torch.minimum(f1.abs(), f2.abs()) <= TINY)
            share = torch.where(slow, 0.5, line(f1, f2, bend(x1, f1, rows)))
            share = torch.where(smooth, quadratic, share)
            flipped = f1 > 0
            lower[rows], upper[rows] = torch.where(flipped, x2, x1), torch.where(flipped, x1, x2)
            wide = upper[rows] - lower[rows] > self._width(lower[rows])
            rows, x1, f1, x2, f2, share, before = (
                t[wide] for t in (rows, x1, f1, x2, f2, share, before)
            )

    def _width(self, lam: Tensor) -> Tensor:
        """The width of a bracket from ``lam`` (n,) on that is narrow enough, above rounding."""
        return max(self.tol, 1e-14) * (lam + self.first / 10)


def line(f1: Tensor, f2: Tensor, bend: Tensor) -> Tensor:
    """Where the line through the square roots of f1 at 0 and f2 at 1 is zero.

    Far below bend a root is as the margin itself; with an infinite bend this is the secant.
    """
    r1, r2 = (f / (f.abs() / bend + 1).sqrt() for f in (f1, f2))
    return r1 / (r1 - r2)
