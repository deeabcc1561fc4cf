"""A counterfactual back on the grid of its source: what reading turns into X' again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cfgen.data.window import Plane

LEVELS = 255
MARGIN = 0.35  # grey levels that reading may be off, of the half that rounding forgives
ITERATIONS = 100


def put_back(
    plane: Plane,
    x: Tensor,
    x_cf: Tensor,
    fit: Callable[[Tensor], Tensor],
    store: Callable[[np.ndarray], np.ndarray],
    resolution: float,
) -> np.ndarray:
    """Find values v close to the source's with D(v) = X', where D is how a file is read.

        v = s + u,   u <- u + U(X' - D(s + u)),   U = C D^T R

    C and R are one over the column and row sums of D, so this is SIRT, with Nesterov's momentum,
    within the window and through the rounding of the file. What X' leaves alone keeps the source's
    values, bit by bit, and off the window too. Detail finer than X' stays: D does not see it. An
    image larger than its source cannot be reached in general; this is the closest that was seen.

    Args:
        plane: The source, (h, w) or (c, h, w).
        x: The image that was explained (C, H, W) in [0, 1], on the 8-bit grid.
        x_cf: X' of the same shape and grid; channels are averaged where D gives one.
        fit: D without the window: pads and resizes (c, h, w) to (1 or C, H, W), linearly.
        store: Rounds values to those that the file can hold.
        resolution: How far apart these are, as a share of the window.

    Returns:
        Values of the source's shape, float64, that ``store`` leaves alone.

    Reference:
        Gregor and Benson (2008), Computational Analysis and Improvement of SIRT.
    """
    kept = plane.values.reshape(-1, *plane.values.shape[-2:])
    inside = torch.from_numpy(plane.window.fraction(kept)).clamp(0, 1)
    read = fit(inside)
    x, wanted = (image.double().cpu() for image in (x, x_cf))
    if len(read) == 1:
        x, wanted = (image.mean(0, keepdim=True) for image in (x, wanted))

    def back(error: Tensor) -> Tensor:
        y = torch.zeros_like(inside, requires_grad=True)
        return torch.autograd.grad(fit(y), y, error)[0]

    rows, columns = fit(torch.ones_like(inside)), back(torch.ones_like(wanted))
    rows, columns = (1 / t.clamp(min=1e-9) * (t > 1e-9) for t in (rows, columns))

    def spread(error: Tensor) -> Tensor:
        return columns * back(rows * error)

    def within(change: Tensor) -> Tensor:
        return (inside + change).clamp(0, 1) - inside

    def grid(x: Tensor) -> Tensor:
        return (x * LEVELS).round() / LEVELS

    step = wanted - x
    reach = spread((step != 0).double()) > 0  # elsewhere the source is not touched
    near = fit(reach.double()) > 0
    faint = max(resolution / 2, 0.02 / LEVELS)  # no reason to leave the source's value
    margin = max(min(MARGIN / LEVELS, 0.45 / LEVELS - resolution / 2), 0)
    goal = (read + step).clamp(wanted - margin, wanted + margin).clamp(0, 1)
    goal = torch.where(near, goal, read)

    change = ahead = torch.zeros_like(inside)
    best, least = kept, float("inf")
    for i in range(ITERATIONS):
        moved = ahead.abs() > faint
        values = plane.window.values((inside + ahead).numpy())
        values = np.where(moved.numpy(), store(values), kept)
        seen = fit(torch.from_numpy(plane.window.fraction(values)).clamp(0, 1))
        error = float((seen - goal).square().sum())
        exact = bool((grid(seen) == grid(wanted)).all())
        if exact or error < least:
            best, least = values, error
        if exact:
            break
        before, change = change, within(ahead + reach * spread(goal - seen))
        ahead = within(change + i / (i + 3) * (change - before))
    return best.reshape(plane.values.shape)
