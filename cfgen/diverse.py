"""diverse(): several counterfactuals of each image, in directions at right angles to each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cfgen.directions import Confined, Direction
from cfgen.directions.confined import away_from
from cfgen.explain import explain
from cfgen.problem import Passes, Problem
from cfgen.result import Counterfactual, Status
from cfgen.searches.base import Search


def diverse(
    problem: Problem,
    direction: Direction | Sequence[Direction],
    k: int = 3,
    search: Search | None = None,
) -> list[Counterfactual]:
    """Explain each image k times, each time in a direction orthogonal to those before.

    The first is that of :func:`explain`; each other one is what the direction finds in the subspace
    that is left. What is orthogonal to the gradient has no slope
    at z: :class:`Gradient` gives one counterfactual and then NO_DIRECTION.

    Args:
        problem: Images, models and criterion.
        direction: Source of alpha; or k of them, one for each, as with different seeds.
        k: How many, at least 1.
        search: As in :func:`explain`.

    Returns:
        k results for the whole batch, each with a verdict and a cost of its own. Where no other
        way is found the status says so.

    Raises:
        ValueError: k is less than 1, or the directions are not k.

    Reference: Mothilal et al., Explaining Machine Learning Classifiers through Diverse
    Counterfactual Explanations (DiCE), 2020, arXiv:1905.07697; Rodriguez et al., Beyond Trivial
    Counterfactual Explanations with Diverse Valuable Explanations (DiVE), 2021, arXiv:2103.10226.
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    directions = [direction] * k if isinstance(direction, Direction) else list(direction)
    if len(directions) != k:
        raise ValueError(f"expected {k} directions, got {len(directions)}")
    found = [explain(problem, directions[0], search)]
    # Those that explain() hands to a direction: the rest has its answer without one.
    settled = (Status.ALREADY, Status.RECONSTRUCTION_FLIPS)
    rows = [i for i, status in enumerate(found[0].status) if status not in settled]
    for other in directions[1:]:
        again = problem.rows(slice(None))
        again.passes = Passes.zeros(len(problem))
        taken = torch.stack([cf.alpha[rows] for cf in found], 1)
        found.append(explain(again, Confined(other, lambda _, t=taken: away_from(t)), search))
    return found
