"""explain(): encode, direction, search, verify, for one batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

from cfgen.directions.base import Direction
from cfgen.directions.minimal_norm import MinimalNorm
from cfgen.problem import Problem
from cfgen.result import Counterfactual, Status
from cfgen.searches.base import Search
from cfgen.searches.first_crossing import FirstCrossing

ATTEMPTS = 4
"""Images made at most for one sample, each a little further, until one is seen to flip."""
LAST_BITS = 100
"""A flip has a margin of more than so many rounding errors of the margin before, in f's precision
(single for half): within them the size of the batch decides."""


def likely_other(logits: Tensor, source: Tensor | None = None) -> Tensor:
    """The most likely class other than ``source``, or than the prediction: (B,) int64.

    Args:
        logits: Logits (B, K).
        source: Class of each sample (B,) int64; None for the predicted class.
    """
    source = logits.argmax(1) if source is None else source
    return logits.scatter(1, source[:, None], -torch.inf).argmax(1)


def explain(
    problem: Problem,
    direction: Direction | None = None,
    search: Search | None = None,
) -> Counterfactual:
    """Find the smallest step along a direction that meets the criterion, for each image.

    Args:
        problem: Images, models and criterion.
        direction: Source of alpha; :class:`MinimalNorm` if None.
        search: How lam is found; :class:`FirstCrossing` if None.

    Returns:
        The counterfactuals of the batch. Each status comes from classifying the very image that is
        handed over.
    """
    direction = MinimalNorm() if direction is None else direction
    search = FirstCrossing() if search is None else search
    logits_before = problem.logits(problem.x)
    problem.count("forward")
    margin = problem.criterion(logits_before)
    lost = ~margin.isfinite()
    already = ~lost & (margin > 0)
    error = min(torch.finfo(dtype).eps for dtype in (margin.dtype, torch.float32))
    least = LAST_BITS * error * margin.nan_to_num(0, 0, 0).abs()
    if not problem.detail:
        # With detail the image at step 0 is x itself; without, the reconstruction.
        margin = problem.criterion(problem.logits(problem.start))
        problem.count("forward")
        lost |= ~already & ~margin.isfinite()
    reconstruction = ~already & ~lost & (margin > least)

    alpha = torch.zeros_like(problem.z)
    lam = torch.full_like(problem.z.flatten(1)[:, 0], torch.nan)
    lower, guess = torch.zeros_like(lam), lam.clone()
    lam[reconstruction] = 0
    todo = (~already & ~reconstruction).nonzero()[:, 0]
    if len(todo):
        part = problem.rows(todo)
        alpha[todo], guess[todo] = direction.aim(part)
        problem.passes[todo] = part.passes
        lost[todo] |= part.not_finite & ~alpha[todo].flatten(1).any(1)
    moving = (alpha.flatten(1).any(1) & ~lost).nonzero()[:, 0]
    if len(moving):
        part = problem.rows(moving)
        root = search(part.along(alpha[moving]), margin[moving], guess[moving])
        lam[moving], lower[moving] = root.lam, root.lower
        problem.passes[moving] = part.passes
        lost[moving] = part.not_finite

    x_cf, logits_after, flips = _verify(problem, logits_before, least, alpha, lam, lower, lost)
    lam[~flips] = torch.nan
    lam[already] = 0
    status = [Status.NOT_FOUND] * len(problem)
    for mask, value in (
        (~alpha.flatten(1).any(1), Status.NO_DIRECTION),
        (lost, Status.NOT_FINITE),
        (flips, Status.FLIPPED),
        (reconstruction & flips, Status.RECONSTRUCTION_FLIPS),
        (already, Status.ALREADY),
    ):
        status = [value if met else old for met, old in zip(mask.tolist(), status, strict=True)]
    return Counterfactual(
        x=problem.x,
        x_rec=problem.x_rec,
        x_cf=x_cf,
        z=problem.z,
        alpha=alpha,
        lam=lam,
        lam_lower=lower,
        target=problem.criterion.target,
        logits_before=problem.criterion.classes(logits_before),
        logits_after=problem.criterion.classes(logits_after),
        status=tuple(status),
        passes=problem.passes[slice(None)],
        problem=problem,
    )


def _verify(
    problem: Problem,
    before: Tensor,
    least: Tensor,
    alpha: Tensor,
    lam: Tensor,
    lower: Tensor,
    lost: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make and classify the images at the finite steps; elsewhere, or in vain, x stays.

    The last bits of a model depend on the batch: a margin close to 0 that the search saw may be
    negative where the image is made, or where it is read again by itself. Where it is not above
    ``least`` lam moves on by the width of its bracket, and so does lower, but for a lam that flips
    by a hair; both change in place. So does ``lost``, where a margin is not finite: that is no
    flip, whatever its sign.

    Returns:
        Images (B, C, H, W), their logits (B, K), and whether a flip was seen (B,) bool.
    """
    x_cf, logits = problem.x.clone(), before.clone()
    rows = lam.isfinite().nonzero()[:, 0]
    flips = torch.zeros_like(lam, dtype=torch.bool)
    for _ in range(ATTEMPTS):
        if not len(rows):
            break
        part = problem.rows(rows)
        image = part.image(alpha[rows], lam[rows])
        after = part.logits(image)
        problem.count("forward", rows)
        margin = part.criterion(after)
        fine = margin.isfinite()
        lost[rows[~fine]] = True
        met = fine & (margin > least[rows])
        x_cf[rows[met]], logits[rows[met]], flips[rows[met]] = image[met], after[met], True
        rows, margin = rows[~met], margin[~met]
        further = 2 * lam[rows] - lower[rows]
        lower[rows] = torch.where(margin > 0, lower[rows], lam[rows])
        lam[rows] = further
    return x_cf, logits, flips
