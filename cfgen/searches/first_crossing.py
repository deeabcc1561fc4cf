"""The first crossing along a direction: a bracketing walk, then batched root-finding."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize.elementwise import find_root
from torch import Tensor

from cfgen.searches.base import Phi, Root, Search

BOUND, TINY = 1e6, 1e-12


def tame(margin: Tensor) -> Tensor:
    """Make margins finite and never about zero: the sign alone says flipped, and nan is not."""
    margin = margin.cpu().double().nan_to_num(nan=-1.0).clamp(-BOUND, BOUND)
    return torch.where(margin > 0, margin.clamp(min=TINY), margin.clamp(max=-TINY))


class FirstCrossing(Search):
    """Walk outwards until the margin turns positive, then shrink the bracket to ``tol``.

    The walk sees every crossing that stays flipped over one of its steps: at lam the step is
    ``max(first, ratio * lam)``, or shorter where the last two margins predict a crossing inside it.
    The root is found by Chandrupatla's method on all samples at once.

    Args:
        first: Shortest step of the walk, its resolution near 0.
        ratio: Step of the walk as a share of lam, its resolution far out.
        limit: End of the walk.
        tol: Width of the final bracket, relative to lam + first / 10.

    Raises:
        ValueError: A parameter is not positive.

    Reference: Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a
    nonlinear function without using derivatives, 1997, doi:10.1016/s0965-9978(96)00051-8.
    """

    def __init__(
        self, first: float = 0.5, ratio: float = 0.5, limit: float = 64.0, tol: float = 5e-3
    ) -> None:
        for name, value in {"first": first, "ratio": ratio, "limit": limit, "tol": tol}.items():
            if not value > 0:
                raise ValueError(f"expected {name} > 0, got {value}")
        self.first, self.ratio, self.limit, self.tol = first, ratio, limit, tol

    def __call__(self, phi: Phi, start: Tensor) -> Root:
        """Search along each direction; see :class:`Search`."""
        # The bookkeeping is in float64 on the CPU, where a short step never vanishes in a long lam,
        # and because a GPU may have no float64 (MPS).
        size, device, dtype = len(start), start.device, start.dtype
        lower = torch.zeros(size, dtype=torch.float64)
        upper = torch.full_like(lower, torch.nan)
        m_lower, m_upper = tame(start), torch.full_like(lower, torch.nan)
        slope = torch.zeros_like(lower)
        evals = torch.zeros(size, dtype=torch.int64)

        def evaluate(lam: Tensor, rows: Tensor) -> Tensor:
            evals[rows] += 1
            return tame(phi(lam.to(device, dtype), rows.to(device)))

        rows = torch.arange(size)
        while len(rows):
            low, m_low = lower[rows], m_lower[rows]
            step = (self.ratio * low).clamp(min=self.first)
            predicted = 1.1 * -m_low / slope[rows]
            shorter = (predicted > 0.05 * step) & (predicted < step)
            lam = (low + torch.where(shorter, predicted, step)).clamp(max=self.limit)
            margin = evaluate(lam, rows)
            hit = margin > 0
            upper[rows[hit]], m_upper[rows[hit]] = lam[hit], margin[hit]
            rest = rows[~hit]
            slope[rest] = ((margin - m_low) / (lam - low))[~hit]
            lower[rest], m_lower[rest] = lam[~hit], margin[~hit]
            rows = rest[lam[~hit] < self.limit]

        found = upper.isfinite()
        if found.any():
            self._shrink(evaluate, found.nonzero()[:, 0], (lower, upper), (m_lower, m_upper))
        lam, lam_lower = (end.to(device, dtype) for end in (upper, lower))
        return Root(lam, lam_lower, found.to(device), evals)

    def _shrink(self, evaluate: Phi, rows: Tensor, ends: tuple, margins: tuple) -> None:
        """Narrow the brackets ``ends`` of the samples ``rows`` in place, by root-finding."""
        (lower, upper), (m_lower, m_upper) = ends, margins

        def f(lam: np.ndarray, row: np.ndarray) -> np.ndarray:
            x, i = torch.as_tensor(lam), torch.as_tensor(row)
            # The ends were paid for by the walk; a step that lies on one is looked up.
            value = torch.where(x == lower[i], m_lower[i], m_upper[i])
            new = (x != lower[i]) & (x != upper[i])
            if new.any():
                value[new] = evaluate(x[new], i[new])
            return value.numpy()

        result = find_root(
            f,
            (lower[rows].numpy(), upper[rows].numpy()),
            args=(rows.numpy(),),
            tolerances={"xatol": self.tol * self.first / 10, "xrtol": self.tol},
        )
        left, right = (torch.as_tensor(end) for end in result.bracket)
        flipped = torch.as_tensor(result.f_bracket[0]) > 0
        lower[rows] = torch.where(flipped, right, left)
        upper[rows] = torch.where(flipped, left, right)
