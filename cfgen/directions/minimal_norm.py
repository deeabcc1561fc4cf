"""The chord to the nearest point of the decision boundary in latent space."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.problem import Problem, unit

START = 0.5
"""The first step of the climb, as a share of the step to the tangent plane's zero."""

CLIMB, TURN = 0.05, 0.15
"""How far ahead a crossing may lie, as a share of the ray, for the tangent plane to tell it: where
classifiers disagree the margin is flat, and a crossing told from afar is seldom one. A turn is told
more, for the next one may mend it.
"""

BACK = 0.2
"""How far back it may lie: a step that has flipped tells more than one that may never."""

MEMORY = 3
"""Rays before the last one that a turn learns from."""

PATIENCE = 6
"""Turns in a row that bring a sample no nearer, after which it stops."""

SHORTER = 1.5
"""A ray that the turns made so many times shorter was not where the nearest crossing is."""


class Spheres(NamedTuple):
    """Spheres of a look.

    Attributes:
        reach: Radius of the first, in crossings told before.
        number: How many, a gradient each.
        share: By how much each differs from the last.
    """

    reach: float
    number: int
    share: float


NEAR, WIDE = Spheres(1, 30, 0.04), Spheres(8, 40, 0.1)


class MinimalNorm(Direction):
    """Direction of the smallest step that flips: the ray that meets the boundary at a right angle.

    First climb: DeepFool's step -m / |g| along the normal n = g / |g|, inside a trust region that
    grows where the tangent plane of the margin predicts the gain and shrinks where it does not, or
    where a step has flipped far beyond the boundary.
    Then turn: on the boundary, where a ray v crosses at length c, the tangent plane is nearest to
    z along n, so the ray turns there, or where :func:`mix` sees the normals lead. The fixed point
    n = v is the condition for a minimum of the norm. A boundary can have several of them, and a ray
    may not cross where the tangent plane tells: a sample that took long, or whose ray the turns
    made much shorter, looks twice more, as DDN does, on a sphere that shrinks where it has flipped
    and grows where it has not. The first look begins about as far as the crossing found so far,
    the second far out, where the margin tells of other sides than at z. The nearest crossing is
    handed over.

    Args:
        steps: Largest number of gradients to climb and turn by.
        parallel: Cosine between ray and normal at the boundary at which a sample stops; to turn
            further shortens the step by 1 - parallel at most if the boundary is a plane.
        look: Gradients of climb and turns from which on a sample looks twice more, by 70 further
            ones, as one does whose ray the turns made ``SHORTER`` times shorter; 0 for every
            sample, which costs most and finds the smallest steps, inf for none.

    Reference: Moosavi-Dezfooli et al., DeepFool, 2016, arXiv:1511.04599; Abdolahpourrostam et al.,
    SuperDeepFool, 2023, arXiv:2303.12481; Rackwitz & Fiessler, Structural reliability under
    combined random load sequences, 1978, doi:10.1016/0045-7949(78)90046-9; Walker & Ni, Anderson
    acceleration for fixed-point iterations, 2011, doi:10.1137/10078356X; Rony et al., Decoupling
    Direction and Norm, 2019, arXiv:1811.09600.
    """

    def __init__(self, steps: int = 36, parallel: float = 0.98, look: float = 8) -> None:
        self.steps, self.parallel, self.look = steps, parallel, look

    def __call__(self, problem: Problem) -> Tensor:
        """Return unit directions (B, *L)."""
        return self.aim(problem)[0]

    def aim(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return unit directions (B, *L), and where each crosses (B,); inf for not yet."""
        left = torch.full_like(problem.z.flatten(1)[:, 0], self.steps)
        v, n, c = self._climb(problem, left)
        first = c.clone()
        self._turn(problem, v, n, c, left)
        told, taken = c.clone(), self.steps - left
        doubtful = (taken >= self.look) | (first > SHORTER * told) & math.isfinite(self.look)
        rows = (told.isfinite() & doubtful).nonzero()[:, 0]
        if len(rows):
            # What was told is a crossing only if it has flipped a little further out.
            beyond = problem.z[rows] + scale((1 + NEAR.share) * told[rows], v[rows])
            c[rows] = torch.where(problem.margin(beyond, rows) > 0, told[rows], torch.inf)
            for spheres in (NEAR, WIDE):
                v[rows], c[rows] = look(problem, v[rows], c[rows], told[rows], rows, spheres)
        return v, c

    def _climb(self, problem: Problem, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rays v to the highest point of a climb from z, normals n there, crossings c.

        Changes the gradients that are left, in place.
        """
        d = torch.zeros_like(problem.z)
        m, g = problem.grad(problem.z)
        left -= 1
        n = unit(g)
        v, c = n.clone(), torch.full_like(m, torch.inf)
        beyond, end = v.clone(), c.clone()
        radius = -m / norm(g) * START
        rows = ((m <= 0) & n.flatten(1).any(1)).nonzero()[:, 0]
        while len(rows := rows[left[rows] > 0]):
            size = norm(g[rows])
            step = torch.minimum(-m[rows] / size, radius[rows])
            new = d[rows] + scale(step, n[rows])
            height, slope = problem.grad(problem.z[rows] + new, rows)
            left[rows] -= 1
            ray, t = unit(new), norm(new)
            told = crossing(height, slope, ray, t, CLIMB)
            # Farther back than the plane tells another side of the boundary may be nearer.
            passed = (height > 0) & (height >= BACK * t * dot(slope, ray)) & (step > BACK * t)
            beyond[rows[passed]], end[rows[passed]] = ray[passed], t[passed]
            gain = (height - m[rows]) / (step * size)
            up = (gain > 0) & unit(slope).flatten(1).any(1) & ~passed
            radius[rows] = step * torch.where(up & (gain > 0.25), 1 + (gain > 0.75).to(step), 0.5)
            higher = rows[up]
            d[higher], m[higher], g[higher] = new[up], height[up], slope[up]
            v[higher], n[higher], c[higher] = ray[up], unit(slope[up]), told[up]
            rows = rows[c[rows].isinf()]
        lost = c.isinf() & end.isfinite()  # up another hill
        v[lost], n[lost], c[lost] = beyond[lost], beyond[lost], end[lost]
        return v, n, c

    def _turn(self, problem: Problem, v: Tensor, n: Tensor, c: Tensor, left: Tensor) -> None:
        """Turn the rays v that cross at lengths c towards the normals n there, all in place."""
        rays, normals, idle = [v.clone()], [n.clone()], torch.zeros_like(c)
        while True:
            going = c.isfinite() & (dot(n, v) < self.parallel) & (left > 0) & (idle < PATIENCE)
            rows = going.nonzero()[:, 0]
            if not len(rows):
                return
            ray = unit(mix(*([t[rows] for t in ts[-1 - MEMORY :]] for ts in (rays, normals))))
            # The tangent plane at the nearest crossing tells the new one.
            length = c[rows]
            t = length * dot(n[rows], v[rows]) / dot(n[rows], ray)
            t = t.clamp(length / 2, length)
            m, g = problem.grad(problem.z[rows] + scale(t, ray), rows)
            left[rows] -= 1
            for ts, new in ((rays, ray), (normals, unit(g))):
                ts.append(ts[-1].index_copy(0, rows, new))
            at = crossing(m, g, ray, t, TURN)
            nearer = at < length
            closer = rows[nearer]
            v[closer], n[closer], c[closer] = ray[nearer], unit(g)[nearer], at[nearer]
            idle[rows] = torch.where(nearer, 0, idle[rows] + 1)


def look(
    problem: Problem, v: Tensor, c: Tensor, told: Tensor, rows: Tensor, spheres: Spheres
) -> tuple[Tensor, Tensor]:
    """The rays v of the samples ``rows`` that cross at c, or nearer ones by spheres around z.

    Args:
        problem: Of all samples.
        v: Unit rays (n, *L).
        c: Where they are known to cross (n,), inf for nowhere.
        told: The length of which ``spheres.reach`` is a multiple (n,).
        rows: Which samples they belong to (n,) int64.
        spheres: How they go on.
    """
    reach = spheres.reach * told
    z, d, radius = problem.z[rows], torch.zeros_like(v), reach
    v, nearest = v.clone(), c.clone()
    for i in range(spheres.number):
        m, g = problem.grad(z + d, rows)
        size = norm(d)
        nearer = (m > 0) & (size < nearest)
        v[nearer], nearest[nearer] = unit(d[nearer]), size[nearer]
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * i / spheres.number)) / 2  # DDN's schedule
        # A larger sphere shows nothing nearer.
        smaller = (m > 0) | (size == 0) | (size > nearest)
        radius = radius * torch.where(smaller, 1 - spheres.share, 1 + spheres.share)
        d = scale(radius, unit(d + scale(rate * reach, unit(g))))
    return v, nearest


def mix(rays: list[Tensor], normals: list[Tensor]) -> Tensor:
    """The affine mix of normals (n, *L) to which their rays, mixed alike, come nearest (n, *L).

    This is Anderson's acceleration of the fixed point normal = ray, oldest first. The weights are
    held in [-1, 1], for the normals are linear in the rays only near the fixed point.
    """
    last = normals[-1]
    gaps = torch.stack([n - v for n, v in zip(normals, rays, strict=True)]).flatten(2)
    steps = gaps[-1] - gaps[:-1]
    gram = torch.einsum("ird,jrd->rij", steps, steps)
    ridge = 1e-4 * gram.diagonal(dim1=1, dim2=2).sum(1) + 1e-12
    gram = gram + ridge.view(-1, 1, 1) * torch.eye(len(steps)).to(gram)
    right = torch.einsum("ird,rd->ri", steps, gaps[-1])
    weights = torch.linalg.solve(gram, right).clamp(-1, 1)
    return last - sum(scale(w, last - n) for w, n in zip(weights.T, normals[:-1], strict=True))


def crossing(m: Tensor, g: Tensor, v: Tensor, t: Tensor, trust: float) -> Tensor:
    """Where rays v (n, *L) cross the boundary, by margins m and gradients g at lengths t (n,).

    The tangent plane is trusted near the boundary only, a share ``BACK`` of t back and ``trust``
    ahead; elsewhere a ray that has flipped at t crosses at t at the latest, and one that has
    not may never: inf.
    """
    slope = dot(g, v)
    change = torch.where(slope > 0, -m / slope, torch.inf)
    otherwise = torch.where(m > 0, t, torch.inf)
    return torch.where(change.abs() < torch.where(m > 0, BACK, trust) * t, t + change, otherwise)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (n,) of the rows of a and b (n, *L)."""
    return (a * b).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Euclidean norms (n,) of the rows of a (n, *L)."""
    return a.flatten(1).norm(dim=1)


def scale(a: Tensor, b: Tensor) -> Tensor:
    """Rows of b (n, *L), each times its number in a (n,)."""
    return a.view(-1, *[1] * (b.ndim - 1)) * b
